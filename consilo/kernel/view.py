"""What a verb sees: the message, its silo's roles, the job, and randomness for its step."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import Refused
from consilo.jobs.job import Job, Unit
from consilo.kernel import seeds
from consilo.kernel.headers import Header
from consilo.kernel.roles import (
    Apart,
    Gate,
    Letters,
    PrivacyAccount,
    Role,
    RoleT,
    Rows,
    Secrets,
    SiloHost,
    kept_number,
)
from consilo.kernel.step_state import StepState
from consilo.kernel.verbs import Disclosure, Permitted
from consilo.privacy.account import Admit, Charge
from consilo.privacy.accounting import HistoryRow
from consilo.privacy.noise import ReproducibleStream, SecretStream
from consilo.privacy.unit import named

MANIFEST = "manifest"
"""Under this name a silo keeps which manifest the run has here."""
_PAYS_AHEAD = "pays-ahead"
"""Under this name it keeps that steps of the run are paid for ahead."""


@dataclass(frozen=True)
class Message:
    """What a verb was asked.

    Args:
        payload: what the coordinator half sent.
        round: 1, 2, … within training; 0 outside.
        cohort: everybody who was asked.
    """

    payload: Mapping[str, Any]
    round: int
    cohort: tuple[str, ...]


@dataclass(frozen=True)
class SiloView:
    """What a verb sees: its silo, the job, and randomness derived for this step.

    Args:
        host: the silo's software.
        job: what is being run.
        contract: what the data obey.
        header: the request's header.
        permitted: what the silo's gate said of it.
        apart: where the job's own code computes, which sees one unit's rows and ends; None where it
            runs in this process.
    """

    host: SiloHost
    job: Job
    contract: Contract
    header: Header
    permitted: Permitted = field(default_factory=Permitted)
    apart: Apart | None = None

    def admits(self, name: str) -> bool:
        """Return whether the silo lets a reply field leave; what it keeps back is not computed."""
        return name not in self.permitted.withheld

    def require_admitted(self, name: str) -> None:
        """Raise `Refused` where the silo keeps a reply field back that the message asks for."""
        if not self.admits(name):
            raise Refused(self.permitted.withheld[name], code="disclosure")

    def has_floor(self, disclosure: Disclosure, num_rows: int) -> bool:
        """Return whether a figure of ``num_rows`` rows is made of as many as its class needs."""
        return num_rows >= self.permitted.floors.get(disclosure, 1)

    def require_floor(self, disclosure: Disclosure, num_rows: int) -> None:
        """Raise `Refused` where a figure is made of fewer rows than the silo's policy wants."""
        if not self.has_floor(disclosure, num_rows):
            raise Refused(
                f"this silo's policy lets '{disclosure}' leave where it is made of "
                f"{self.permitted.floors[disclosure]} rows or more only",
                code="group",
            )

    @property
    def name(self) -> str:
        """The silo's name."""
        return self.host.name

    @property
    def search_path(self) -> tuple[Path, ...]:
        """Where a job's own modules lie."""
        return self.host.search_path

    @property
    def gate(self) -> Gate:
        """What is let in and out; dispatch has asked it about this message."""
        return self.host.gate

    @property
    def rows(self) -> Rows:
        """The canonical rows."""
        return self.host.rows

    @property
    def account(self) -> PrivacyAccount:
        """What the rows have cost; a step pays by `reserve`."""
        return self.host.account

    @property
    def secrets(self) -> Secrets:
        """What never leaves the silo; a step's noise is keyed by `secret_key`."""
        return self.host.secrets

    @property
    def letters(self) -> Letters:
        """The silo's signature, and its partners'."""
        return self.host.letters

    def role(self, role: Role[RoleT]) -> RoleT:
        """Return what the silo has for a role that belongs to one kind of algorithm.

        Raises:
            Refused: where its software has nothing for it.
        """
        return role.of(self.host)

    def kept_number(self, key: str, build: Callable[[], float]) -> float:
        """Return the number kept under ``key``, or build and keep it for every later run."""
        return kept_number(self.host.numbers, key, build)

    def kept(self, name: str) -> bytes | None:
        """Return what an earlier message of this run kept under ``name``.

        Raises:
            Refused: where it was kept under another job or contract than this message's.
        """
        content = self.host.run_state.kept(self.header.run_id, name)
        if content is not None:
            self.require_same_run()
        return content

    def keep(self, name: str, content: bytes) -> None:
        """Keep ``content`` under ``name`` for later messages of this run.

        Raises:
            Refused: where the run has kept something under another job or contract.
        """
        if not self.require_same_run():
            self.host.run_state.keep(
                self.header.run_id, MANIFEST, self.header.manifest.digest.encode()
            )
        self.host.run_state.keep(self.header.run_id, name, content)

    def require_same_run(self) -> bool:
        """Hold a message against the manifest under which the run has kept anything here.

        What a run asked, met and paid for under one job is not used under another: a coordinator
        could change the job between two messages.

        Returns:
            Whether it has kept anything.

        Raises:
            Refused: where that was under another manifest.
        """
        begun = self.host.run_state.kept(self.header.run_id, MANIFEST)
        if begun not in (None, self.header.manifest.digest.encode()):
            raise Refused(
                "this run began here with another job or contract than this message has; start a "
                "new run",
                code="manifest",
            )
        return begun is not None

    def forget(self, name: str) -> None:
        """Erase what is kept under ``name``."""
        self.host.run_state.forget(self.header.run_id, name)

    def state(self, name: str, *, once_a_round: bool = False) -> StepState:
        """Return what this silo carries from step to step of this run under ``name``.

        With ``once_a_round`` a round's first question is the only one that may keep something.

        This step sees what the silo's step before left, however often it is asked; what it keeps is
        seen by the next one. It never leaves the silo, and goes when the run ends.
        """
        place = (self.header.round, int(self.header.scope.split("/")[1]))
        if once_a_round:
            place = (self.header.round, 0)
        return StepState(self, name, place=place, mark=self.header.step_id, once=once_a_round)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return this step's public generator: from (job seed, step, silo, purpose)."""
        return seeds.generator(self.job.seed, self.header.scope, self.name, purpose)

    def noise(self, fingerprint: str) -> SecretStream:
        """Return the stream of this step's sampling and noise.

        Keyed by the silo's secret of this run and by all that is asked, content, job, contract and
        code included: a coordinator that changes anything in the question gets other noise, and
        cannot subtract two answers. A job with ``privacy.reproducible`` gets a
        `ReproducibleStream`, keyed by its seed, the step's scope and the silo, and by no content:
        one last bit that differs between two machines would be other noise.

        Args:
            fingerprint: of the rows that are hidden.
        """
        if self._is_reproducible:
            return ReproducibleStream(self.secret_key(), self.header.scope)
        asked = "/".join(str(part) for part in (*self.header.question, self.header.manifest.digest))
        return SecretStream(self.secret_key(), f"{asked}/{fingerprint}")

    def secret_key(self) -> bytes:
        """Return 32 bytes that key what is random in this run and must not be guessed.

        The silo's own secret, unless the job asks for a reproducible run.
        """
        if self._is_reproducible:
            return seeds.derive("reproducible", self.job.seed, self.name)
        return self.secrets.secret(self.header.run_id)

    @property
    def _is_reproducible(self) -> bool:
        return self.job.privacy is not None and self.job.privacy.reproducible

    def reserve(
        self,
        mechanism: str,
        *,
        sigma: float,
        sample_rate: float,
        steps: int,
        rows: int,
        fingerprint: str,
        ahead: int = 0,
        admit: Admit = lambda history: None,
        step_id: str = "",
        pays_ahead: bool = False,
    ) -> list[HistoryRow]:
        """Reserve this step's privacy cost before a row is used; return the run's history with it.

        Args:
            mechanism: what adds the noise.
            sigma: its noise multiplier.
            sample_rate: of the rows.
            steps: how many.
            rows: how many rows there are, or subjects where the job hides those.
            fingerprint: of those rows; the ledger keeps a keyed hash of it.
            ahead: like steps that the run will ask for later.
            admit: what the run itself allows, given the history.
            step_id: names what is paid for; this step, unless said.
            pays_ahead: later steps of the run use it without paying, each once.

        Raises:
            BudgetExhausted: where the data set's budget or the run cannot pay.
            Refused: with ``pays_ahead``, where it was reserved before and the run's state is gone:
                nobody knows then which steps have used it.
        """
        unit: Unit = "record" if self.job.privacy is None else self.job.privacy.unit
        mechanism = named(mechanism, unit)
        if pays_ahead:
            self._require_state_since(mechanism, (sigma, sample_rate, steps))
        manifest = self.header.manifest.digest  # under another job or code it is another use
        terms = f"{mechanism}/{sigma!r}/{sample_rate!r}/{steps}/{fingerprint}/{manifest}"
        key = self.secrets.secret(self.header.run_id)
        charge = Charge(
            self.header.run_id,
            step_id or self.header.step_id,
            named(hmac.digest(key, b"ledger/" + terms.encode(), "sha256")[:16].hex(), unit),
            mechanism,
            sigma,
            sample_rate,
            steps,
            rows,
            ahead,
        )
        return self.account.reserve(self.rows.dataset(self.contract), charge, admit)

    def _require_state_since(self, mechanism: str, row: HistoryRow) -> None:
        """Hold a use that is paid ahead against the run's state, which must have seen it begin."""
        if self.kept(_PAYS_AHEAD) is not None:
            return
        if (mechanism, row) in self.account.reserved(self.header.run_id):
            raise Refused(
                "this silo has paid for this run's steps, and no longer holds which of them it has "
                "done: a run's state goes after 30 days without use; start a new run",
                code="order",
            )
        self.keep(_PAYS_AHEAD, b"begun")
