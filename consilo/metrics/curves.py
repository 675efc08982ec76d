"""Figures of scores that were counted in bins: ranking, precision and recall, calibration.

Each is what it is for scores rounded to the bins' middles: that is what may leave a silo. Counts
may have leading dimensions; the last one is the bins, from low scores to high.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.metrics.tallies import MAX_LOGIT

Array: TypeAlias = npt.NDArray[Any]

CALIBRATION_BINS = 10
"""Equal steps of probability in which chances are held against what came true."""


def auc(negative: Array, positive: Array) -> Array:
    """Return the area under the ROC curve, ties counted half; NaN where a class is missing."""
    pairs = negative.sum(axis=-1) * positive.sum(axis=-1)
    below = np.cumsum(negative, axis=-1) - negative
    wins = np.sum(positive * (below + negative / 2.0), axis=-1)
    return _ratio(wins, pairs)


def average_precision(negative: Array, positive: Array) -> Array:
    """Return the area under precision by recall, in steps, not interpolated; NaN without positives.

    Of a threshold in each bin: the sum of precision times what recall gains.
    """
    hits = np.cumsum(positive[..., ::-1], axis=-1)
    chosen = hits + np.cumsum(negative[..., ::-1], axis=-1)
    precision = np.where(chosen > 0, hits / np.where(chosen > 0, chosen, 1.0), 0.0)
    total = positive.sum(axis=-1)
    return _ratio(np.sum(precision * positive[..., ::-1], axis=-1), total)


def calibration_error(negative: Array, positive: Array) -> Array:
    """Return by how much chances miss what came true, a mean over rows of equal chance's gap.

    The expected calibration error with `CALIBRATION_BINS` equal steps of probability (Guo, Pleiss,
    Sun, Weinberger 2017, equation 3).
    """
    size = negative.shape[-1]
    middles = (np.arange(size) + 0.5) * (2 * MAX_LOGIT / size) - MAX_LOGIT
    chances = 1.0 / (1.0 + np.exp(-middles))
    steps = np.minimum((chances * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    member = (steps[:, None] == np.arange(CALIBRATION_BINS)).astype(np.float64)
    gaps = ((negative + positive) * chances) @ member - positive @ member
    total = negative.sum(axis=-1) + positive.sum(axis=-1)
    return _ratio(np.abs(gaps).sum(axis=-1), total)


def _ratio(over: Array, under: Array) -> Array:
    known = under > 0
    return np.where(known, over / np.where(known, under, 1.0), math.nan)
