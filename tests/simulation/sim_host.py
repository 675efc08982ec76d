"""A silo whose every part is the real one but its rows, over a simulated disk and clock."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import clinic
from sim_tiny import REPORT

from consilo.horizontal.holdout import PURPOSE
from consilo.record.chain import Chain, in_utc
from silos.gate.guard import Guard
from silos.gate.history import History
from silos.gate.identity import Identity
from silos.gate.policy import Policy
from silos.gate.shares import Shares
from silos.gate.standings import Standings
from silos.kept.accounts import Accounts
from silos.kept.ledger import Ledger
from silos.kept.run_state import RunState
from silos.kept.store import Store
from silos.kept.votes import Votes

POLICY = Policy(
    allow=[{"jobs": ["*"]}],
    disclosures={"update": True, "statistic": True},
    min_cohort=1,
)

ROWS = clinic.frame(100)


class Rows:
    """A hundred rows that keep every contract."""

    def check(self, contract, *, purpose=""):
        return REPORT

    def frame(self, contract, *, purpose=""):
        return ROWS

    def num_rows(self, contract, purpose="", *, subjects=False):
        return len(ROWS)

    def dataset(self, contract):
        return "data"

    def consent_counts(self, contract, purpose=""):
        return None

    def consent_state(self, contract, purpose=""):
        return ""


class MadeUpShares(Shares):
    """Gives the hundred rows, which are the same in every schedule, their numbers once."""

    def _numbers(self, job, contract):
        self.store.lasting(PURPOSE)  # the key of the numbers is made, and lasts, as ever
        known = (job.features.missing, contract.digest)
        if known not in _numbers:
            _numbers[known] = super()._numbers(job, contract)
        return _numbers[known]


_numbers = {}


class Strangers:
    """Knows no rows again."""

    @contextlib.contextmanager
    def recognised(self, account):
        yield lambda use: None


class Host:
    """One silo's software, opened from its folder by a process that lives until it dies.

    Args:
        name: the silo's.
        directory: its folder.
        partners: the other silos' keys.
        coordinator: the key that requests are signed with.
        now: the silo's clock, in seconds since 1970.
        told: hears of every answer that is computed.
    """

    search_path = ()
    code_classes = None

    def __init__(self, name, directory: Path, partners, coordinator: str, now, told):
        self.name = name
        self.told = told
        self.log = Chain(directory / "audit.jsonl", now=lambda: in_utc(now()))
        self.ledger = Ledger(
            directory / "ledger.db", now=lambda: datetime.fromtimestamp(now(), UTC)
        )
        store = Store(directory)
        self.memory = self.numbers = self.secrets = store
        self.run_state = RunState(directory / "runs")
        self.rows = Rows()
        self.letters = Identity(directory, partners, only_confirmed=False)
        self.history = History(directory, self.log, self.letters, self.ledger)
        self.votes = Votes(directory, POLICY.votes, self.log, now=now)
        self.account = Accounts(self.ledger, {}, Strangers(), self.history)
        self.gate = Guard(
            name,
            directory,
            POLICY,
            self.letters,
            self.log,
            store,
            self.run_state,
            self.ledger,
            self.rows,
            None,
            self.history,
            Standings(name, self.letters, store, self.history),
            MadeUpShares(self.rows, store),
            signing_keys=(coordinator,),
            asks_people=False,
            now=now,
        )
