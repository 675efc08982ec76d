"""The weighted mean: one pass, folded reply by reply (McMahan et al. 2017, Algorithm 1, last line).

Differences from the paper: none.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.errors import TooFewRows
from consilo.jobs.quorum import Quorum
from consilo.kernel.steps import Reply, Step, Stream
from consilo.reduce import Gives, Reduced
from consilo.wire.params import Params

Array: TypeAlias = npt.NDArray[Any]

_LARGE = 1 << 16
_BLOCK = 1 << 15  # what fits into a core's cache


class WeightedMean:
    """Mean of the silos' vectors, weighted by a count that each states.

    Sums are kept in float64 (see `fold`) and taken in the order of the members, so that the result
    does not depend on who answers first. Memory: 1.5 models for each vector's sums, and one reply.
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
        vectors: Mapping[str, str | None],
        quorum: Quorum | None,
    ) -> Generator[Step, Any, Reduced]:
        """Ask ``verb`` of ``members`` and return the mean of each field of ``vectors``.

        Raises:
            RunFailed: where the quorum is not met, or nobody holds a row.
        """
        replies = yield Stream(members, verb, payload, quorum=quorum)
        totals: dict[str, Total] = {}
        masses = dict.fromkeys(vectors, 0.0)
        others: dict[str, Reply] = {}
        for reply in replies:
            fields = dict(reply.fields)
            for name, weight in vectors.items():
                amount = 1 if weight is None else fields[weight]
                totals[name] = fold(totals.get(name), fields.pop(name), amount)
                masses[name] += amount
            others[reply.silo] = Reply(reply.silo, fields, reply.seconds)
            del reply
        if not totals or not all(masses.values()):
            raise no_rows(verb, members)
        return Reduced({name: finish(totals.pop(name), masses[name]) for name in vectors}, others)


def no_rows(verb: str, members: Sequence[str]) -> TooFewRows:
    """Return the error of a step that nobody answered who holds a row."""
    return TooFewRows(
        f"'{verb}': no silo that answered holds a row to learn from; check the silos' data",
        missing={name: "no rows" for name in members},
    )


Total: TypeAlias = dict[str, npt.NDArray[Any]]
"""Sums by name: float64, or for a large entry 48 bits each; see `fold`."""


def fold(total: Total | None, vector: Params, weight: float) -> Total:
    """Return ``total + weight * vector``; ``total`` is changed in place, None stands for zero.

    The sums of an entry of 64 Ki numbers or more are doubles that are kept in 48 bits, rounded:
    sign, exponent and 36 bits of mantissa, 12 more than a float32 has. Each addition errs by
    1e-11 of its sum at most, and a large model's sums take 1.5 models of memory instead of 2.

    Args:
        total: sums by name, or None.
        vector: numeric arrays by name, any float dtype.
        weight: 0 or more.
    """
    sums: Total = {} if total is None else total
    for name, value in vector.items():
        if value.size >= _LARGE:
            if total is None:
                sums[name] = np.zeros((3, *value.shape), "<u2")
            flat = value.reshape(-1)
            scratch = np.empty(_BLOCK, np.float64)
            for part, exact, high, low in _blocks(sums[name]):
                more = scratch[: len(exact)]
                np.multiply(flat[part], weight, out=more, dtype=np.float64)
                np.add(exact, more, out=exact)
                _cut(exact, high, low)
        elif total is None:
            sums[name] = value.astype(np.float64) * weight
        else:
            sums[name] += np.multiply(value, weight, dtype=np.float64)
    return sums


def finish(total: Total, mass: float) -> Params:
    """Return the mean as float32: ``total / mass``; what is too large becomes infinite.

    ``total`` is used up: each entry is let go when its mean is there.
    """
    mean: Params = {}
    with np.errstate(over="ignore"):
        for name in list(total):
            sums = total.pop(name)
            if sums.dtype == np.float64:
                mean[name] = (sums / mass).astype(np.float32)
                continue
            mean[name] = np.empty(sums.shape[1:], np.float32)
            flat = mean[name].reshape(-1)
            for part, exact, _, _ in _blocks(sums):
                flat[part] = np.divide(exact, mass, out=exact)
    return mean


def _blocks(sums: Array) -> Iterator[tuple[slice, Array, Array, Array]]:
    """Yield block after block: which numbers, as float64, their high 32 bits, the 16 below them.

    The float64 are a copy, good until the next block.
    """
    words = sums.reshape(-1)
    size = len(words) // 3
    highs, lows = words[: 2 * size].view("<u4"), words[2 * size :]
    scratch = np.zeros(_BLOCK, "<f8")
    for start in range(0, size, _BLOCK):
        part = slice(start, min(start + _BLOCK, size))
        exact = scratch[: part.stop - start]
        exact.view("<u4")[1::2] = highs[part]
        exact.view("<u2")[1::4] = lows[part]
        exact.view("<u2")[0::4] = 0
        yield part, exact, highs[part], lows[part]


def _cut(exact: Array, high: Array, low: Array) -> None:
    """Write float64, which is used up, into 48 bits each."""
    bits = exact.view("<u8")
    bits += np.uint64(1 << 15)  # to the nearest; a carry goes on into the exponent, as it should
    high[...] = exact.view("<u4")[1::2]
    low[...] = exact.view("<u2")[1::4]
