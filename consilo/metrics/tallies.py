"""Tallies: sums over rows that may leave a silo, and that add up over silos."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.metrics.noise import NOISE
from consilo.metrics.rows import row_log_losses

Array: TypeAlias = npt.NDArray[Any]
TaskKind = Literal["binary", "multiclass", "regression", "custom"]
Tally: TypeAlias = dict[str, "float | Array"]
"""Sums over rows: ``n`` and others, each a float or a float64 array."""
Own: TypeAlias = "float | tuple[float, float]"
"""A figure of a user's own: a number, or a numerator and a denominator that add up over rows."""

NUM_BINS = 256
MAX_LOGIT = 8.0
MOST_CLASSES = 32
"""With more classes a tally has neither score histograms of each nor a confusion matrix."""
OWN_SUM = "own_sum/"
OWN_MASS = "own_mass/"
MEAN_SUM = "metric_sum/"
MEAN_ROWS = "metric_rows/"
MEAN_SILOS = "metric_silos/"
_OF_THEIR_OWN = (NOISE, OWN_SUM, OWN_MASS, MEAN_SUM, MEAN_ROWS, MEAN_SILOS)
"""Entries that say themselves what they are made of, so that a silo may lack them."""


def tally(kind: TaskKind, outputs: Array, targets: Array, *, curves: bool = True) -> Tally:
    """Return the sums over rows that the task's metrics are made of.

    Args:
        kind: which task; ``custom`` counts the rows only, see `own_tally`.
        outputs: binary (n,) logits; multiclass (n, k) logits; regression (n,) or (n, k) values.
        targets: (n,) class indices, or (n,) or (n, k) values.
        curves: of several classes, count the scores of each class too: 4 KiB a class.
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
    labels, wide = np.asarray(targets).astype(np.int64), _wide(outputs)
    losses = row_log_losses(labels, outputs)
    several = kind == "multiclass"
    predicted = (wide > 0).astype(np.int64)
    if several:
        predicted = np.argmax(wide, axis=1) if len(labels) else labels
    sums: Tally = {
        "n": num_rows,
        "correct": float(np.sum(predicted == labels)),
        "log_loss_sum": float(np.sum(losses)),
    }
    if not several:
        chance = np.exp(-np.logaddexp(0.0, -wide))
        sums["predicted_1"] = float(np.sum(predicted))
        sums["brier_sum"] = float(np.sum((chance - labels) ** 2))
        for label in (0, 1):
            sums[f"scores_{label}"] = _histogram(wide[labels == label])
        return sums
    num_classes = wide.shape[1]
    against = _one_against_rest(wide)
    chances = np.exp(-np.logaddexp(0.0, -against))
    true = np.eye(num_classes)[labels]
    sums["brier_sum"] = float(np.sum((chances - true) ** 2))
    if num_classes <= MOST_CLASSES:
        pairs = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
        sums["confusion"] = pairs.astype(np.float64).reshape(num_classes, num_classes)
        if curves:
            sums["scores_each"] = np.array(
                [
                    [_histogram(against[labels != each, each]), _histogram(column)]
                    for each in range(num_classes)
                    for column in (against[labels == each, each],)
                ]
            )
    return sums


def own_tally(num_rows: int, metrics: Mapping[str, Own]) -> Tally:
    """Return a tally of a user's own metrics.

    A numerator and a denominator add up, so that their ratio is that of all rows together. A single
    number does not: the federation's figure is the mean over silos, weighted by rows, and named so
    (`consilo.metrics.figures.SILO_MEAN`). One that is not finite is left out, with its silo.
    """
    sums: Tally = {"n": float(num_rows)}
    for name, value in metrics.items():
        if isinstance(value, tuple):
            over, under = value
            if math.isfinite(over) and math.isfinite(under) and under >= 0:
                sums[OWN_SUM + name], sums[OWN_MASS + name] = float(over), float(under)
        elif num_rows and math.isfinite(value):
            sums[MEAN_SUM + name] = float(value) * num_rows
            sums[MEAN_ROWS + name] = float(num_rows)
            sums[MEAN_SILOS + name] = 1.0
    return sums


def merge(tallies: Iterable[Mapping[str, float | Array]]) -> Tally:
    """Return the sum of tallies, entry by entry; empty ones do not count.

    An entry that one of them lacks is left out, so that no figure mixes sums over different rows;
    but a user's own say of how many rows they are, and count where they are.
    """
    total: Tally = {}
    is_first = True
    for each in tallies:
        if not each:
            continue
        merged: Tally = {}
        for name in (*total, *(name for name in each if name not in total)):
            if name in total and name in each:
                merged[name] = total[name] + _plain(each[name])
            elif is_first or name.startswith(_OF_THEIR_OWN):
                merged[name] = _plain(each[name] if name in each else total[name])
        total, is_first = merged, False
    return total


def _plain(value: float | Array) -> float | Array:
    return np.asarray(value, np.float64) if np.ndim(value) else float(np.asarray(value))


def _histogram(logits: Array) -> Array:
    width = 2 * MAX_LOGIT / NUM_BINS
    bins = np.floor((logits + MAX_LOGIT) / width).clip(0, NUM_BINS - 1).astype(np.int64)
    return np.bincount(bins, minlength=NUM_BINS).astype(np.float64)


def _one_against_rest(logits: Array) -> Array:
    """Return the logit of each class's probability, (n, k): monotone in the probability."""
    top = logits.max(axis=1, keepdims=True, initial=-math.inf)
    raised = np.exp(logits - top)
    rest = raised.sum(axis=1, keepdims=True) - raised
    with np.errstate(divide="ignore"):
        found: Array = logits - top - np.log(np.maximum(rest, 0.0))
    return np.clip(found, -1e3, 1e3)


def _wide(values: Array) -> Array:
    return np.asarray(values, np.float64)
