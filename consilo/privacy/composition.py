"""What many unlike mechanisms cost together, fast enough to be asked before every training step.

Each use of the data is a row ``(noise_multiplier, sample_rate, steps)`` of subsampled Gaussians. By
Rényi moments their costs add, order by order (Mironov 2017, Proposition 1), so that an account of
thousands of rows is one vector and its ε takes microseconds (`by_renyi`). PRV is tighter and takes
a tenth of a second for each kind of row; `alike` bounds the number of kinds, by counting a row as
one with less noise and a higher rate, which costs at least as much. Both are upper bounds of the
same cost, so the smaller one counts.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from consilo.privacy.accounting import HistoryRow, spent
from consilo.privacy.renyi import compute_rdp, epsilon_of

Floats = np.ndarray[Any, np.dtype[np.float64]]

MOST_KINDS = 16
"""Kinds of rows that PRV is asked about at once: one to two seconds."""

_WIDTHS = tuple(0.005 * 1.3**each for each in range(30))
"""Of the cells, in log noise and log rate, whose rows become one."""


@lru_cache(maxsize=4096)
def moments(*, sigma: float, sample_rate: float) -> Floats:
    """Return the Rényi divergences of one step, one per order; they add over steps.

    Takes up to 0.1 s; they are kept for the process, and the ledger keeps them for longer.
    """
    vector = np.array(compute_rdp(sample_rate=sample_rate, sigma=sigma, steps=1), np.float64)
    vector.flags.writeable = False
    return vector


def by_renyi(total: Floats, delta: float) -> float:
    """Return the ε at ``delta`` that the summed moments ``total`` bound; 0 where all are 0."""
    if not total.any():
        return 0.0
    with warnings.catch_warnings():
        # The bound holds at the largest and smallest order too, it is only not the tightest.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        return max(0.0, epsilon_of(total, delta))


def by_prv(rows: Sequence[HistoryRow], delta: float) -> float:
    """Return the ε at ``delta`` that PRV bounds, after `alike`."""
    return spent(alike(rows), delta).epsilon_prv


def merged(rows: Iterable[HistoryRow]) -> list[HistoryRow]:
    """Return one row for each (noise, rate), in a fixed order."""
    steps: dict[tuple[float, float], int] = {}
    for sigma, rate, count in rows:
        steps[sigma, rate] = steps.get((sigma, rate), 0) + count
    return [(sigma, rate, count) for (sigma, rate), count in sorted(steps.items()) if count]


def alike(rows: Iterable[HistoryRow], most: int = MOST_KINDS) -> list[HistoryRow]:
    """Return at most ``most`` kinds of rows that together cost no less than ``rows``.

    Rows whose noise and rate are close become one, with the least noise and the highest rate of
    them: less noise, or a row that takes part more often, never costs less.
    """
    kinds = found = merged(rows)
    for width in _WIDTHS:
        if len(found) <= most:
            return found
        groups: dict[tuple[int, int], list[HistoryRow]] = {}
        for row in kinds:
            place = (math.floor(math.log(row[0]) / width), math.floor(math.log(row[1]) / width))
            groups.setdefault(place, []).append(row)
        found = merged(_worst(group) for group in groups.values())
    return found if len(found) <= most else [_worst(kinds)]


def _worst(rows: Sequence[HistoryRow]) -> HistoryRow:
    sigmas, rates, steps = zip(*rows, strict=True)
    return min(sigmas), max(rates), sum(steps)


def covers(more: Sequence[HistoryRow], less: Sequence[HistoryRow]) -> bool:
    """Return whether ``more`` has at least the steps of ``less`` in every kind of row."""
    there = {(sigma, rate): steps for sigma, rate, steps in merged(more)}
    return all(there.get((sigma, rate), 0) >= steps for sigma, rate, steps in merged(less))
