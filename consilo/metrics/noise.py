"""What noise in a tally's sums makes of the figures: their standard error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]

NOISE = "noise_variance/"
MOST_NOISE = 0.1
"""The largest standard error with which a noisy figure says something: of a share, of a loss in
nats, of a deviation relative to itself."""


def is_noisy(sums: Mapping[str, float | Array]) -> bool:
    """Return whether a tally says that noise was added to its sums."""
    return any(name.startswith(NOISE) for name in sums)


def noise_of(sums: Mapping[str, float | Array]) -> dict[str, float]:
    """Return the standard error that noise alone gives each metric of a noisy tally.

    To first order in the noise; of the area under the curve, whose noise is a product too, a bound.
    Those of ``rmse`` and ``mae`` are relative to them. Infinite where noise has made a sum, which
    a metric is divided by, zero or less. Empty for an exact tally.

    Args:
        sums: with ``noise_variance/ENTRY``, the variance of the noise in an entry, or in each
            number of a vector; tallies that are merged add them up.
    """

    def variance(entry: str) -> float:
        return number_of(sums, NOISE + entry)

    if not is_noisy(sums):
        return {}
    errors: dict[str, float] = {}
    buried = math.inf  # told as left out, never silently lacking
    num_rows, num_values = number_of(sums, "n"), number_of(sums, "values")
    if num_rows > 0 and "correct" in sums:
        errors["accuracy"] = math.sqrt(variance("correct")) / num_rows
        errors["log_loss"] = math.sqrt(variance("log_loss_sum")) / num_rows
    if "scores_0" in sums and "scores_1" in sums:
        negative, positive = np.asarray(sums["scores_0"]), np.asarray(sums["scores_1"])
        counts = float(negative.sum()), float(positive.sum())
        errors["roc_auc"] = buried
        if min(counts) > 0:
            each = [np.count_nonzero(negative) * variance("scores_0") / counts[0] ** 2]
            each += [np.count_nonzero(positive) * variance("scores_1") / counts[1] ** 2]
            errors["roc_auc"] = math.sqrt(sum(each) + each[0] * each[1])
    if num_values > 0:
        squares, total = number_of(sums, "squared_error_sum"), total_of(sums)
        noise = variance("squared_error_sum")
        errors["rmse"] = math.sqrt(noise) / squares / 2 if squares > 0 else buried
        if "absolute_error_sum" in sums:
            absolute, spread = number_of(sums, "absolute_error_sum"), variance("absolute_error_sum")
            errors["mae"] = math.sqrt(spread) / absolute if absolute > 0 else buried
        if "target_square_sum" in sums:
            both = math.sqrt(noise + variance("target_square_sum"))
            errors["r2"] = both / total if total > 0 else buried
    return errors


def total_of(sums: Mapping[str, float | Array]) -> float:
    """Return the targets' sum of squared deviations."""
    mean = number_of(sums, "target_sum") / number_of(sums, "values")
    return number_of(sums, "target_square_sum") - number_of(sums, "values") * mean**2


def number_of(sums: Mapping[str, float | Array], name: str) -> float:
    """Return an entry of a tally, 0 where it lacks."""
    return float(np.asarray(sums.get(name, 0.0)))
