"""Linear models over columns that lie apart, solved exactly with few exchanges.

The model of all columns is ``score = X_L w_L + sum_k X_k w_k + b``; it minimises scikit-learn's
objective: ``C * sum(loss) + |w|^2 / 2`` with the intercept ``b`` free. The label silo holds the
labels and ``X_L``; a feature silo holds ``X_k`` and shows it in a few directions only: score
columns ``X_k q`` for orthonormal ``q``.

1. The label silo minimises over its own columns and over the span of all score columns so far,
   exactly, by Newton's method, and sends the residuals.
2. A feature silo computes from them the gradient ``g`` of its own block and the block's Newton
   direction ``H^-1 g``, makes it orthogonal to the directions before, and sends its score column.

This is sequential subspace optimisation (Narkiss and Zibulevsky 2005) with block Newton directions;
for squares it is block-preconditioned conjugate gradients with a longer memory. A silo of d columns
is done after at most d directions, because they span all of its columns then; usually the steps are
below the tolerance before. All folds of a cross-validation run together and share directions.

Differences from the paper: no direction of the past gradient steps is added, since the whole span
is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from consilo import metrics as figures

Array = npt.NDArray[Any]
Kind = Literal["binary", "regression"]

_NEWTON_STEPS = 100
_NEWTON_TOLERANCE = 1e-10
_SMALLEST_STEP = 1e-6
_SAME = 1e-8
"""A direction of which less than this share is new lies in the span already."""


def solve(kind: Kind, design: Array, labels: Array, *, c: float, start: Array) -> Array:
    """Return the coefficients that minimise ``c * sum(loss) + |v|^2 / 2``, the last one free of it.

    Args:
        kind: ``binary``: logistic loss; ``regression``: half the squared error.
        design: float64, [rows, coefficients]; its last column is the intercept's ones.
        labels: float64, [rows]; 0 or 1 for ``binary``.
        c: weight of the loss, above 0.
        start: where Newton's method begins, [coefficients].
    """
    free = np.ones(design.shape[1])
    free[-1] = 0.0
    coefficients = np.array(start, np.float64)
    for _ in range(_NEWTON_STEPS):
        scores = design @ coefficients
        residual = residuals(kind, scores, labels)
        slope = c * design.T @ residual - free * coefficients
        hessian = c * (design.T * curvatures(kind, residual)) @ design + np.diag(free)
        step = np.linalg.lstsq(hessian, slope, rcond=None)[0]
        if np.abs(step).max() < _NEWTON_TOLERANCE * max(1.0, np.abs(coefficients).max()):
            return coefficients + step
        value = _objective(kind, scores, labels, coefficients, free, c)
        along, size = design @ step, 1.0
        while size > _SMALLEST_STEP:
            changed = coefficients + size * step
            if _objective(kind, scores + size * along, labels, changed, free, c) <= value:
                break
            size /= 2
        else:  # rounding hides any descent that is left
            return coefficients
        coefficients = changed
    return coefficients


def residuals(kind: Kind, scores: Array, labels: Array) -> Array:
    """Return the loss's negative derivative by the score, row by row: label minus prediction."""
    return labels - (_probability(scores) if kind == "binary" else scores)


def figures_of(kind: Kind, labels: Array, outputs: Array) -> dict[str, float]:
    """Return the figures of merit of some rows' outputs; one that is undefined is left out."""
    if kind == "regression":
        values = {"rmse": figures.rmse(labels, outputs), "r2": figures.r2(labels, outputs)}
    else:
        values = {
            "roc_auc": figures.roc_auc(labels, outputs),
            "accuracy": figures.accuracy(labels == 1, outputs > 0),
            "log_loss": figures.log_loss(labels, outputs),
        }
    return {name: value for name, value in values.items() if np.isfinite(value)}


def curvatures(kind: Kind, residual: Array) -> Array:
    """Return the loss's second derivative by the score, which a residual determines.

    With a label of 0 or 1 the probability is the residual's size or what lacks to 1.
    """
    size = np.abs(residual)
    return size * (1.0 - size) if kind == "binary" else np.ones_like(residual)


@dataclass(frozen=True)
class Directions:
    """What a feature silo answers to residuals.

    Args:
        basis: float64, [columns, all directions so far]; orthonormal; stays in the silo.
        num_new: how many of them, at the end, are new.
        steps: [models]: each model's largest step; below the tolerance where it is solved.
    """

    basis: Array
    num_new: int
    steps: Array


def directions(
    kind: Kind,
    block: Array,
    residual: Array,
    coordinates: Array,
    basis: Array,
    *,
    c: float,
    tolerance: float,
    limit: int,
) -> Directions:
    """Return a feature silo's next directions.

    Args:
        kind: the loss.
        block: float64, [rows, columns].
        residual: float64, [models, rows]; NaN where a model leaves a row out.
        coordinates: [models, directions]: each model's coefficients in ``basis``.
        basis: float64, [columns, directions]; orthonormal.
        c: weight of the loss.
        tolerance: a model whose step is smaller is solved.
        limit: how many directions there may be in all.
    """
    num_columns = block.shape[1]
    wanted: list[tuple[float, Array]] = []
    steps = np.zeros(len(residual))
    for place, (row, own) in enumerate(zip(residual, coordinates, strict=True)):
        used = np.isfinite(row)
        mine = block if used.all() else block[used]
        slope = c * mine.T @ row[used] - basis @ own
        hessian = c * (mine.T * curvatures(kind, row[used])) @ mine + np.eye(num_columns)
        step = np.linalg.solve(hessian, slope)
        steps[place] = np.abs(step).max()
        if steps[place] >= tolerance:
            wanted.append((float(steps[place]), step))
    grown = basis
    for _, step in sorted(wanted, key=lambda each: -each[0]):
        if grown.shape[1] >= min(limit, num_columns):
            break
        rest = step - grown @ (grown.T @ step)
        rest = rest - grown @ (grown.T @ rest)  # once more: rounding
        norm = np.linalg.norm(rest)
        if norm > _SAME * np.linalg.norm(step):
            grown = np.column_stack([grown, rest / norm])
    return Directions(grown, grown.shape[1] - basis.shape[1], steps)


def _probability(scores: Array) -> Array:
    small = np.exp(-np.abs(scores))
    return np.where(scores >= 0, 1.0, small) / (1.0 + small)


def _objective(
    kind: Kind, scores: Array, labels: Array, coefficients: Array, free: Array, c: float
) -> float:
    if kind == "binary":
        loss = np.logaddexp(0.0, scores) - labels * scores
    else:
        loss = 0.5 * (labels - scores) ** 2
    return float(c * loss.sum() + 0.5 * np.sum(free * coefficients**2))
