"""From a tally to figures of merit, and to intervals around them.

A figure that is called by its plain name is that of all rows of the tally together. A figure of a
user's own that does not add up is a mean over silos, and its name says so (`SILO_MEAN`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.metrics.curves import auc, average_precision, calibration_error
from consilo.metrics.noise import MOST_NOISE, is_noisy, noise_of, number_of, total_of
from consilo.metrics.tallies import MEAN_ROWS, MEAN_SILOS, MEAN_SUM, OWN_MASS, OWN_SUM

Array: TypeAlias = npt.NDArray[Any]

SILO_MEAN = "silo_mean/"
"""Before a figure that is the silos' mean, weighted by their held-out rows."""
NUM_SILOS = "num_silos/"
"""Before the number of silos that such a mean is made of."""
_MOST = {"accuracy": 1.0, "roc_auc": 1.0, "r2": 1.0}
_LEAST = {"r2": -math.inf}
_RESAMPLES = 400
_Z = 1.959963984540054  # 95 %


def metrics_of(sums: Mapping[str, float | Array], classes: Sequence[str] = ()) -> dict[str, float]:
    """Return the metrics that a tally determines; one that is undefined is left out.

    Of noisy sums (see `noise_of`) each is kept where an exact one would lie, and left out where it
    is mostly noise.

    Args:
        sums: over rows.
        classes: how the classes are called, for the figures of each; by number unless said.
    """
    metrics = all_of(sums, classes)
    if is_noisy(sums):
        errors = noise_of(sums)
        metrics = {
            name: min(max(value, _LEAST.get(name, 0.0)), _MOST.get(name, math.inf))
            for name, value in metrics.items()
            if errors.get(name, math.inf) <= MOST_NOISE
        }
    return metrics


def all_of(sums: Mapping[str, float | Array], classes: Sequence[str] = ()) -> dict[str, float]:
    """Return every metric that a tally determines, however noisy."""
    metrics: dict[str, float] = {}
    num_rows = number_of(sums, "n")
    if num_rows > 0 and "correct" in sums:
        metrics["accuracy"] = number_of(sums, "correct") / num_rows
        metrics["log_loss"] = number_of(sums, "log_loss_sum") / num_rows
    if num_rows > 0 and "brier_sum" in sums:
        metrics["brier"] = number_of(sums, "brier_sum") / num_rows
    if "scores_0" in sums and "scores_1" in sums:
        metrics |= _of_scores(_array(sums, "scores_0"), _array(sums, "scores_1"))
        if "predicted_1" in sums:
            metrics |= _of_two(sums)
    if "confusion" in sums and num_rows > 0:
        metrics |= _of_confusion(_array(sums, "confusion"), classes)
    if "scores_each" in sums:
        metrics |= _of_each(_array(sums, "scores_each"), classes)
    metrics |= _of_values(sums)
    for entry in sums:
        if entry.startswith(OWN_SUM):
            name = entry.removeprefix(OWN_SUM)
            mass = number_of(sums, OWN_MASS + name)
            metrics[name] = number_of(sums, entry) / mass if mass > 0 else math.nan
        if entry.startswith(MEAN_SUM):
            name = entry.removeprefix(MEAN_SUM)
            rows = number_of(sums, MEAN_ROWS + name)
            metrics[SILO_MEAN + name] = number_of(sums, entry) / rows if rows > 0 else math.nan
            metrics[NUM_SILOS + name] = number_of(sums, MEAN_SILOS + name)
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def constant_of(sums: Mapping[str, float | Array]) -> dict[str, float]:
    """Return the figures of the best constant prediction on the same rows; empty where unknown.

    ``accuracy`` and ``log_loss`` of the labels' shares, or ``rmse`` of the targets' mean.
    """
    if is_noisy(sums):
        return {}
    counts = np.zeros(0)
    if "scores_0" in sums and "scores_1" in sums:
        counts = np.array([_array(sums, f"scores_{each}").sum() for each in (0, 1)])
    elif "confusion" in sums:
        counts = _array(sums, "confusion").sum(axis=1)
    if counts.sum() > 0:
        shares = counts[counts > 0] / counts.sum()
        entropy = -float(np.sum(shares * np.log(shares)))
        return {"accuracy": float(shares.max()), "log_loss": entropy}
    num_values = number_of(sums, "values")
    if num_values > 0:
        return {"rmse": math.sqrt(max(0.0, total_of(sums)) / num_values)}
    return {}


def intervals_of(
    sums: Mapping[str, float | Array], classes: Sequence[str] = ()
) -> dict[str, tuple[float, float]]:
    """Return 95 % intervals of the metrics, for rows drawn anew from the same population.

    Shares of rows by Wilson (1927); what is made of counted scores or of a confusion matrix by the
    percentiles of 400 resamples of the counts, the same ones for the same counts. Metrics that no
    interval is known of, and noisy ones (see `noise_of`), are left out.
    """
    if is_noisy(sums) or number_of(sums, "n") <= 0:
        return {}
    known = all_of(sums, classes)
    found: dict[str, tuple[float, float]] = {}
    if "correct" in sums:
        found["accuracy"] = _wilson(number_of(sums, "correct"), number_of(sums, "n"))
    if "scores_0" in sums and "scores_1" in sums:
        cells = np.stack([_array(sums, "scores_0"), _array(sums, "scores_1")])
        drawn = _resampled(cells)
        found |= _percentiles(_rankings(drawn[:, 0], drawn[:, 1]))
        if "predicted_1" in sums:
            hits, misses, alarms = _counts_of_two(sums)
            found["recall"] = _wilson(hits, hits + misses)
            found["precision"] = _wilson(hits, hits + alarms)
            rest = number_of(sums, "n") - hits - misses - alarms
            drawn = _resampled(np.array([hits, misses, alarms, rest]))
            found |= _percentiles({"f1": _f1(drawn[:, 0], drawn[:, 1], drawn[:, 2])})
    if "confusion" in sums:
        matrix = _array(sums, "confusion")
        for place, name in _named(classes, len(matrix)):
            right = matrix[place, place]
            found[f"recall/{name}"] = _wilson(right, matrix[place].sum())
            found[f"precision/{name}"] = _wilson(right, matrix[:, place].sum())
        drawn = _resampled(matrix)
        found |= _percentiles(_means_of_confusion(drawn))
    if "scores_each" in sums:
        each = _array(sums, "scores_each")
        for place, name in _named(classes, len(each)):
            drawn = _resampled(each[place])
            found |= _percentiles({f"roc_auc/{name}": auc(drawn[:, 0], drawn[:, 1])})
    return {name: ends for name, ends in found.items() if name in known}


def _of_values(sums: Mapping[str, float | Array]) -> dict[str, float]:
    num_values = number_of(sums, "values")
    if num_values <= 0:
        return {}
    squared_error = max(0.0, number_of(sums, "squared_error_sum"))
    metrics = {
        "rmse": math.sqrt(squared_error / num_values),
        "mae": number_of(sums, "absolute_error_sum") / num_values,
    }
    total = total_of(sums)
    # Below this the variance is lost in the rounding of the sums: the targets are constant.
    if total > 1e-12 * number_of(sums, "target_square_sum"):
        metrics["r2"] = 1.0 - squared_error / total
    return metrics


def _of_scores(negative: Array, positive: Array) -> dict[str, Any]:
    gap = calibration_error(negative, positive)  # fewer rows miss by more: no interval is known
    return {**_rankings(negative, positive), "calibration_error": gap}


def _rankings(negative: Array, positive: Array) -> dict[str, Array]:
    return {"roc_auc": auc(negative, positive), "pr_auc": average_precision(negative, positive)}


def _counts_of_two(sums: Mapping[str, float | Array]) -> tuple[float, float, float]:
    """Return hits, misses and false alarms of class 1, from what is right and what is said."""
    positives = float(_array(sums, "scores_1").sum())
    said = number_of(sums, "predicted_1")
    hits = (number_of(sums, "correct") + positives + said - number_of(sums, "n")) / 2.0
    return hits, positives - hits, said - hits


def _of_two(sums: Mapping[str, float | Array]) -> dict[str, float]:
    hits, misses, alarms = _counts_of_two(sums)
    return {
        "recall": hits / (hits + misses) if hits + misses > 0 else math.nan,
        "precision": hits / (hits + alarms) if hits + alarms > 0 else math.nan,
        "f1": float(_f1(np.asarray(hits), np.asarray(misses), np.asarray(alarms))),
    }


def _f1(hits: Array, misses: Array, alarms: Array) -> Array:
    under = 2 * hits + misses + alarms
    return np.where(under > 0, 2 * hits / np.where(under > 0, under, 1.0), math.nan)


def _of_confusion(matrix: Array, classes: Sequence[str]) -> dict[str, float]:
    metrics = {name: float(value) for name, value in _means_of_confusion(matrix).items()}
    for place, name in _named(classes, len(matrix)):
        right, true, said = matrix[place, place], matrix[place].sum(), matrix[:, place].sum()
        metrics[f"recall/{name}"] = float(right / true) if true > 0 else math.nan
        metrics[f"precision/{name}"] = float(right / said) if said > 0 else math.nan
    return metrics


def _means_of_confusion(matrix: Array) -> dict[str, Array]:
    """Return means over the classes that rows have; of F1 over those that are said too.

    Args:
        matrix: (…, true class, said class).
    """
    right = np.diagonal(matrix, axis1=-2, axis2=-1)
    true, said = matrix.sum(axis=-1), matrix.sum(axis=-2)
    recall = np.where(true > 0, right / np.where(true > 0, true, 1.0), 0.0)
    f1 = np.nan_to_num(_f1(right, true - right, said - right))
    there, either = (true > 0).sum(axis=-1), ((true > 0) | (said > 0)).sum(axis=-1)
    return {
        "balanced_accuracy": recall.sum(axis=-1) / np.maximum(there, 1),
        "f1_macro": f1.sum(axis=-1) / np.maximum(either, 1),
    }


def _of_each(scores: Array, classes: Sequence[str]) -> dict[str, float]:
    """Return the area under the curve of each class against the rest, and their mean."""
    areas = auc(scores[:, 0], scores[:, 1])
    known = areas[np.isfinite(areas)]
    metrics = {f"roc_auc/{name}": float(areas[at]) for at, name in _named(classes, len(areas))}
    metrics["roc_auc_macro"] = float(known.mean()) if len(known) == len(areas) else math.nan
    return metrics


def called(metrics: Mapping[str, float], classes: Sequence[str]) -> dict[str, float]:
    """Return figures of classes by number, as they are made without names, by the classes' names.

    >>> called({"recall/1": 0.5, "accuracy": 0.7}, ["mild", "severe"])
    {'recall/severe': 0.5, 'accuracy': 0.7}
    """
    names = {
        f"{figure}/{place}": f"{figure}/{name}"
        for figure in ("recall", "precision", "roc_auc")
        for place, name in enumerate(classes)
    }
    return {names.get(name, name): value for name, value in metrics.items()}


def _named(classes: Sequence[str], count: int) -> list[tuple[int, str]]:
    named = len(classes) == count
    return [(place, str(classes[place]) if named else str(place)) for place in range(count)]


def _resampled(cells: Array) -> Array:
    """Return counts drawn anew with the same total, (resamples, *cells.shape)."""
    flat = np.asarray(cells, np.float64).reshape(-1)
    total = round(float(flat.sum()))
    drawn = np.random.default_rng(0).multinomial(total, flat / flat.sum(), _RESAMPLES)
    return drawn.astype(np.float64).reshape(_RESAMPLES, *np.shape(cells))


def _percentiles(metrics: Mapping[str, Array]) -> dict[str, tuple[float, float]]:
    found = {}
    for name, drawn in metrics.items():
        known = drawn[np.isfinite(drawn)]
        if len(known):
            low, high = np.quantile(known, [0.025, 0.975])
            found[name] = (float(low), float(high))
    return found


def _wilson(right: float, rows: float) -> tuple[float, float]:
    """Return the score interval of a share (Wilson 1927)."""
    if rows <= 0:
        return 0.0, 1.0
    share, square = right / rows, _Z**2
    middle = (share + square / (2 * rows)) / (1 + square / rows)
    half = _Z / (1 + square / rows) * math.sqrt(share * (1 - share) / rows + square / (4 * rows**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def _array(sums: Mapping[str, float | Array], name: str) -> Array:
    return np.asarray(sums[name], np.float64)
