"""What held-out rows say of a candidate under differential privacy: noisy sums, and their doubt.

One question is one release of one vector, by the Gaussian mechanism. A unit is a row, or a person
whose rows weigh 1 together; their number is public. Of each row, by how much less the candidate
misses it than the other model, d, lies within ±1 once it is divided by the most that a row can be
missed; told are the sums of d, of d squared, and where a gain is a share also of the other's
misses: each moves by 1 at most with one unit, so the vector by the root of how many there are.
For the area under the curve it is the histograms of both models' scores per label: a unit is in one
bin of each.

What is made of the noisy vector costs nothing more: an interval that holds both the doubt of few
rows and that of the noise. It is never narrower than the rows alone would make it: the squares of d
bound its variance, and the areas of two models are taken to err in opposite directions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TypeAlias

import numpy as np

from consilo.decisions.evidence import Array, Heard
from consilo.decisions.rules import CONSTANT, Evidence, VoteRules
from consilo.metrics import MAX_LOGIT, NOISE, noise_of, row_log_losses
from consilo.metrics.bootstrap import RELATIVE, Interval
from consilo.metrics.curves import auc
from consilo.metrics.tallies import TaskKind
from consilo.privacy.noise import SecretStream, add_gaussian, noise_std

Ends: TypeAlias = tuple[Array, Array]

FIGURES: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "log_loss", "brier", "roc_auc"),
    "multiclass": ("accuracy", "log_loss", "brier"),
    "regression": ("rmse", "mae"),
}
"""Task → the metrics that noise can be added to."""
_GROUPS = 32


def can_be_noisy(metric: str, kind: TaskKind, ends: Ends | None) -> bool:
    """Return whether a metric can be told with noise.

    Args:
        metric: of the job.
        kind: of the task.
        ends: of a regression's targets, in the contract; None where it gives none.
    """
    return metric in FIGURES.get(kind, ()) and (kind != "regression" or ends is not None)


def weigh_noisily(
    heard: Heard,
    metric: str,
    rules: VoteRules,
    *,
    sigma: float,
    stream: SecretStream,
    units: int,
    weights: Array | None = None,
    ends: Ends | None = None,
    epsilon: float | None = None,
) -> Evidence:
    """Return what rows say of a candidate, once that is paid.

    Args:
        heard: outputs, finite, and targets; of one other model at most.
        metric: one that `can_be_noisy`.
        rules: the silo's; groups and chances are not judged.
        sigma: noise multiplier.
        stream: secret.
        units: how many rows, or people, are public.
        weights: what each row counts, those of a person 1 together; None is 1 each.
        ends: least and greatest value of each target.
        epsilon: what the candidate's training cost here.
    """
    others = dict(heard.others) or {CONSTANT: _constant(heard, ends)}
    ((whom, other),) = others.items()
    weights = np.ones(len(heard.targets)) if weights is None else weights
    z = NormalDist().inv_cdf((1 + rules.level) / 2)
    if metric == "roc_auc":
        pair = [heard.candidate] if whom == CONSTANT else [heard.candidate, other]
        found = _of_ranks(heard.targets, pair, weights, sigma, stream, z)
    else:
        misses = [_misses(heard.kind, metric, each, heard.targets, ends)
                  for each in (other, heard.candidate)]  # fmt: skip
        found = _of_misses(metric, misses, weights, units, sigma, stream, z)
    return Evidence(units, {whom: found}, epsilon=epsilon)


def _constant(heard: Heard, ends: Ends | None) -> Array:
    """Return an answer for everybody that was made of no row: equal chances, or the middle."""
    if heard.kind != "regression":
        return np.zeros_like(heard.candidate)
    assert ends is not None
    middle = (ends[0] + ends[1]) / 2
    return np.asarray(np.broadcast_to(middle if heard.candidate.ndim > 1 else middle[0],
                                      heard.candidate.shape))  # fmt: skip


def _misses(
    kind: TaskKind, metric: str, outputs: Array, targets: Array, ends: Ends | None
) -> tuple[Array, float]:
    """Return by how much each row is missed, as a share of the most, and the most."""
    if kind == "regression":
        assert ends is not None
        wide = np.clip(targets.astype(np.float64).reshape(len(targets), -1), *ends)
        error = (wide - np.clip(outputs.reshape(wide.shape), *ends)) / (ends[1] - ends[0])
        return (error**2 if metric == "rmse" else np.abs(error)).mean(axis=1), 1.0
    labels = targets.astype(np.int64).reshape(-1)
    if metric == "accuracy":
        said = outputs > 0 if kind == "binary" else np.argmax(outputs, axis=1)
        return (said.astype(np.int64) != labels).astype(np.float64), 1.0
    if metric == "log_loss":
        return np.clip(row_log_losses(labels, outputs), 0.0, MAX_LOGIT) / MAX_LOGIT, MAX_LOGIT
    if kind == "binary":
        return (np.exp(-np.logaddexp(0.0, -outputs)) - labels) ** 2, 1.0
    raised = np.exp(outputs - outputs.max(axis=1, keepdims=True, initial=-np.inf))
    chances = raised / raised.sum(axis=1, keepdims=True)
    return ((chances - np.eye(outputs.shape[1])[labels]) ** 2).sum(axis=1) / 2.0, 2.0


def _of_misses(
    metric: str,
    misses: Sequence[tuple[Array, float]],
    weights: Array,
    units: int,
    sigma: float,
    stream: SecretStream,
    z: float,
) -> Interval | None:
    (its, most), (own, _) = misses
    better = its - own
    sums = [weights @ better, weights @ better**2]
    if metric in RELATIVE:
        sums.append(weights @ its)
    std = noise_std(sigma, sensitivity=math.sqrt(len(sums)), size=len(sums))
    noisy = add_gaussian(np.asarray(sums, np.float64), std, stream) / max(units, 1)
    spread = max(float(noisy[1]) + z * std / max(units, 1), 0.0)
    error = math.sqrt(spread / max(units, 1) + (std / max(units, 1)) ** 2)
    mean = float(noisy[0])
    value, low, high = (most * each for each in (mean, mean - z * error, mean + z * error))
    if metric not in RELATIVE:
        return Interval(value, low, high)
    doubt = z * std / max(units, 1)
    bases = [most * (float(noisy[2]) + each) for each in (0.0, -doubt, doubt)]
    if min(bases) <= 0:
        return None
    ends = [_share(metric, gain, base) for gain in (low, high) for base in bases]
    return Interval(_share(metric, value, bases[0]), min(ends), max(ends))


def _share(metric: str, gain: float, base: float) -> float:
    """Return a gain in mean misses as a share of the other's figure."""
    if metric == "mae":
        return gain / base
    return 1.0 - math.sqrt(max(base - gain, 0.0) / base)


def _of_ranks(
    targets: Array,
    pair: Sequence[Array],
    weights: Array,
    sigma: float,
    stream: SecretStream,
    z: float,
) -> Interval | None:
    labels = targets.astype(np.int64).reshape(-1)
    counts = np.concatenate([_histograms(labels, each, weights) for each in pair])
    std = noise_std(sigma, sensitivity=math.sqrt(len(pair)), size=counts.size)
    noisy = add_gaussian(counts.reshape(-1), std, stream).reshape(len(pair), 2, _GROUPS)
    areas, noise, doubt = [], [], []
    for negative, positive in noisy:
        told = {
            "scores_0": negative,
            "scores_1": positive,
            f"{NOISE}scores_0": np.asarray(std**2),
            f"{NOISE}scores_1": np.asarray(std**2),
        }
        error = noise_of(told)["roc_auc"]
        if not math.isfinite(error):
            return None
        area = min(max(float(auc(negative, positive)), 0.0), 1.0)
        areas.append(area)
        noise.append(error)
        doubt.append(_doubt_of_area(area, float(negative.sum()), float(positive.sum())))
    value = areas[0] - (areas[1] if len(areas) > 1 else 0.5)
    wide = z * math.sqrt(sum(doubt) ** 2 + sum(each**2 for each in noise))
    return Interval(value, value - wide, value + wide)


def _histograms(labels: Array, outputs: Array, weights: Array) -> Array:
    places = np.floor((outputs + MAX_LOGIT) / (2 * MAX_LOGIT) * _GROUPS)
    groups = places.clip(0, _GROUPS - 1).astype(np.int64)
    return np.stack(
        [
            np.bincount(groups[labels == k], weights=weights[labels == k], minlength=_GROUPS)
            for k in (0, 1)
        ]
    )


def _doubt_of_area(area: float, negatives: float, positives: float) -> float:
    """Return the standard error of an area under the curve (Hanley, McNeil 1982, equation 2)."""
    negatives, positives = max(negatives, 1.0), max(positives, 1.0)
    first, second = area / (2 - area), 2 * area**2 / (1 + area)
    spread = (
        area * (1 - area)
        + (positives - 1) * (first - area**2)
        + (negatives - 1) * (second - area**2)
    )
    return math.sqrt(max(spread, 0.0) / (negatives * positives))
