"""What an algorithm is: a coordinator half and a silo half, side by side.

The silo half's functions are *verbs*, see `consilo.kernel.verbs`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, Self

from consilo.kernel.verbs import Verb

if TYPE_CHECKING:
    from consilo.jobs.job import Job
    from consilo.kernel.steps import Step


class Protocol:
    """Base of every algorithm: `coordinate` runs at the coordinator, verbs run in the silos.

    A protocol is built anew on each side from the job, so it holds settings and never state.
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

    def coordinate(self, fed: Any, state: Any) -> Generator[Step, Any, Any]:
        """Yield steps, receive their results, return the final state."""
        raise NotImplementedError

    @classmethod
    def verbs(cls) -> dict[str, Verb]:
        """Return the verbs by name."""
        found: dict[str, Verb] = {}
        for attribute in dir(cls):
            each = getattr(getattr(cls, attribute), "__consilo_verb__", None)
            if isinstance(each, Verb):
                found[each.name] = each
        return found
