"""Combine the vectors that the silos hold: what a rule gives, needs and costs is declared."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from consilo.jobs.quorum import Quorum
from consilo.kernel.steps import Reply, Step
from consilo.wire.params import Params

Gives = Literal["sum", "vectors"]


@dataclass(frozen=True)
class Reduced:
    """What a reduction brings back.

    Args:
        means: reply field → the combined vector.
        replies: silo → its other reply fields (everything but the vectors), in the order asked.
        told: what a round's report says besides: who came when.
        pending: what is under way when the round ends, by which it goes on; plain values and
            arrays.
    """

    means: Mapping[str, Params]
    replies: Mapping[str, Reply]
    told: Mapping[str, Any] = field(default_factory=dict)
    pending: Mapping[str, Any] = field(default_factory=dict)


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
        vectors: Mapping[str, str | None],
        quorum: Quorum | None,
    ) -> Generator[Step, Any, Reduced]:
        """Ask ``verb`` of ``members`` and combine reply fields.

        Args:
            members: who is asked; the order is the order of combining.
            verb: whose answers hold the vectors.
            payload: what everybody gets.
            vectors: reply field → the field that weighs it; None where every silo counts alike.
            quorum: who must have answered.
        """
        ...
