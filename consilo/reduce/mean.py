"""The weighted mean: one pass, folded reply by reply (McMahan et al. 2017, Algorithm 1, last line).

Differences from the paper: none.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import Any

import numpy as np

from consilo.cohorts import Quorum
from consilo.errors import QuorumLost
from consilo.params import Params
from consilo.reduce import Gives, Reduced
from consilo.steps import Reply, Step, Stream


class WeightedMean:
    """Mean of the silos' vectors, weighted by a count that each states.

    Sums are kept in float64 and taken in the order of the members, so that the result does not
    depend on who answers first. Memory: one sum in float64 and one reply.
    """

    gives: Gives = "vectors"
    linear = True
    passes = 1

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
        """Ask ``verb`` of ``members`` and return the mean of the field ``vector``.

        Raises:
            QuorumLost: where the quorum is not met, or nobody holds a row.
        """
        replies = yield Stream(members, verb, payload, quorum=quorum)
        total, mass = None, 0.0
        others: dict[str, Reply] = {}
        for reply in replies:
            fields = dict(reply.fields)
            total = fold(total, fields.pop(vector), fields[weight])
            mass += fields[weight]
            others[reply.silo] = Reply(reply.silo, fields, reply.seconds)
            del reply
        if total is None or mass == 0:
            raise QuorumLost(
                f"'{verb}': no silo that answered holds a row to learn from; check the silos' data",
                missing={name: "no rows" for name in members},
            )
        return Reduced(finish(total, mass), others)


def fold(total: Params | None, vector: Params, weight: float) -> Params:
    """Return ``total + weight * vector``; ``total`` is changed in place, None stands for zero.

    Args:
        total: float64 sums by name, or None.
        vector: numeric arrays by name, any float dtype.
        weight: 0 or more.
    """
    if total is None:
        return {name: value.astype(np.float64) * weight for name, value in vector.items()}
    for name, value in vector.items():
        total[name] += np.multiply(value, weight, dtype=np.float64)
    return total


def finish(total: Params, mass: float) -> Params:
    """Return the mean as float32: ``total / mass``; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return {name: (value / mass).astype(np.float32) for name, value in total.items()}
