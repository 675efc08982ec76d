"""A silo in memory: for trying a job or an algorithm, for benchmarks, for tests.

Its rows are a table, or arrays that are split and encoded already; what it remembers lies in its
fields, where whoever made it can look. Real: its rows are its own, its answers are idempotent, its
privacy is booked once, its letters are addressed and signed. Not real: no policy, account or person
stands behind it, the rows are taken to keep their contract, keys follow from names, and all of it
ends with the process.

>>> import pandas as pd
>>> silo = InMemorySilo("north", pd.DataFrame({"age": [40.0]}))
>>> silo.run_state.keep("run", "name", b"something")
>>> silo.state
{('run', 'name'): b'something'}
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.decisions.rules import VoteRules
from consilo.errors import Refused, SchemaDrift
from consilo.jobs.job import Job, Unit
from consilo.jobs.match import Match, MatchQuestion
from consilo.kernel import seeds
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.roles import Arrays, Built
from consilo.kernel.verbs import Asked, Permitted
from consilo.machine.files import make_directory, write_atomic
from consilo.matching.columns.cards import Card
from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from consilo.wire.parcel import Parcel
from consilo.wire.signing import is_signed, public_hex, sign
from silos.gate.guard import addressed
from silos.gate.identity import RELAY
from silos.kept.store import lasting_secret
from silos.simulation.all_roles import AllRoles

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class InMemorySilo(AllRoles):
    """An organisation in this process; a `consilo.kernel.roles.SiloHost` without a directory.

    Args:
        name: the silo's.
        table: canonical rows; None where there are prepared arrays only.
        prepared: what `encoded` returns, in place of encoding the rows.
        search_path: where a job's own modules lie.
        report: what the contract check says; None says that the rows keep every contract.
        refusal: with it, everything is refused, for this reason.
        min_common: matches of fewer entities are refused.
        rules: by which it votes on models.
        keep_replies: remember answers; without it, what is asked again is computed again.
        arrays: what was encoded, by key.
        kept_numbers: what was dear to compute, by key.
        run_secrets: run → 32 bytes; drawn where they are not given.
        spends: run → what it reserved: (step, mark), mechanism, (σ, q, steps).
        state: (run, name) → what a message kept for later ones.
        questions: matches that were begun.
        kept_matches: by handle.
        kept_parts: of vertical models, by model.
        scores: by run.
        replies: by step.
    """

    name: str
    table: pd.DataFrame | None = None
    prepared: Arrays | None = None
    search_path: tuple[Path, ...] = ()
    report: CheckReport | None = None
    refusal: str = ""
    min_common: int = 0
    rules: VoteRules = field(default_factory=VoteRules)
    keep_replies: bool = True
    arrays: dict[str, Arrays] = field(default_factory=dict)
    kept_numbers: dict[str, float] = field(default_factory=dict)
    run_secrets: dict[str, bytes] = field(default_factory=dict)
    spends: dict[str, list[tuple[tuple[str, str], str, HistoryRow]]] = field(default_factory=dict)
    state: dict[tuple[str, str], bytes] = field(default_factory=dict)
    questions: list[MatchQuestion] = field(default_factory=list)
    kept_matches: dict[str, Match] = field(default_factory=dict)
    kept_parts: dict[str, bytes] = field(default_factory=dict)
    scores: dict[str, pd.DataFrame] = field(default_factory=dict)
    replies: dict[str, Parcel] = field(default_factory=dict)

    def verify(self, header: Header) -> None:
        """Raise `Refused` where a request is another silo's; nobody signs within a process."""
        addressed(header, self.name)

    def vote_rules(self) -> VoteRules:
        """Return the rules that were given."""
        return self.rules

    def permit(self, header: Header, job: Job, contract: Contract, asked: Asked) -> Permitted:
        """Raise `Refused` where the silo refuses everything."""
        if self.refusal:
            raise Refused(self.refusal)
        return Permitted()

    def repeated(self, header: Header, asked: tuple[Job, Contract, Asked] | None) -> None:
        """Keep no log."""

    def sign(
        self, header: Header | None, reply: ReplyHeader, fields: Mapping[str, Any]
    ) -> ReplyHeader:
        """Return the reply's header as it is: nobody signs within a process."""
        return reply

    def conclude(self, run_id: str) -> None:
        """Erase what the run kept for its later messages."""
        self.state = {key: value for key, value in self.state.items() if key[0] != run_id}

    def check(self, contract: Contract, *, purpose: str = "") -> CheckReport:
        """Return the report that was given, or that the rows keep the contract."""
        self._rows()
        return self.report or CheckReport(
            contract=contract.ref, contract_digest=contract.digest, verdict="passed", findings=()
        )

    def frame(self, contract: Contract, *, purpose: str = "") -> pd.DataFrame:
        """Return the rows."""
        return self._rows()

    def _rows(self) -> pd.DataFrame:
        if self.table is None:
            raise SchemaDrift("prepared arrays have no table, and no contract check")
        return self.table

    def dataset(self, contract: Contract) -> str:
        """Return the one name that all silos in memory give their rows."""
        return "data"

    def encoded(
        self, contract: Contract, key: str, build: Callable[[], Built], *, purpose: str = ""
    ) -> Arrays:
        """Return the prepared arrays, or those under ``key``; read-only, as if from a file."""
        if key not in self.arrays:
            made = build() if self.prepared is None else self.prepared
            self.arrays[key] = {each: _read_only(value) for each, value in made.items()}
        return self.arrays[key]

    def number(self, key: str) -> float | None:
        """Return the number kept under ``key``."""
        return self.kept_numbers.get(key)

    def keep_number(self, key: str, value: float) -> None:
        """Keep a number."""
        self.kept_numbers[key] = value

    def secret(self, run_id: str) -> bytes:
        """Return the run's secret, drawn when it is first asked for."""
        return self.run_secrets.setdefault(run_id, os.urandom(32))

    def lasting(self, purpose: str) -> bytes:
        """Return bytes that follow from the silo's name, so that runs in memory are alike."""
        return lasting_secret(made_up_root(self.name), purpose)

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Book a step once; return the run's history up to it."""
        booked, own = self.spends.setdefault(charge.run_id, []), (charge.step_id, charge.mark)
        known = [step for step, _, _ in booked]
        if own not in known:
            admit([*(row for _, _, row in booked), charge.row])
            booked.append((own, charge.mechanism, charge.row))
            known.append(own)
        return [row for _, _, row in booked[: known.index(own) + 1]]

    def settle(self, step_id: str) -> None:
        """Do nothing: what is reserved has been spent."""

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what a run has reserved: mechanism and (σ, q, steps)."""
        return [(mechanism, row) for _, mechanism, row in self.spends.get(run_id, [])]

    def quote(self, account: str, rows: Sequence[HistoryRow], unit: Unit = "record") -> Account:
        """Return an account without limits."""
        return Account(account, 0, 0, ())

    def kept(self, run_id: str, name: str) -> bytes | None:
        """Return what a message of this run kept under ``name``."""
        return self.state.get((run_id, name))

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep ``content`` for the run's later messages."""
        self.state[run_id, name] = bytes(content)

    def forget(self, run_id: str, name: str) -> None:
        """Erase what is kept under ``name``."""
        self.state.pop((run_id, name), None)

    def sign_relay(self, value: Any) -> str:
        """Return a signature by a key that follows from the silo's name."""
        return sign(_signing_key(self.name), RELAY, value)

    def is_partner_relay(self, silo: str, value: Any, signature: str) -> bool:
        """Return whether the silo called so signed ``value``."""
        return is_signed(public_hex(_signing_key(silo)), RELAY, value, signature)

    def cards(self) -> Sequence[Card]:
        """Return nothing: nobody released a column."""
        return ()

    def histograms(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return nothing: nobody released a column."""
        return {}

    def begin_match(self, question: MatchQuestion) -> None:
        """Note the question; raise `Refused` where the silo refuses everything."""
        if self.refusal:
            raise Refused(self.refusal)
        self.questions.append(question)

    def judge_match(
        self, run_id: str, partner: str, *, num_theirs: int, num_common: int | None = None
    ) -> None:
        """Raise `Refused` where fewer entities are common than the silo was made to bear."""
        if num_common is not None and num_common < self.min_common:
            raise Refused(f"{num_common} are too few", code="intersection")

    def match(self, handle: str, *, purpose: str = "") -> Match:
        """Return this silo's half of a match; the rows in memory never change."""
        if handle not in self.kept_matches:
            raise Refused(f"no match '{handle}'", code="match")
        kept = self.kept_matches[handle]
        kept.require_usable(purpose=purpose, fingerprint="", now=datetime.now(UTC))
        return kept

    def keep_match(self, match: Match) -> None:
        """Keep this silo's half of a match under its handle."""
        self.kept_matches[match.handle] = match

    def keep_part(self, model: str, content: bytes, about: Mapping[str, Any]) -> None:
        """Keep this silo's part of a vertical model."""
        self.kept_parts[model] = content

    def part(self, model: str) -> bytes:
        """Return this silo's part of a model."""
        if model not in self.kept_parts:
            raise Refused(f"no part of '{model}'", code="model")
        return self.kept_parts[model]

    def keep_scores(self, run_id: str, rows: pd.DataFrame) -> None:
        """Keep what a model says of rows."""
        self.scores[run_id] = rows

    def remembered(self, step_id: str) -> Parcel | None:
        """Return what was answered to ``step_id`` before."""
        return self.replies.get(step_id)

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep the answer to ``step_id``, unless answers are not kept."""
        if self.keep_replies:
            self.replies[step_id] = reply


def made_up_root(silo: str) -> bytes:
    """Return what is in place of a silo's own secret where it and its rows are made up: no secret.

    So that simulations, demos and benchmarks are the same on any day and on any machine.
    """
    return seeds.derive("made-up silo", silo)


def write_made_up_root(directory: Path, silo: str) -> None:
    """Give a silo with made-up rows, over a directory, the secret that follows from its name."""
    make_directory(directory / "secrets", mode=0o700)
    write_atomic(directory / "secrets" / "silo.key", made_up_root(silo), mode=0o600)


def _read_only(value: Any) -> np.ndarray[Any, Any]:
    seen = np.asarray(value).view()
    seen.flags.writeable = False
    return seen


def _signing_key(silo: str) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(silo.encode()).digest())
