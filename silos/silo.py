"""One silo, opened from its directory: what its organisation keeps, and what answers for it.

```
SILO_DIR/
  silo.yaml      its name and its data sets: where the rows are (`SiloConfig`)
  mapping.yaml   its columns, units and codes → the contract's; without it, they are alike;
                 several contracts: mappings/NAME@VERSION.yaml; several data sets: which one
  policy.yaml    what may leave; without it, nothing
  cache/         canonical tables and encoded rows
  gx/            the contract check's full report, for people here
  state.db       answers by step
  ledger.db      privacy ledger: every use of every data set
  secrets/       a secret per run: what keys the noise
  runs/          what messages of one run keep for the next; goes when the run ends
  matches/       which rows are the same people as which rows of other silos
  models/        its parts of vertical models
  scores/        what those say of rows, in the silo with the labels
  votes.db       its votes on models, with their figures, and what its people say
```
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from consilo.config import parse, read_yaml
from consilo.kernel.verbs import Disclosure
from consilo.protocols.dispatch import Elsewhere
from consilo.protocols.dispatch import answerer as dispatch_answerer
from consilo.wire.parcel import Answer
from silos.gate.audit import audit_log
from silos.gate.bundles import declared
from silos.gate.guard import Guard
from silos.gate.history import History
from silos.gate.identity import Identity
from silos.gate.matchmaking import Matchmaking
from silos.gate.partners import Partner
from silos.gate.policy import Policy
from silos.gate.same_rows import SameRows
from silos.gate.shares import Shares
from silos.gate.standings import Standings
from silos.kept.accounts import Accounts
from silos.kept.ledger import Ledger
from silos.kept.model_parts import ModelParts
from silos.kept.released import Released
from silos.kept.run_state import RunState
from silos.kept.sketches import Sketches, state_folder
from silos.kept.store import Store
from silos.kept.votes import Votes
from silos.rows.checks.verdicts import Verdicts
from silos.rows.tables import Tables
from silos.silo_config import SiloConfig


class Silo:
    """The software of one organisation, over its directory: an object for each role.

    It is a `consilo.kernel.roles.SiloHost`, with ``matches``, ``parts``, ``votes`` and ``released``
    for the algorithms that ask for them; see docs/architecture.md, "Roles".

    Args:
        directory: the silo's own.
        config: name and data sets.
        policy: what may leave.
        search_path: where a job's own modules lie.
        docs: write the full report of a contract check for people in the silo.
        asks_people: whether people in the silo must have confirmed a contract; False where the
            caller itself has brought the rows.
        state: what the silos of one user share, by which they know rows again; None keeps it in
            the directory, for a silo that nobody has set up.
        verdicts: of this process, for a silo that is made for one run.
        now: the clock that consents and rules about dates go by.
    """

    def __init__(
        self,
        directory: Path,
        config: SiloConfig,
        policy: Policy,
        *,
        search_path: tuple[Path, ...] = (),
        docs: bool = True,
        signing_keys: Sequence[str] | None = None,
        partners: Mapping[str, Partner] | None = None,
        bundle: Path | None = None,
        asks_people: bool = True,
        state: Path | None = None,
        verdicts: Verdicts | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = config.name
        self.directory = directory
        self.policy = policy
        self.search_path = search_path
        audit = audit_log(directory)
        store = Store(directory)
        self.memory, self.numbers, self.secrets = store, store, store
        self.run_state = RunState(directory / "runs")
        self.rows = Tables(
            directory, config.data, config.consent, docs=docs, verdicts=verdicts, now=now
        )
        ledger = Ledger(directory / "ledger.db")
        same_rows = SameRows(self.rows, ledger, Sketches(state or directory / "sketches"), audit)
        self.letters = Identity(directory, partners, only_confirmed=policy.partners == "confirmed")
        self.history = History(directory, audit, self.letters, ledger)
        self.account = Accounts(ledger, policy.privacy.budgets, same_rows, self.history)
        self.matches = Matchmaking(directory, policy.matching, self.rows.fingerprint, now)
        self.parts = ModelParts(directory, audit)
        self.votes = Votes(directory, policy.votes, audit)
        self.released = Released(directory, statistics_leave=policy.statistics_leave)
        self.gate = Guard(
            config.name,
            directory,
            policy,
            self.letters,
            audit,
            store,
            self.run_state,
            self.account.ledger,
            self.rows,
            self.matches,
            self.history,
            Standings(config.name, self.letters, store, self.history),
            Shares(self.rows, store),
            signing_keys=signing_keys,
            bundle=bundle,
            asks_people=asks_people,
        )

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        search_path: tuple[Path, ...] = (),
        signing_keys: Sequence[str] | None = None,
        partners: Mapping[str, Partner] | None = None,
        bundle: Path | None = None,
        knows_others: bool = True,
    ) -> Silo:
        """Return the silo in ``directory``.

        Args:
            directory: the silo's.
            search_path: where a job's own modules lie.
            signing_keys: whose requests are taken, in place of the coordinator that it joined.
            partners: other silos' keys, in place of those that it has pinned.
            bundle: the packed bundle that this process may run; None in process.
            knows_others: whether rows are known again that another silo directory of this user has;
                not where several organisations' silos are opened in one process to try something.

        Raises:
            InvalidInput: where its configuration or policy is not valid.
        """
        path = directory / "silo.yaml"
        config = parse(SiloConfig, read_yaml(path), where=str(path))
        policy = Policy.load(directory / "policy.yaml")
        return cls(
            directory,
            config,
            policy,
            search_path=search_path,
            signing_keys=signing_keys,
            partners=partners,
            bundle=bundle,
            state=state_folder() if knows_others else None,
        )

    @property
    def code_classes(self) -> frozenset[Disclosure]:
        """What the bundle's label declares; without one, whatever the policy lets leave, or all."""
        classes = None if self.gate.bundle is None else declared(self.gate.bundle)[0]
        if classes is None:
            given = self.policy.disclosures
            classes = frozenset(each for each in given if given[each] is not False)
        return frozenset(map(Disclosure, classes or Disclosure))

    @property
    def signing_key(self) -> str:
        """The public half of what the silo signs with, in hexadecimal."""
        return self.letters.public


def answerer(
    silo_dir: Path, bundle_dir: Path | None = None, elsewhere: Elsewhere | None = None
) -> Answer:
    """Return what answers requests for the silo in ``silo_dir``; the node calls it in a child.

    Args:
        silo_dir: the silo's directory.
        bundle_dir: the approved bundle, packed; its modules can be a job's own.
        elsewhere: runs those modules in another process; then none is ever imported in this one.
    """
    bundle = None if bundle_dir is None else Path(bundle_dir)
    path = () if bundle is None or elsewhere is not None else (bundle,)
    silo = Silo.open(Path(silo_dir), search_path=path, bundle=bundle)
    return dispatch_answerer(silo, elsewhere=elsewhere)
