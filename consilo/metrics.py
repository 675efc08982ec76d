"""Figures of merit, and the sums from which a federation computes them for all silos together.

A *tally* holds sums over rows only: numbers that may leave a silo and that add up, so
``metrics_of(merge(tallies))`` is the metric of the pooled rows, not a mean of local metrics. The
ROC AUC of the pooled rows comes from a histogram of the scores per label (256 bins, uniform in the
logit over [-8, 8], the outer bins open), and is within 2e-3 of the exact one unless the scores
crowd into a few bins.

Outputs are a model's raw outputs: logits for the classification tasks. All arrays are numpy.

>>> import numpy as np
>>> north = tally("binary", np.array([2.0, -1.0]), np.array([1, 0]))
>>> south = tally("binary", np.array([0.5, 0.1]), np.array([0, 1]))
>>> whole = metrics_of(merge([north, south]))
>>> whole["accuracy"], whole["roc_auc"]
(0.75, 0.75)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
TaskKind = Literal["binary", "multiclass", "regression", "custom"]
Tally: TypeAlias = dict[str, "float | Array"]
"""Sums over rows: ``n`` and others, each a float or a float64 vector."""

NUM_BINS = 256
MAX_LOGIT = 8.0
NOISE = "noise_variance/"
MOST_NOISE = 0.1
"""The largest standard error with which a noisy figure says something: of a share, of a loss in
nats, of a deviation relative to itself."""
_CUSTOM_SUM = "metric_sum/"
_CUSTOM_ROWS = "metric_rows/"


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
    return float(np.sqrt(np.mean((_wide(targets) - _wide(values)) ** 2))) if len(targets) else _NAN


def mae(targets: Array, values: Array) -> float:
    """Return the mean absolute error; NaN without rows."""
    return float(np.mean(np.abs(_wide(targets) - _wide(values)))) if len(targets) else _NAN


def r2(targets: Array, values: Array) -> float:
    """Return the share of the targets' variance that is explained; NaN for constant targets."""
    wide = _wide(targets)
    total = float(np.sum((wide - wide.mean()) ** 2)) if wide.size else 0.0
    return 1.0 - float(np.sum((wide - _wide(values)) ** 2)) / total if total > 0 else math.nan


def tally(kind: TaskKind, outputs: Array, targets: Array) -> Tally:
    """Return the sums over rows that the task's metrics are made of.

    Args:
        kind: which task; ``custom`` counts the rows only, see `custom_tally`.
        outputs: binary (n,) logits; multiclass (n, k) logits; regression (n,) or (n, k) values.
        targets: (n,) class indices, or (n,) or (n, k) values.
    """
    num_rows = float(len(targets))
    if kind == "custom":
        return {"n": num_rows}
    if kind == "regression":
        wide = _wide(targets)
        error = wide - _wide(outputs)
        return {
            "n": num_rows,
            "values": float(wide.size),
            "squared_error_sum": float(np.sum(error**2)),
            "absolute_error_sum": float(np.sum(np.abs(error))),
            "target_sum": float(np.sum(wide)),
            "target_square_sum": float(np.sum(wide**2)),
        }
    labels = np.asarray(targets).astype(np.int64)
    losses = row_log_losses(labels, outputs)
    if kind == "multiclass":
        predicted = np.argmax(outputs, axis=1) if len(labels) else labels
    else:
        predicted = (np.asarray(outputs) > 0).astype(np.int64)
    sums: Tally = {
        "n": num_rows,
        "correct": float(np.sum(predicted == labels)),
        "log_loss_sum": float(np.sum(losses)),
    }
    if kind == "binary":
        width = 2 * MAX_LOGIT / NUM_BINS
        bins = np.floor((_wide(outputs) + MAX_LOGIT) / width).clip(0, NUM_BINS - 1).astype(np.int64)
        for label in (0, 1):
            counts = np.bincount(bins[labels == label], minlength=NUM_BINS)
            sums[f"scores_{label}"] = counts.astype(np.float64)
    return sums


def custom_tally(num_rows: int, metrics: Mapping[str, float]) -> Tally:
    """Return a tally of a user's own metrics, which add up as means weighted by rows.

    A metric that is not finite is left out, with its rows, so that it does not spoil the mean.
    """
    sums: Tally = {"n": float(num_rows)}
    for name, value in metrics.items():
        if num_rows and math.isfinite(value):
            sums[_CUSTOM_SUM + name] = float(value) * num_rows
            sums[_CUSTOM_ROWS + name] = float(num_rows)
    return sums


def merge(tallies: Iterable[Mapping[str, float | Array]]) -> Tally:
    """Return the sum of tallies, entry by entry; an entry that a silo lacks counts as 0."""
    total: Tally = {}
    for each in tallies:
        for name, value in each.items():
            wide: float | Array = (
                np.asarray(value, np.float64) if np.ndim(value) else float(np.asarray(value))
            )
            total[name] = total[name] + wide if name in total else wide
    return total


def metrics_of(sums: Mapping[str, float | Array]) -> dict[str, float]:
    """Return the metrics that a tally determines; one that is undefined is left out.

    Of noisy sums (see `noise_of`) each is kept where an exact one would lie, and left out where it
    is mostly noise.
    """
    metrics = _all_of(sums)
    if is_noisy(sums):
        errors = noise_of(sums)
        metrics = {
            name: min(max(value, _LEAST.get(name, 0.0)), _MOST.get(name, math.inf))
            for name, value in metrics.items()
            if errors.get(name, math.inf) <= MOST_NOISE
        }
    return metrics


def is_noisy(sums: Mapping[str, float | Array]) -> bool:
    """Return whether a tally says that noise was added to its sums."""
    return any(name.startswith(NOISE) for name in sums)


def noise_of(sums: Mapping[str, float | Array]) -> dict[str, float]:
    """Return the standard error that noise alone gives each metric of a noisy tally.

    To first order in the noise; of the area under the curve, whose noise is a product too, a bound.
    Those of ``rmse`` and ``mae`` are relative to them. Empty for an exact tally.

    Args:
        sums: with ``noise_variance/ENTRY``, the variance of the noise in an entry, or in each
            number of a vector; tallies that are merged add them up.
    """

    def variance(entry: str) -> float:
        return _number(sums, NOISE + entry)

    if not is_noisy(sums):
        return {}
    errors: dict[str, float] = {}
    num_rows, num_values = _number(sums, "n"), _number(sums, "values")
    if num_rows > 0 and "correct" in sums:
        errors["accuracy"] = math.sqrt(variance("correct")) / num_rows
        errors["log_loss"] = math.sqrt(variance("log_loss_sum")) / num_rows
    if "scores_0" in sums and "scores_1" in sums:
        negative, positive = np.asarray(sums["scores_0"]), np.asarray(sums["scores_1"])
        counts = float(negative.sum()), float(positive.sum())
        if min(counts) > 0:
            each = [np.count_nonzero(negative) * variance("scores_0") / counts[0] ** 2]
            each += [np.count_nonzero(positive) * variance("scores_1") / counts[1] ** 2]
            errors["roc_auc"] = math.sqrt(sum(each) + each[0] * each[1])
    if num_values > 0:
        squares, total = _number(sums, "squared_error_sum"), _total(sums)
        noise = variance("squared_error_sum")
        if squares > 0:
            errors["rmse"] = math.sqrt(noise) / squares / 2
        if _number(sums, "absolute_error_sum") > 0:
            absolute = _number(sums, "absolute_error_sum")
            errors["mae"] = math.sqrt(variance("absolute_error_sum")) / absolute
        if total > 0:
            errors["r2"] = math.sqrt(noise + variance("target_square_sum")) / total
    return errors


def _total(sums: Mapping[str, float | Array]) -> float:
    """Return the targets' sum of squared deviations."""
    mean = _number(sums, "target_sum") / _number(sums, "values")
    return _number(sums, "target_square_sum") - _number(sums, "values") * mean**2


def _all_of(sums: Mapping[str, float | Array]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    num_rows = _number(sums, "n")
    if num_rows > 0 and "correct" in sums:
        metrics["accuracy"] = _number(sums, "correct") / num_rows
        metrics["log_loss"] = _number(sums, "log_loss_sum") / num_rows
    if "scores_0" in sums and "scores_1" in sums:
        metrics["roc_auc"] = _histogram_auc(
            np.asarray(sums["scores_0"]), np.asarray(sums["scores_1"])
        )
    num_values = _number(sums, "values")
    if num_values > 0:
        squared_error = max(0.0, _number(sums, "squared_error_sum"))
        metrics["rmse"] = math.sqrt(squared_error / num_values)
        metrics["mae"] = _number(sums, "absolute_error_sum") / num_values
        total = _total(sums)
        # Below this the variance is lost in the rounding of the sums: the targets are constant.
        if total > 1e-12 * _number(sums, "target_square_sum"):
            metrics["r2"] = 1.0 - squared_error / total
    for entry in sums:
        if entry.startswith(_CUSTOM_SUM):
            name = entry.removeprefix(_CUSTOM_SUM)
            rows = _number(sums, _CUSTOM_ROWS + name)
            metrics[name] = _number(sums, entry) / rows if rows > 0 else math.nan
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


_MOST = {"accuracy": 1.0, "roc_auc": 1.0, "r2": 1.0}
_LEAST = {"r2": -math.inf}
_NAN = math.nan


def _histogram_auc(negative: Array, positive: Array) -> float:
    pairs = float(negative.sum()) * float(positive.sum())
    if pairs <= 0:
        return math.nan
    below = np.cumsum(negative) - negative
    return float(np.sum(positive * (below + negative / 2.0))) / pairs


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


def _number(sums: Mapping[str, float | Array], name: str) -> float:
    return float(np.asarray(sums.get(name, 0.0)))
