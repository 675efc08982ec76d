"""Intervals of how much better one model is than another on the same rows, by drawing rows anew.

The paired percentile bootstrap (Efron, Tibshirani 1993, chapters 8 and 13): rows are drawn with
replacement, both models are judged on the same draw, and the interval holds the middle share of the
differences. Where rows belong to people, people are drawn with all of their rows, since the rows of
one are alike.

Percentiles of few rows lie too close together; they are taken further out, as Student's t lies
further out than the normal distribution (Hesterberg 2015, section 3.2: expanded percentiles).

A figure is a function of how often each row was drawn, so that a thousand draws are one product of
matrices, or one pass over sorted scores. Where a model only says classes, a draw of few rows on
which both models say the same has no spread at all, whatever the models are: two rows more are
counted for each class, one that each model alone has right (after Agresti, Min 2005, who add to
each cell of such a table).

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> labels = rng.integers(0, 2, 400)
>>> good, poor = 4.0 * labels - 2.0, np.zeros(400)
>>> found = gain("accuracy", "binary", good, poor, labels, rng=rng)
>>> round(found.value, 2), found.low > 0.4
(0.55, True)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.metrics.curves import CALIBRATION_BINS, auc, average_precision
from consilo.metrics.rows import row_log_losses
from consilo.metrics.tallies import MOST_CLASSES, TaskKind

Array: TypeAlias = npt.NDArray[Any]
Figure: TypeAlias = Callable[[Array], Array]
"""How often each row counts, (draws, rows) → the figure of each draw, (draws,); NaN without one."""

RESAMPLES = 1000
LEVEL = 0.95
LOWER_IS_BETTER = frozenset({"log_loss", "brier", "rmse", "mae", "calibration_error"})
RELATIVE = frozenset({"rmse", "mae"})
"""In the target's units: a gain is a share of the other model's figure."""
OF_CLASSES = frozenset({"accuracy", "recall", "precision", "f1", "balanced_accuracy", "f1_macro"})
"""Made of the classes that a model says, and of nothing finer."""
FIGURES: dict[str, tuple[str, ...]] = {
    "binary": (
        "accuracy",
        "log_loss",
        "brier",
        "roc_auc",
        "pr_auc",
        "recall",
        "precision",
        "f1",
        "calibration_error",
    ),
    "multiclass": (
        "accuracy",
        "log_loss",
        "brier",
        "balanced_accuracy",
        "f1_macro",
        "roc_auc_macro",
    ),
    "regression": ("rmse", "mae", "r2"),
}
"""Task → the figures that rows can be drawn anew for."""
_CELLS = 1 << 21


@dataclass(frozen=True)
class Interval:
    """A figure of the rows as they are, and where it lies when rows are drawn anew.

    Args:
        value: of the rows.
        low: lower end.
        high: upper end.
    """

    value: float
    low: float
    high: float


def gain(
    name: str,
    kind: TaskKind,
    candidate: Array,
    other: Array,
    targets: Array,
    *,
    rng: np.random.Generator,
    people: Array | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return by how much a model is better than another; None where the figure is not defined.

    Args:
        name: one of `FIGURES` of the kind.
        kind: of the task.
        candidate: its outputs: logits (rows,) or (rows, classes), or values (rows,) or (rows, k).
        other: those of the other model.
        targets: class indices (rows,), or values.
        rng: draws the rows.
        people: whose each row is, as whole numbers; None where each row is somebody's own.
        level: share of the draws within the interval.
        resamples: how many draws.

    Returns:
        Above 0 the candidate is better, in the figure's units; of `RELATIVE` ones as a share of the
        other's.
    """
    settings: dict[str, Any] = {"rng": rng, "level": level, "resamples": resamples}
    plain = _difference(name, kind, candidate, other, targets)
    if name not in OF_CLASSES or np.array_equal(candidate, other):
        return interval(plain, len(targets), people=people, **settings)
    value = float(plain(np.ones((1, len(targets))))[0])
    candidate, other, targets, people = _doubted(kind, candidate, other, targets, people)
    doubted = _difference(name, kind, candidate, other, targets)
    found = interval(doubted, len(targets), people=people, **settings)
    return None if found is None or not np.isfinite(value) else replace(found, value=value)


def _difference(
    name: str, kind: TaskKind, candidate: Array, other: Array, targets: Array
) -> Figure:
    figures = [figure(name, kind, each, targets) for each in (candidate, other)]
    sign = -1.0 if name in LOWER_IS_BETTER else 1.0

    def difference(counts: Array) -> Array:
        own, its = (each(counts) for each in figures)
        found = sign * (own - its)
        if name not in RELATIVE:
            return np.asarray(found)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(found == 0, 0.0, found / its)

    return difference


def gap(
    name: str,
    kind: TaskKind,
    outputs: Array,
    targets: Array,
    groups: Sequence[Array],
    *,
    rng: np.random.Generator,
    people: Array | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return the largest difference of a figure between groups; None where fewer than two have it.

    Args:
        name: one of `FIGURES` of the kind; of `RELATIVE` ones as a share of the largest.
        kind: of the task.
        outputs: of the model.
        targets: as in `gain`.
        groups: the rows' numbers, an array a group.
        rng: draws the rows.
        people: as in `gain`.
        level: as in `gain`.
        resamples: as in `gain`.
    """
    parts = [(rows, figure(name, kind, outputs[rows], targets[rows])) for rows in groups]
    whole = np.ones((1, len(targets)))
    parts = [(rows, of) for rows, of in parts if np.isfinite(of(whole[:, rows])).all()]
    if len(parts) < 2:
        return None

    def spread(counts: Array) -> Array:
        each = np.stack([of(counts[:, rows]) for rows, of in parts])
        top = each.max(axis=0)
        found = top - each.min(axis=0)
        return np.asarray(found / top if name in RELATIVE else found)

    return interval(spread, len(targets), rng=rng, people=people, level=level, resamples=resamples)


def interval(
    statistic: Figure,
    num_rows: int,
    *,
    rng: np.random.Generator,
    people: Array | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
) -> Interval | None:
    """Return the percentile interval of a statistic; None where most draws do not define it."""
    if not num_rows:
        return None
    value = float(statistic(np.ones((1, num_rows)))[0])
    made = np.concatenate([statistic(each) for each in _draws(num_rows, rng, people, resamples)])
    known = made[np.isfinite(made)]
    if not np.isfinite(value) or 2 * len(known) < resamples:
        return None
    units = num_rows if people is None else len(np.unique(people))
    tail = _expanded((1 - level) / 2, units)
    low, high = np.quantile(known, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _expanded(tail: float, units: int) -> float:
    """Return the share of draws beyond an end, for so many rows that are drawn."""
    from scipy.special import ndtr, stdtrit

    if units < 2:
        return 0.0
    return float(ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, tail)))


def figure(name: str, kind: TaskKind, outputs: Array, targets: Array) -> Figure:
    """Return a figure of merit as a function of how often each row counts.

    Raises:
        KeyError: where the kind has no figure of this name that is made so.
    """
    if name not in FIGURES.get(kind, ()):
        raise KeyError(name)
    wide = np.asarray(outputs, np.float64)
    if kind == "regression":
        return _of_values(name, wide, np.asarray(targets, np.float64))
    labels = np.asarray(targets).astype(np.int64).reshape(-1)
    if name in OF_CLASSES:
        size = 2 if kind == "binary" else wide.shape[1]
        return _of_cells(name, labels * size + _said(wide), size)
    if name == "log_loss":
        return partial(_mean, row_log_losses(labels, wide))
    chances = _chances(wide)
    if name == "brier":
        true = labels.astype(np.float64) if kind == "binary" else np.eye(wide.shape[1])[labels]
        return partial(_mean, ((chances - true) ** 2).reshape(len(labels), -1).sum(axis=1))
    if name == "calibration_error":
        return _calibration(chances, labels)
    if name == "roc_auc_macro":
        each = [_ranked(auc, chances[:, k], labels == k) for k in range(wide.shape[1])]
        return lambda counts: np.mean([of(counts) for of in each], axis=0)
    return _ranked(auc if name == "roc_auc" else average_precision, wide, labels == 1)


def _draws(
    num_rows: int, rng: np.random.Generator, people: Array | None, resamples: int
) -> Iterator[Array]:
    """Yield how often each row is drawn, a block of draws at a time."""
    codes = None if people is None else np.unique(people, return_inverse=True)[1]
    size = num_rows if codes is None else int(codes.max()) + 1
    block, left = max(1, _CELLS // max(size, num_rows)), resamples
    while left:
        count = min(block, left)
        drawn = rng.integers(0, size, (count, size)) + size * np.arange(count)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=count * size).reshape(count, size)
        yield (counts if codes is None else counts[:, codes]).astype(np.float64)
        left -= count


def _mean(each: Array, counts: Array) -> Array:
    total = counts.sum(axis=1)
    return np.where(total > 0, counts @ each / np.where(total > 0, total, 1.0), np.nan)


def _of_values(name: str, values: Array, targets: Array) -> Figure:
    count = len(targets)
    wide, error = targets.reshape(count, -1), (values - targets).reshape(count, -1)
    squares = (error**2).mean(axis=1)
    if name == "mae":
        return partial(_mean, np.abs(error).mean(axis=1))
    if name == "rmse":
        return lambda counts: np.sqrt(_mean(squares, counts))
    centred = wide - wide.mean() if count else wide  # sums of squares of large numbers keep nothing

    def explained(counts: Array) -> Array:
        spread = _mean((centred**2).mean(axis=1), counts)
        spread = spread - _mean(centred.mean(axis=1), counts) ** 2
        known = spread > 0
        return np.where(known, 1 - _mean(squares, counts) / np.where(known, spread, 1.0), np.nan)

    return explained


def _of_cells(name: str, cells: Array, size: int) -> Figure:
    """Return a figure of the table of true by said classes."""
    sums = _grouped(cells)

    def of(counts: Array) -> Array:
        present, found = sums(counts)
        flat = np.zeros((len(counts), size * size))
        flat[:, present] = found
        table = flat.reshape(-1, size, size)
        right = np.diagonal(table, axis1=1, axis2=2)
        true, said = table.sum(axis=2), table.sum(axis=1)
        if name == "accuracy":
            return _ratio(right.sum(axis=1), true.sum(axis=1))
        recall, f1 = _ratio(right, true), _ratio(2 * right, true + said)
        if name == "balanced_accuracy":
            return _mean_of_known(recall)
        if name == "f1_macro":
            return _mean_of_known(f1)
        found = {"recall": recall, "precision": _ratio(right, said), "f1": f1}[name]
        return np.asarray(found[:, 1])

    return of


def _ranked(of: Callable[[Array, Array], Array], scores: Array, positive: Array) -> Figure:
    """Return a figure of how scores rank rows, equal ones as one."""
    sums = _grouped(np.unique(scores, return_inverse=True)[1])
    yes = np.asarray(positive, np.float64)

    def ranked(counts: Array) -> Array:
        return of(sums(counts * (1 - yes))[1], sums(counts * yes)[1])

    return ranked


def _calibration(chances: Array, labels: Array) -> Figure:
    """Return the expected calibration error in equal steps of probability."""
    steps = np.minimum((chances * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
    sums = _grouped(steps)

    def missed(counts: Array) -> Array:
        gaps = sums(counts * (chances - labels))[1]
        return _ratio(np.abs(gaps).sum(axis=1), counts.sum(axis=1))

    return missed


def _grouped(codes: Array) -> Callable[[Array], tuple[Array, Array]]:
    """Return what adds counts up by code: (draws, rows) → the codes there are, (draws, codes)."""
    order = np.argsort(codes, kind="stable")
    present, starts = np.unique(codes[order], return_index=True)

    def sums(counts: Array) -> tuple[Array, Array]:
        if not len(starts):
            return present, np.zeros((len(counts), 0))
        return present, np.add.reduceat(counts[:, order], starts, axis=1)

    return sums


def _ratio(over: Array, under: Array) -> Array:
    known = under > 0
    return np.where(known, over / np.where(known, under, 1.0), np.nan)


def _mean_of_known(each: Array) -> Array:
    known = np.isfinite(each)
    return _ratio(np.where(known, each, 0.0).sum(axis=1), known.sum(axis=1).astype(np.float64))


def _said(wide: Array) -> Array:
    said = np.argmax(wide, axis=1) if wide.ndim > 1 else wide > 0
    return np.asarray(said, np.int64)


def _chances(wide: Array) -> Array:
    if wide.ndim == 1:
        return np.asarray(np.exp(-np.logaddexp(0.0, -wide)))
    raised = np.exp(wide - wide.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))


def _doubted(
    kind: TaskKind, candidate: Array, other: Array, targets: Array, people: Array | None
) -> tuple[Array, Array, Array, Array | None]:
    """Return the rows with two more of each class: each of which one model alone has right."""
    classes = 2 if kind == "binary" else np.shape(candidate)[1]
    if classes > MOST_CLASSES:
        return candidate, other, targets, people
    labels = np.repeat(np.arange(classes), 2)
    wrong = (labels + 1) % classes
    turns = np.tile([True, False], classes)

    def saying(said: Array) -> Array:
        return said * 2.0 - 1.0 if kind == "binary" else np.eye(classes)[said]

    more = saying(np.where(turns, labels, wrong)), saying(np.where(turns, wrong, labels))
    if people is not None:
        codes = np.unique(people, return_inverse=True)[1]
        people = np.concatenate([codes, codes.max(initial=0) + 1 + np.arange(len(labels))])
    return (
        np.concatenate([np.asarray(candidate, np.float64), more[0]]),
        np.concatenate([np.asarray(other, np.float64), more[1]]),
        np.concatenate([np.asarray(targets).astype(np.int64).reshape(-1), labels]),
        people,
    )
