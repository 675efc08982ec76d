"""How far counts per bin have moved since counts before: by how much, and by more than chance.

The population stability index is Jeffreys' divergence of two sets of shares, a sum over bins of
``(a - e) * ln(a / e)`` (Siddiqi 2006, "Credit Risk Scorecards"; usual reading: below 0.1 nothing,
above 0.25 a shift). For rows that come from the same population it is not 0: times
``1 / (1/n + 1/m)`` it is about chi-squared with one degree of freedom less than bins (Yurdakul
2018, "Statistical Properties of Population Stability Index", section 3), so that 30 rows in ten
bins have an index of 0.6 by chance alone. `Shift.by_chance` is the level that chance passes once in
a thousand times, noise of differential privacy included; nobody should call less than that drift.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

_Z = 3.09
"""Standard normal deviate that is passed once in a thousand times."""
_Z_OF_NOISY = 4.5
"""In its place where counts are noisy: those below 0 were set to 0, which moves shares besides."""
_HALF = 0.5
"""Added to each bin's count, so that an empty one has a logarithm."""


@dataclass(frozen=True)
class Shift:
    """How far one column has moved; shares are between 0 and 1.

    Args:
        psi: the index over the bins that hold a value.
        ks: the largest distance between the two cumulative distributions at the bins' ends; 0 for
            a category, which has no order.
        missing: the share that is missing now less the share before: -1 to 1.
        unseen: the share of rows now whose bins were empty before.
        psi_by_chance: what rows of the same population stay below, 999 times of 1,000.
        ks_by_chance: the same of ``ks``.
        missing_by_chance: the same of the size of ``missing``.
        unseen_by_chance: the same of ``unseen``.
    """

    psi: float
    ks: float
    missing: float
    unseen: float
    psi_by_chance: float
    ks_by_chance: float
    missing_by_chance: float
    unseen_by_chance: float


def psi(expected: Floats, actual: Floats) -> float:
    """Return the population stability index of two sets of shares, none of them 0.

    Args:
        expected: shares before: (bins,).
        actual: shares now: (bins,).

    >>> round(psi(np.array([0.4, 0.3, 0.3]), np.array([0.35, 0.25, 0.4])), 4)
    0.0446
    """
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def ks(before: Floats, now: Floats) -> float:
    """Return the two-sample Kolmogorov-Smirnov distance of counts per ordered bin: 0 to 1."""
    if not before.sum() or not now.sum():
        return 0.0
    apart = np.cumsum(before) / before.sum() - np.cumsum(now) / now.sum()
    return float(np.max(np.abs(apart)))


def shift(
    before: Floats,
    now: Floats,
    *,
    is_ordered: bool,
    noise_before: float = 0.0,
    noise_now: float = 0.0,
    least: float = 5.0,
) -> Shift:
    """Return how far a column's counts have moved.

    Args:
        before: counts per bin, 0 or more, the last that of what is missing: (bins + 1,).
        now: the same of the present rows.
        is_ordered: whether the bins follow each other.
        noise_before: standard deviation of the noise on each count of ``before``.
        noise_now: the same of ``now``.
        least: bins of fewer rows, in both together, are joined with those beside them; of fewer
            rows without a value, or with a new one, nothing is told.
    """
    noise = math.hypot(noise_before, noise_now)
    joined = _joined(before[:-1], now[:-1], max(least, 2.0 * noise))
    index, by_chance = _index(*joined, noise_before, noise_now)
    total_before, total_now = (max(float(each.sum()), 1.0) for each in (before, now))
    share_before, share_now = before[-1] / total_before, now[-1] / total_now
    share = (before[-1] + now[-1]) / (total_before + total_now)
    per_row = 1.0 / total_before + 1.0 / total_now
    per_noise = math.hypot(noise_before / total_before, noise_now / total_now)
    spread = math.sqrt(max(share * (1.0 - share), per_row / 4.0) * per_row + per_noise**2)
    empty = before[:-1] < max(1.0, _Z * noise_before)
    fresh = float(now[:-1][empty].sum())
    few_missing = max(float(before[-1]), float(now[-1])) < least
    return Shift(
        psi=index,
        ks=ks(before[:-1], now[:-1]) if is_ordered else 0.0,
        missing=0.0 if few_missing else float(share_now - share_before),
        unseen=fresh / total_now if fresh >= least else 0.0,
        psi_by_chance=by_chance,
        ks_by_chance=(
            math.sqrt(0.5 * math.log(2000.0) * per_row) + _Z * math.sqrt(len(before)) * per_noise
        ),
        missing_by_chance=_Z * spread,
        unseen_by_chance=(least + _Z * math.sqrt(float(empty.sum())) * noise_now) / total_now,
    )


def _index(
    before: Floats, now: Floats, noise_before: float, noise_now: float
) -> tuple[float, float]:
    if len(before) < 2:
        return 0.0, 0.0
    e, a = before + _HALF, now + _HALF
    n, m = float(e.sum()), float(a.sum())
    shares = (e + a) / (n + m)
    # The index is about a weighted sum of squares; the weights of one that is chi-squared follow
    # from its first two moments (Satterthwaite 1946), its quantile from Wilson and Hilferty 1931.
    noise = (noise_before / n) ** 2 + (noise_now / m) ** 2
    weights = (1.0 - shares) * (1.0 / n + 1.0 / m) + noise / shares
    scale = float(np.sum(weights**2) / np.sum(weights))
    degrees = float(np.sum(weights) ** 2 / np.sum(weights**2))
    step, deviate = 2.0 / (9.0 * degrees), _Z if not noise else _Z_OF_NOISY
    quantile = degrees * (1.0 - step + deviate * math.sqrt(step)) ** 3
    return psi(e / n, a / m), scale * quantile


def _joined(before: Floats, now: Floats, least: float) -> tuple[Floats, Floats]:
    """Return counts per bin with small bins joined to the next, the last small one to the former.

    Which are joined goes by both sets together, so that a bin that fills or empties stays one.
    """
    groups: list[list[int]] = []
    open_group: list[int] = []
    for place in range(len(before)):
        open_group.append(place)
        if float(before[open_group].sum() + now[open_group].sum()) >= least:
            groups.append(open_group)
            open_group = []
    if open_group:
        groups = [*groups[:-1], [*groups[-1], *open_group]] if groups else [open_group]
    return (
        np.array([before[each].sum() for each in groups]),
        np.array([now[each].sum() for each in groups]),
    )
