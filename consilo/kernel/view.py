"""What a verb sees of the silo it runs in, and what the silo's software must offer for it."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import Refused
from consilo.jobs.job import Job
from consilo.kernel import seeds
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.step_state import StepState
from consilo.kernel.verbs import Verb
from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from consilo.privacy.noise import ReproducibleStream, SecretStream
from consilo.wire.piecewise import Parts

if TYPE_CHECKING:
    import pandas as pd

    from consilo.contracts.report import CheckReport
    from consilo.jobs.match import Match, MatchQuestion
    from consilo.wire.parcel import Parcel


_MANIFEST = "manifest"
"""Under this name a silo keeps which manifest the run has here."""

Arrays = dict[str, np.ndarray[Any, Any]]
Built = Mapping[str, np.ndarray[Any, Any] | Parts]
"""Arrays, or what they are made from piece by piece."""


class SiloHost(Protocol):
    """What an organisation's software offers; `silos.silo.Silo` is the one that ships."""

    name: str
    search_path: tuple[Path, ...]
    """Where a job's own modules lie: the approved bundle's directory."""

    def verify(self, header: Header) -> None:
        """Raise `Refused` unless the coordinator signed this request, for this silo, for now."""
        ...

    def permit(self, header: Header, job: Job, contract: Contract, verb: Verb) -> None:
        """Raise `Refused` unless the silo's policy allows this verb for this job and cohort."""
        ...

    def repeated(self, header: Header) -> None:
        """Note that a step is asked again and gets the answer that it got before."""
        ...

    def seal(
        self, header: Header | None, reply: ReplyHeader, fields: Mapping[str, Any]
    ) -> ReplyHeader:
        """Note what is about to leave, and return the reply's header as it shall leave: signed.

        Args:
            header: the request; None where it could not be read.
            reply: what the reply says, unsigned.
            fields: what leaves; empty for a fault.
        """
        ...

    def conclude(self, run_id: str) -> None:
        """Answer nothing more for a run: it has ended."""
        ...

    def check(self, contract: Contract, *, purpose: str) -> CheckReport:
        """Return the verdict on the rows that ``purpose`` may use; made once while they are so."""
        ...

    def frame(self, contract: Contract, *, purpose: str) -> pd.DataFrame:
        """Return the canonical rows that ``purpose`` may use.

        Raises `SchemaDrift` where the contract check failed.
        """
        ...

    def dataset(self, contract: Contract) -> str:
        """Return the name of the data set behind ``contract``; the privacy ledger is kept by it."""
        ...

    def encoded(
        self, contract: Contract, key: str, build: Callable[[], Built], *, purpose: str
    ) -> Arrays:
        """Return the arrays kept under ``key`` for the contract's present rows, or build them.

        They are as `numpy.asarray` takes them.
        """
        ...

    def kept_number(self, key: str, build: Callable[[], float]) -> float:
        """Return the number kept under ``key``, or build and keep it."""
        ...

    def secret(self, run_id: str) -> bytes:
        """Return 32 secret bytes, the same for one run for ever; they never leave the silo."""
        ...

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Reserve a use of a data set, durably and once; return the run's history up to it.

        Args:
            account: the data set.
            charge: what is about to be done.
            admit: what the run itself allows.

        Raises:
            BudgetExhausted: where the data set's budget or the run cannot pay; nothing is reserved.
        """
        ...

    def settle(self, step_id: str) -> None:
        """Note that a step's answer is kept; a step that reserved nothing is let be."""
        ...

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what a run has reserved so far: mechanism and (σ, q, steps)."""
        ...

    def quote(self, account: str, rows: Sequence[HistoryRow]) -> Account:
        """Return how a data set's account would stand with ``rows`` besides; nothing is spent."""
        ...

    def kept(self, run_id: str, name: str) -> bytes | None:
        """Return what a message of this run kept under ``name``; None where there is nothing."""
        ...

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep ``content`` for the run's later messages, durably; it goes when the run ends."""
        ...

    def forget(self, run_id: str, name: str) -> None:
        """Erase what is kept under ``name``."""
        ...

    def sign_relay(self, value: Any) -> str:
        """Return the silo's signature of a statement for other silos, in hexadecimal."""
        ...

    def is_partner_relay(self, silo: str, value: Any, signature: str) -> bool:
        """Return whether the silo called so signed ``value``, by the key that is pinned here."""
        ...

    def cards(self) -> Sequence[Any]:
        """Return what the silo has released about its columns; a `Card` each."""
        ...

    def histograms(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return the noisy histograms of released columns, by the column's key; paid for before."""
        ...

    def begin_match(self, question: MatchQuestion) -> None:
        """Raise `Refused` unless the silo's policy lets it be matched so; it is counted, once."""
        ...

    def judge_match(
        self, run_id: str, partner: str, *, num_theirs: int, num_common: int | None = None
    ) -> None:
        """Raise `Refused` unless the policy bears a partner's size and what is common.

        Args:
            run_id: the run.
            partner: who.
            num_theirs: entities that the partner says it has.
            num_common: how many both have, by the keys so far; None before it is known.
        """
        ...

    def match(self, handle: str, *, purpose: str) -> Match:
        """Return this silo's half of a match.

        Raises `Refused` where there is none, it expired, was made for another purpose, or the rows
        changed since.
        """
        ...

    def keep_match(self, match: Match) -> None:
        """Keep this silo's half of a match under its handle, for the present rows."""
        ...

    def keep_part(self, model: str, content: bytes, about: Mapping[str, Any]) -> None:
        """Keep this silo's part of a vertical model, durably; it never leaves.

        Args:
            model: the training's run id.
            content: the part.
            about: what people here see of it.
        """
        ...

    def part(self, model: str) -> bytes:
        """Return the part of a model that `keep_part` kept; raises `Refused` without one."""
        ...

    def keep_scores(self, run_id: str, rows: pd.DataFrame) -> None:
        """Keep what a model says of rows, for people in this silo; it never leaves.

        Args:
            run_id: the scoring's.
            rows: the row's number in the data set, its ids, and what the model says.
        """
        ...

    def remembered(self, step_id: str) -> Parcel | None:
        """Return what was answered to ``step_id`` before, if it was."""
        ...

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep the answer to ``step_id``, durably, before it is sent."""
        ...


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
    """

    host: SiloHost
    job: Job
    contract: Contract
    header: Header

    @property
    def name(self) -> str:
        """The silo's name."""
        return self.host.name

    def kept(self, name: str) -> bytes | None:
        """Return what an earlier message of this run kept under ``name``.

        Raises:
            Refused: where it was kept under another job or contract than this message's.
        """
        found = self.host.kept(self.header.run_id, name)
        if found is not None:
            self.require_same_run()
        return found

    def keep(self, name: str, content: bytes) -> None:
        """Keep ``content`` under ``name`` for later messages of this run.

        Raises:
            Refused: where the run has kept something under another job or contract.
        """
        if not self.require_same_run():
            self.host.keep(self.header.run_id, _MANIFEST, self.header.manifest.digest.encode())
        self.host.keep(self.header.run_id, name, content)

    def require_same_run(self) -> bool:
        """Hold a message against the manifest under which the run has kept anything here.

        What a run asked, met and paid for under one job is not used under another: a coordinator
        could change the job between two messages.

        Returns:
            Whether it has kept anything.

        Raises:
            Refused: where that was under another manifest.
        """
        begun = self.host.kept(self.header.run_id, _MANIFEST)
        if begun not in (None, self.header.manifest.digest.encode()):
            raise Refused(
                "this run began here with another job or contract than this message has; start a "
                "new run",
                code="manifest",
            )
        return begun is not None

    def forget(self, name: str) -> None:
        """Erase what is kept under ``name``."""
        self.host.forget(self.header.run_id, name)

    def state(self, name: str) -> StepState:
        """Return what this silo carries from step to step of this run under ``name``.

        This step sees what the silo's step before left, however often it is asked; what it keeps is
        seen by the next one. It never leaves the silo, and goes when the run ends.
        """
        place = (self.header.round, int(self.header.scope.split("/")[1]))
        return StepState(self, name, place=place, mark=self.header.step_id)

    def match(self, handle: str) -> Match:
        """Return this silo's half of a match, for the job's purpose."""
        return self.host.match(handle, purpose=self.job.purpose)

    def rng(self, purpose: str) -> np.random.Generator:
        """Return this step's public generator: from (job seed, step, silo, purpose)."""
        return seeds.generator(self.job.seed, self.header.scope, self.name, purpose)

    def noise(self, fingerprint: str) -> SecretStream:
        """Return the stream of this step's sampling and noise.

        Keyed by the silo's secret of this run and by all that is asked, content included: a
        coordinator that changes anything in the question gets other noise, and cannot subtract two
        answers. A job with ``privacy.reproducible`` gets a `ReproducibleStream`, keyed by its seed,
        the step's scope and the silo, and by no content: one last bit that differs between two
        machines would be other noise.

        Args:
            fingerprint: of the rows that are hidden.
        """
        if self._is_reproducible:
            return ReproducibleStream(self.secret_key(), self.header.scope)
        asked = "/".join(str(part) for part in self.header.question)
        return SecretStream(self.secret_key(), f"{asked}/{fingerprint}")

    def secret_key(self) -> bytes:
        """Return 32 bytes that key what is random in this run and must not be guessed.

        The silo's own secret, unless the job asks for a reproducible run.
        """
        if self._is_reproducible:
            return seeds.derive("reproducible", self.job.seed, self.name)
        return self.host.secret(self.header.run_id)

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
    ) -> list[HistoryRow]:
        """Reserve this step's privacy cost before a row is used; return the run's history with it.

        Args:
            mechanism: what adds the noise.
            sigma: its noise multiplier.
            sample_rate: of the rows.
            steps: how many.
            rows: how many rows there are.
            fingerprint: of those rows; the ledger keeps a keyed hash of it.
            ahead: like steps that the run will ask for later.
            admit: what the run itself allows, given the history.

        Raises:
            BudgetExhausted: where the data set's budget or the run cannot pay.
        """
        said = f"{mechanism}/{sigma!r}/{sample_rate!r}/{steps}/{fingerprint}"
        key = self.host.secret(self.header.run_id)
        charge = Charge(
            self.header.run_id,
            self.header.step_id,
            hmac.digest(key, b"ledger/" + said.encode(), "sha256")[:16].hex(),
            mechanism,
            sigma,
            sample_rate,
            steps,
            rows,
            ahead,
        )
        return self.host.reserve(self.host.dataset(self.contract), charge, admit)
