"""What an algorithm is: a coordinator half and a silo half, side by side.

The silo half's functions are *verbs*, see `consilo.kernel.verbs`. How to write an algorithm is in
docs/algorithms.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, Self, TypeVar

from consilo.kernel.verbs import Verb

if TYPE_CHECKING:
    from consilo.jobs.job import Job
    from consilo.kernel.federation import Federation
    from consilo.kernel.steps import Step

StateT = TypeVar("StateT")

RowsUsed = Literal["job", "all", "part", "matched", "released", "none"]
"""Which rows of a silo a protocol uses:

    job       those that the job is over: all, or the matched ones of a job over matched rows
    all       all of them, under the contract as the message has it
    part      all of them, under the silo's part of the contract
    matched   those of the job's match
    released  none: what people in the silo released beforehand, by hand
    none      none
"""


@dataclass(frozen=True)
class Declaration:
    """What a protocol says of itself, by which a silo's guard judges it; `Protocol` explains it."""

    rows: RowsUsed
    only_by_its_job: bool
    after_the_end: bool


STRICTEST = Declaration("job", only_by_its_job=True, after_the_end=False)
"""How code is read that is not Consilo's own, whatever it says of itself."""


class Protocol(Generic[StateT]):
    """Base of every algorithm: `coordinate` runs at the coordinator, verbs run in the silos.

    A protocol is built anew on each side from the job, so it holds settings and never state. What
    the coordinator half carries from round to round is ``StateT``: a frozen object with ``round``,
    ``to_payload`` and ``from_payload``; None for a protocol without rounds.

    A class declares what its silo half uses, and a silo's guard judges by that, never by a name.
    The declarations of Consilo's own protocols are trusted code. What a class from a bundle
    declares counts for nothing there: the guard reads it as `STRICTEST`, so that nobody escapes a
    rule about rows by saying that there are none (`consilo.protocols.names.declaration_of`).
    """

    needs_vectors = False
    """True where the coordinator half looks at single silos' vectors, not only at their sum."""
    may_continue: ClassVar[bool] = False
    """True where a new run may go on with a finished one: silos keep nothing from round to round
    that they would lack, since the end of a run erases it. Said by whoever writes a protocol;
    Consilo's own horizontal ones keep nothing."""
    keyed_by_run: ClassVar[bool] = False
    """True where code of a bundle needs the same secret in each step of a run: networks that start
    alike. Elsewhere a worker gets a secret of its step."""
    averages_buffers: ClassVar[bool] = False
    """True where a coordinator half of its own averages a model's buffers (`mean_buffers`)."""
    rows: ClassVar[RowsUsed] = "job"
    """Which rows its verbs use: what a policy's ``min_rows`` counts, and consents are asked for."""
    only_by_its_job: ClassVar[bool] = False
    """True where a silo answers only in jobs whose ``protocol.name`` this is."""
    after_the_end: ClassVar[bool] = False
    """True where a silo answers also for a run that has ended."""

    reads: ClassVar[tuple[str, ...] | None] = None
    """Shell patterns of the job's settings that it reads, such as ``protocol.mu``; any other that a
    job gives is an error. None where it does not say, and may read all."""
    runs_job_code: ClassVar[bool] = True
    """False where its verbs run nothing of a job's own: no model, no loss, no metrics. All else is
    answered behind a silo's wall, in jobs that have code of their own."""
    asks_apart: ClassVar[bool] = False
    """True where its verbs run under privacy without a job's code: what that computes they ask of
    `SiloView.apart`, unit by unit, and clip and noise it themselves."""
    decides: ClassVar[bool] = False
    """True where its verbs decide on the silo's behalf, which no process does that runs a job's own
    code: they `asks_apart` without privacy, too."""

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with the settings that a job gives; the same on both sides."""
        return cls()

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return whether a run of ``job`` asks this besides the job's own protocol."""
        return False

    @classmethod
    def asks(cls, job: Job) -> frozenset[str]:
        """Return the names of the verbs that a run of ``job`` asks of it; all, unless said."""
        return frozenset(cls.verbs())

    @classmethod
    def declaration(cls) -> Declaration:
        """Return what the class declares."""
        return Declaration(cls.rows, cls.only_by_its_job, cls.after_the_end)

    def prepare(self) -> None:
        """Check at the coordinator, before any message, what only its half needs.

        Raises:
            IncompatibleJob: where the coordinator half cannot work.
        """

    def coordinate(self, fed: Federation, state: StateT) -> Generator[Step, Any, Any]:
        """Yield steps, receive their results, return the final state."""
        raise NotImplementedError

    def sends(self, state: StateT) -> Mapping[str, Mapping[str, Any]]:
        """Return what a round sends to each silo: verb → payload. A forecast counts it.

        What comes back is counted by the verbs' declarations. Empty where it is not known.
        """
        return {}

    @classmethod
    def verbs(cls) -> dict[str, Verb]:
        """Return the verbs by name."""
        found: dict[str, Verb] | None = cls.__dict__.get("__consilo_verbs__")
        if found is None:
            found = {}
            for attribute in dir(cls):
                each = getattr(getattr(cls, attribute), "__consilo_verb__", None)
                if isinstance(each, Verb):
                    found[each.name] = each
            cls.__consilo_verbs__ = found  # type: ignore[attr-defined]
        return dict(found)
