"""How many have not seen an event yet: Kaplan and Meier on a grid of times.

Sources: Kaplan & Meier, "Nonparametric Estimation from Incomplete Observations", JASA 53 (1958);
its variance by Greenwood (1926); intervals by the variance of log(-log S), which stay within [0, 1]
(Kalbfleisch & Prentice, "The Statistical Analysis of Failure Time Data", 2nd ed. 2002, 1.4.1);
groups are compared by the log-rank test with the hypergeometric variance (Mantel 1966; ibid.).

What happens within a step counts at its end, events before censorings, so that the curve is that of
the rows with their times rounded up to the grid, and the exact one where all times lie on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

Z95 = 1.959963984540054
_WIDEST = 50.0  # its exponential is an interval from 0 to 1


@dataclass(frozen=True)
class Curve:
    """A curve; an entry a step of the grid.

    Args:
        at_risk: rows that no event or censoring took before the step.
        events: within it.
        censored: within it.
        survival: the share without an event up to its end.
        std_error: of it, by Greenwood.
        low: 95 % interval.
        high: the same.
    """

    at_risk: Floats
    events: Floats
    censored: Floats
    survival: Floats
    std_error: Floats
    low: Floats
    high: Floats


def kaplan_meier(events: Floats, censored: Floats, after: float) -> Curve:
    """Return the curve of rows by step.

    Args:
        events: rows with the event in each step; 0 or more.
        censored: rows last seen in each step, without it.
        after: rows that are seen beyond the last step.

    >>> kaplan_meier(np.array([1.0, 1.0]), np.array([0.0, 1.0]), 1.0).survival
    array([0.75, 0.5 ])
    """
    gone = events + censored
    at_risk = np.cumsum(gone[::-1])[::-1] + after
    safe = np.where(at_risk > 0, at_risk, 1.0)
    share = np.clip(np.where(at_risk > 0, 1.0 - events / safe, 1.0), 0.0, 1.0)
    survival = np.cumprod(share)
    left = at_risk - events
    terms = np.where((at_risk > 0) & (left > 0), events / (safe * np.where(left > 0, left, 1.0)), 0)
    spread = np.cumsum(terms)  # the variance of log S
    low, high = _interval(survival, spread)
    return Curve(at_risk, events, censored, survival, survival * np.sqrt(spread), low, high)


def _interval(survival: Floats, spread: Floats) -> tuple[Floats, Floats]:
    inside = (survival > 0) & (survival < 1)
    safe = np.where(inside, survival, 0.5)
    logs = np.log(safe)
    width = np.minimum(Z95 * np.sqrt(spread) / np.abs(logs), _WIDEST)
    low = np.where(inside, safe ** np.exp(width), survival)
    high = np.where(inside, safe ** np.exp(-width), survival)
    return low, high


def median(ends: Floats, survival: Floats) -> float:
    """Return the first time at which half or fewer are left; NaN where the curve stays above."""
    below = np.flatnonzero(survival <= 0.5)
    return float(ends[below[0]]) if len(below) else math.nan


@dataclass(frozen=True)
class LogRank:
    """How unlike curves are.

    Args:
        statistic: chi-square.
        freedom: its degrees of freedom.
        p: chance of one as large where all groups have one curve.
        expected: events that each group would have then.
    """

    statistic: float
    freedom: int
    p: float
    expected: tuple[float, ...]


def log_rank(events: Floats, censored: Floats, after: Floats) -> LogRank:
    """Return the log-rank test of several groups.

    Args:
        events: (groups, steps).
        censored: (groups, steps).
        after: (groups,): rows that are seen beyond the last step.
    """
    from scipy.stats import chi2

    gone = events + censored
    at_risk = np.cumsum(gone[:, ::-1], axis=1)[:, ::-1] + after[:, None]
    rows, died = at_risk.sum(axis=0), events.sum(axis=0)
    used = (rows > 1) & (died > 0)
    at_risk, rows, died = at_risk[:, used], rows[used], died[used]
    share = at_risk / rows
    expected = (share * died).sum(axis=1)
    observed = events[:, used].sum(axis=1)
    factor = died * (rows - died) / (rows - 1)
    spread = np.einsum("t,gt,ht->gh", -factor, share, share)
    spread[np.diag_indices(len(share))] += (factor * share).sum(axis=1)
    apart = (observed - expected)[:-1]
    freedom = int(np.linalg.matrix_rank(spread[:-1, :-1])) if len(apart) else 0
    statistic = float(apart @ np.linalg.pinv(spread[:-1, :-1]) @ apart) if freedom else 0.0
    p = float(chi2.sf(statistic, freedom)) if freedom else 1.0
    return LogRank(statistic, freedom, p, tuple(map(float, expected)))
