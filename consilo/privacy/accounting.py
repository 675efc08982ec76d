"""What noise costs: from (noise multiplier, sampling rate, steps) to epsilon, and back.

A *history* is a list of ``(noise_multiplier, sample_rate, steps)``; it survives JSON and is what a
silo's ledger keeps. Unit of privacy: see `adjacency`; sampling is Poisson's. The
accountants are Opacus': PRV (Gopi et al. 2021, numerical composition) is the figure that counts,
RDP (Mironov 2017) stands beside it as a bound obtained another way.

PRV reports an upper bound whose slack we choose: 0.01, less where epsilon is small. Calibration
uses the same function that later reports what was spent, so that spending never exceeds the target.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Literal, TypeAlias

import numpy as np

from consilo.errors import IncompatibleJob
from consilo.privacy.renyi import compute_rdp, epsilon_of, remember_orders
from consilo.privacy.unit import unit_of

Accountant = Literal["prv", "rdp"]
HistoryRow: TypeAlias = tuple[float, float, int]
_Cost: TypeAlias = Callable[[float], float]

CALIBRATION_TOLERANCE = 0.002
"""Relative distance of a calibrated noise multiplier from the smallest that meets the target."""

# (slack, epsilon below which to try it). A tenth of the slack costs ten times the time.
_PRV_SLACKS = ((0.01, math.inf), (0.001, 1.1), (0.0001, 0.03))
# PRV's memory grows with epsilon (a mesh of 1e-4 over the range of the loss); nobody deploys an
# epsilon above 50, and RDP bounds it in microseconds.
_PRV_UP_TO = 50.0
_MAX_SIGMA = 1e6
_MIN_SIGMA = 1e-3

_REPLACED = frozenset({"vertical_split", "vertical_split_figures"})
"""Mechanisms whose noise is twice as large, because they hide which values a row has."""


def adjacency(mechanism: str) -> str:
    """Return which tables a mechanism makes hard to tell apart: what its ε is about.

    The same words stand in the plan of a job and in the ledger's statement. Two tables that differ
    in the values of one row, or of one subject, where they are added or removed, are one removal
    and one addition: at most 2 ε, at δ (1 + e^ε).

    >>> adjacency("dp_sgd")
    'one row is there or not; the exact number of rows is released beside it'
    >>> adjacency("dp_sgd/subject")[:55]
    'one subject, with all of its rows, is there or not; the'
    """
    if unit_of(mechanism) == "subject":
        return (
            "one subject, with all of its rows, is there or not; the exact number of subjects is "
            "released beside it"
        )
    if mechanism in _REPLACED:
        return "one row has these values or others; which rows are matched is released beside it"
    return "one row is there or not; the exact number of rows is released beside it"


@dataclass(frozen=True)
class Spend:
    """What a history costs at one delta, each an upper bound.

    Args:
        epsilon_prv: by numerical composition; inf where nothing was added. Above 50 it is the
            RDP bound, because PRV needs too much memory there; so it is at a delta that is within
            PRV's rounding (from 1e-13 or so down).
        epsilon_rdp: by Rényi moments.
        delta: the probability that the bounds do not cover.
    """

    epsilon_prv: float
    epsilon_rdp: float
    delta: float


def spent(history: Sequence[Sequence[float]], delta: float) -> Spend:
    """Return what ``history`` costs at ``delta``.

    Args:
        history: rows ``(noise_multiplier, sample_rate, steps)``, tuples or, after JSON, lists.
        delta: in (0, 1).

    An empty history costs nothing; a row without noise costs infinity.
    """
    _check_delta(delta)
    rows = _merged(history)
    if not rows:
        return Spend(epsilon_prv=0.0, epsilon_rdp=0.0, delta=delta)
    if any(sigma == 0 for sigma, _, _ in rows):
        return Spend(epsilon_prv=math.inf, epsilon_rdp=math.inf, delta=delta)
    return Spend(
        epsilon_prv=_epsilon(rows, delta, "prv"),
        epsilon_rdp=_epsilon(rows, delta, "rdp"),
        delta=delta,
    )


@lru_cache(maxsize=256)
def noise_multiplier(
    *,
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    accountant: Accountant = "prv",
    besides: tuple[HistoryRow, ...] = (),
) -> float:
    """Return the smallest noise multiplier that keeps ``steps`` steps within the target.

    Never above the target; at most `CALIBRATION_TOLERANCE` larger than needed. Takes up to some
    seconds with PRV; the answer is cached for the process.

    Args:
        target_epsilon: what all steps together may cost, above 0.
        delta: in (0, 1).
        sample_rate: probability with which each record joins a step, in (0, 1].
        steps: number of optimiser steps over the whole run.
        accountant: whose bound must meet the target.
        besides: what else is paid from the same target, such as statistics.

    Raises:
        IncompatibleJob: where no noise is enough.
    """
    _check_delta(delta)
    if not target_epsilon > 0:
        raise IncompatibleJob(f"epsilon must be above 0, found {target_epsilon}")
    _check_row((1.0, sample_rate, steps))

    def cost(sigma: float, by: Accountant) -> float:
        return _epsilon(_merged([*besides, (sigma, sample_rate, steps)]), delta, by)

    # RDP costs microseconds: its answer is where PRV (0.1 to 1 s a call) starts. Its orders end
    # at 63, so that it has no answer for a very small epsilon.
    high = _bracket_top(lambda sigma: cost(sigma, "rdp"), target_epsilon, start=1.0, growth=2.0)
    if high < _MAX_SIGMA:
        high = _smallest(lambda sigma: cost(sigma, "rdp"), target_epsilon, high)
    if accountant == "prv":
        start, growth = (high, 1.02) if high < _MAX_SIGMA else (1.0, 4.0)
        high = _bracket_top(lambda sigma: cost(sigma, "prv"), target_epsilon, start, growth)
        if high < _MAX_SIGMA:
            high = _smallest(lambda sigma: cost(sigma, "prv"), target_epsilon, high)
    if high >= _MAX_SIGMA:
        raise IncompatibleJob(
            f"no noise keeps {steps} steps at sampling rate {sample_rate:g} within epsilon"
            f" {target_epsilon:g} at delta {delta:g}, says the accountant {accountant}; raise"
            " epsilon, or train fewer steps"
        )
    return high


def least_epsilon(delta: float, accountant: Accountant) -> float:
    """Return the ε below which an accountant vouches for nothing, with the most noise there is.

    It is that of one sum with this noise; more steps, or more of the rows in each, cost no less.
    """
    _check_delta(delta)
    return max(0.0, _epsilon(((_MAX_SIGMA, 1.0, 1),), delta, accountant))


def _bracket_top(cost: _Cost, target: float, start: float, growth: float) -> float:
    """Return the first of start, start * growth, ... that meets the target, or the maximum."""
    sigma = start
    while sigma < _MAX_SIGMA and cost(sigma) > target:
        sigma *= growth
    return min(sigma, _MAX_SIGMA)


def _smallest(cost: _Cost, target: float, high: float) -> float:
    """Return the smallest multiplier that meets the target, to the tolerance, from above.

    False position in log-log, where epsilon is nearly a straight line: about 4 evaluations
    instead of the 9 of bisection.
    """
    high_cost = cost(high)
    low, low_cost = 0.0, math.inf
    aim = target * (1.0 - CALIBRATION_TOLERANCE / 2.0)
    slope = -1.0
    while high_cost < target * (1.0 - CALIBRATION_TOLERANCE) and high > _MIN_SIGMA:
        if high - low <= CALIBRATION_TOLERANCE * high:
            break
        if low > 0 and math.isfinite(low_cost) and low_cost > high_cost > 0:
            slope = math.log(high_cost / low_cost) / math.log(high / low)
        guess = high * (aim / high_cost) ** (1.0 / slope) if high_cost > 0 else high / 2.0
        if low > 0:
            margin = (high - low) / 10.0
            guess = min(max(guess, low + margin), high - margin)
        else:
            guess = max(guess, high / 2.0)
        guess_cost = cost(guess)
        if guess_cost <= target:
            high, high_cost = guess, guess_cost
        else:
            low, low_cost = guess, guess_cost
    return high


@lru_cache(maxsize=1024)
def _epsilon(rows: tuple[HistoryRow, ...], delta: float, accountant: Accountant) -> float:
    with warnings.catch_warnings():
        # RDP tells us that its best order is the largest or smallest it tries: the bound holds,
        # it is only not the tightest. PRV calls RDP to choose a mesh, where that is harmless.
        warnings.filterwarnings("ignore", message="Optimal order is the")
        # PRV takes log(1 - q): minus infinity at q = 1 is the right bound there.
        warnings.filterwarnings("ignore", message="divide by zero encountered in log")
        warnings.filterwarnings("ignore", message="overflow encountered")
        each = [
            compute_rdp(sample_rate=rate, sigma=sigma, steps=steps) for sigma, rate, steps in rows
        ]
        bound = epsilon_of(reduce(np.add, each), delta)
        if accountant == "rdp" or bound > _PRV_UP_TO:
            return bound
        from opacus.accountants import PRVAccountant

        remember_orders()
        prv = PRVAccountant()
        prv.history = list(rows)
        epsilon = math.inf
        for slack, below in _PRV_SLACKS:
            if epsilon < below or below == math.inf:
                try:
                    # Each is an upper bound, so the smallest one is.
                    epsilon = min(epsilon, float(prv.get_epsilon(delta, eps_error=slack)))
                except ValueError:  # delta is within its rounding: from 1e-13 or so down
                    break
    return epsilon if math.isfinite(epsilon) else bound


def _merged(history: Sequence[Sequence[float]]) -> tuple[HistoryRow, ...]:
    """Return the history with one row for each (noise, rate), in a canonical order."""
    steps_of: dict[tuple[float, float], int] = {}
    for row in history:
        _check_row(row)
        sigma, rate, steps = float(row[0]), float(row[1]), int(row[2])
        steps_of[sigma, rate] = steps_of.get((sigma, rate), 0) + steps
    return tuple(
        (sigma, rate, steps) for (sigma, rate), steps in sorted(steps_of.items()) if steps > 0
    )


def _check_row(row: Sequence[float]) -> None:
    if len(row) != 3:
        raise IncompatibleJob(f"a row of a privacy history has 3 numbers, found {len(row)}")
    sigma, rate, steps = row
    if not (math.isfinite(sigma) and sigma >= 0):
        raise IncompatibleJob(f"the noise multiplier must be 0 or more, found {sigma}")
    if not 0 < rate <= 1:
        raise IncompatibleJob(f"the sampling rate must be in (0, 1], found {rate}")
    if steps < 0 or int(steps) != steps:
        raise IncompatibleJob(f"the number of steps must be a whole number, found {steps}")


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise IncompatibleJob(f"delta must be between 0 and 1, found {delta}")
