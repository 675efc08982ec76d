"""Figures of merit of rows that lie in one place, exactly; a federation's are made of tallies."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def accuracy(labels: Array, predicted: Array) -> float:
    """Return the share of rows whose predicted class is the label; NaN without rows."""
    return float(np.mean(labels == predicted)) if len(labels) else math.nan


def log_loss(labels: Array, logits: Array) -> float:
    """Return the mean negative log likelihood; logits are (n,) for two classes, else (n, k)."""
    return float(np.mean(row_log_losses(labels, logits))) if len(labels) else math.nan


def roc_auc(labels: Array, scores: Array) -> float:
    """Return the area under the ROC curve, ties counted half; NaN where a class is missing."""
    positive = np.asarray(labels) == 1
    num_positive = int(positive.sum())
    num_negative = positive.size - num_positive
    if num_positive == 0 or num_negative == 0:
        return math.nan
    _, place, counts = np.unique(np.asarray(scores), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    mean_rank = ends - (counts - 1) / 2.0
    rank_sum = float(mean_rank[place][positive].sum())
    wins = rank_sum - num_positive * (num_positive + 1) / 2.0
    return float(wins / (num_positive * num_negative))


def rmse(targets: Array, values: Array) -> float:
    """Return the root mean squared error; NaN without rows."""
    return (
        float(np.sqrt(np.mean((_wide(targets) - _wide(values)) ** 2))) if len(targets) else math.nan
    )


def mae(targets: Array, values: Array) -> float:
    """Return the mean absolute error; NaN without rows."""
    return float(np.mean(np.abs(_wide(targets) - _wide(values)))) if len(targets) else math.nan


def r2(targets: Array, values: Array) -> float:
    """Return the share of the targets' variance that is explained; NaN for constant targets."""
    wide = _wide(targets)
    total = float(np.sum((wide - wide.mean()) ** 2)) if wide.size else 0.0
    return 1.0 - float(np.sum((wide - _wide(values)) ** 2)) / total if total > 0 else math.nan


def row_log_losses(labels: Array, logits: Array) -> Array:
    """Return each row's negative log likelihood; see `log_loss`."""
    wide = _wide(logits)
    index = np.asarray(labels).astype(np.int64)
    if wide.ndim == 1:
        return np.asarray(np.logaddexp(0.0, np.where(index == 1, -wide, wide)))
    if not len(index):
        return np.zeros(0)
    top = wide.max(axis=1)
    norm = top + np.log(np.exp(wide - top[:, None]).sum(axis=1))
    return np.asarray(norm - wide[np.arange(len(index)), index])


def _wide(values: Array) -> Array:
    return np.asarray(values, np.float64)
