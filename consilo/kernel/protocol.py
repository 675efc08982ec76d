"""What an algorithm is: a coordinator half and a silo half, side by side.

The silo half's functions are *verbs*, see `consilo.kernel.verbs`. How to write an algorithm is in
docs/algorithms.md.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from consilo.kernel.verbs import Verb

if TYPE_CHECKING:
    from consilo.jobs.job import Job
    from consilo.kernel.federation import Federation
    from consilo.kernel.steps import Step

StateT = TypeVar("StateT")


class Protocol(Generic[StateT]):
    """Base of every algorithm: `coordinate` runs at the coordinator, verbs run in the silos.

    A protocol is built anew on each side from the job, so it holds settings and never state. What
    the coordinator half carries from round to round is ``StateT``: a frozen object with ``round``,
    ``to_payload`` and ``from_payload``; None for a protocol without rounds.
    """

    needs_vectors = False
    """True where the coordinator half looks at single silos' vectors, not only at their sum."""
    only_by_its_job = False
    """True where a silo answers only in jobs whose ``protocol.name`` this is."""

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with the settings that a job gives; the same on both sides."""
        return cls()

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
        found: dict[str, Verb] = {}
        for attribute in dir(cls):
            each = getattr(getattr(cls, attribute), "__consilo_verb__", None)
            if isinstance(each, Verb):
                found[each.name] = each
        return found
