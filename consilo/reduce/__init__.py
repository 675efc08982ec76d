"""Combine the vectors that the silos hold: what a rule gives, needs and costs is declared."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from consilo.jobs.quorum import Quorum
from consilo.kernel.steps import Reply, Step
from consilo.wire.params import Params

Gives = Literal["sum", "vectors"]


@dataclass(frozen=True)
class Reduced:
    """What a reduction brings back.

    Args:
        mean: the combined vector.
        replies: silo → its other reply fields (everything but the vector), in the order asked.
    """

    mean: Params
    replies: Mapping[str, Reply]


class Reduce(Protocol):
    """How one vector per silo becomes one vector.

    ``gives`` says what the coordinator gets to see: only a ``sum``, or the single ``vectors``;
    ``linear`` whether the rule commutes with sums; ``passes`` how many exchanges it takes.
    """

    gives: Gives
    linear: bool
    passes: int

    def __call__(
        self,
        members: Sequence[str],
        verb: str,
        payload: Mapping[str, Any],
        *,
        vector: str,
        weight: str,
        quorum: Quorum | None,
    ) -> Generator[Step, Any, Reduced]:
        """Ask ``verb`` of ``members`` and combine the reply field ``vector`` by ``weight``."""
        ...
