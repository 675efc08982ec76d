"""What a verb sees of the silo it runs in, and what the silo's software must offer for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from consilo import seeds
from consilo.contract import Contract
from consilo.headers import Header, ReplyHeader
from consilo.job import Job
from consilo.protocol import Verb

if TYPE_CHECKING:
    import pandas as pd

    from consilo.check_report import CheckReport
    from consilo.parcel import Parcel


Arrays = dict[str, np.ndarray[Any, Any]]


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
        self, contract: Contract, key: str, build: Callable[[], Arrays], *, purpose: str
    ) -> Arrays:
        """Return the arrays kept under ``key`` for the contract's present rows, or build them."""
        ...

    def kept_number(self, key: str, build: Callable[[], float]) -> float:
        """Return the number kept under ``key``, or build and keep it."""
        ...

    def secret(self, run_id: str) -> bytes:
        """Return 32 secret bytes, the same for one run for ever; they never leave the silo."""
        ...

    def spend(
        self, run_id: str, step_id: str, *, sigma: float, sample_rate: float, steps: int
    ) -> list[tuple[float, float, int]]:
        """Book one training step, once per ``step_id``; return the run's whole history."""
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

    def rng(self, purpose: str) -> np.random.Generator:
        """Return this step's public generator: from (job seed, step, silo, purpose)."""
        return seeds.generator(self.job.seed, self.header.scope, self.name, purpose)

    @property
    def noise_context(self) -> str:
        """What, with `secret_key`, keys this step's noise: unlike for every unlike question."""
        return "/".join(str(part) for part in self.header.question)

    def secret_key(self) -> bytes:
        """Return the 32-byte key of this run's noise and sampling.

        The silo's own secret, unless the job asks for a reproducible run.
        """
        if self.job.privacy is not None and self.job.privacy.reproducible:
            return seeds.derive("reproducible", self.job.seed, self.name)
        return self.host.secret(self.header.run_id)

    def book(
        self, *, sigma: float, sample_rate: float, steps: int
    ) -> list[tuple[float, float, int]]:
        """Book this step's privacy cost; return the run's history of (σ, q, steps)."""
        return self.host.spend(
            self.header.run_id,
            self.header.step_id,
            sigma=sigma,
            sample_rate=sample_rate,
            steps=steps,
        )
