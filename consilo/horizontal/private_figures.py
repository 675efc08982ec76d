"""Figures of merit with differential privacy: clipped sums over held-out rows, noisy and paid.

Sensitivity. One row, added or removed, changes each entry of a tally that it touches by at most
that entry's bound: a right answer by 1; a row's log loss, clipped to `MAX_LOGIT`, by `MAX_LOGIT`;
one of the groups of scores by 1; in regression, with targets and outputs clipped to the contract's
range [a, b], per target a squared error by (b - a)**2, an absolute one by b - a, a target by
max(|a|, |b|) and its square by max(|a|, |b|)**2. Each entry is divided by its bound, so that one
row moves the vector of all by an L2 norm of at most the root of how many entries it touches;
Gaussian noise of ``sigma`` times that root is added. The number of rows is public.

Where the job hides subjects, the n held-out rows of one weigh 1/n each: it moves that vector by a
mean of what its rows would, so by the same norm at most, and the number of subjects is public.

Scores lie in 32 groups per label, not in 256 bins: what is lost in resolution is far less than what
noise in eight times as many numbers would cost. Noise is not cut off at 0, since what is cut off at
0 adds up over groups and silos; a figure is kept where it can be, and left out where it is mostly
noise (`consilo.metrics`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from consilo.horizontal.apart import LearnerApart
from consilo.horizontal.dataset import Rows
from consilo.horizontal.features import target_ends
from consilo.horizontal.learning import FIGURES, admit, continued, figures_noise
from consilo.kernel.verbs import Disclosure
from consilo.kernel.view import SiloView
from consilo.learners.torch_learner import Arrays, TorchLearner
from consilo.metrics import MAX_LOGIT, NOISE, NUM_BINS, TaskKind, metrics_of, row_log_losses
from consilo.privacy.dpsgd import drawn_places
from consilo.privacy.noise import SecretStream, add_gaussian, noise_std
from consilo.wire.params import digest

Floats = np.ndarray[Any, np.dtype[np.float64]]

GROUPS = 32
"""Groups of scores per label."""
FIGURES_OF: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "log_loss", "roc_auc"),
    "multiclass": ("accuracy", "log_loss"),
    "regression": ("rmse", "mae", "r2"),
}
"""Task → the figures that a private job may have: those that its clipped sums determine."""
_BLOCK = 4096
_SPARE_TO = 64
"""The number of places is a multiple of it, so that it seldom changes with that of the rows."""


def judged_privately(silo: SiloView, learner: TorchLearner, rows: Rows) -> dict[str, Any]:
    """Return the noisy figures of a private job's model on held-out rows, once they are paid.

    Empty where the job has no ``privacy.metrics_epsilon``, where the silo's policy keeps them back
    or wants them made of more rows than there are, and where nothing bounds what one row adds: for
    a task of its own, and for a target without a range in the contract.

    Raises:
        BudgetExhausted: where the job's ε or the data set's account cannot pay.
    """
    privacy = silo.job.privacy
    wanted = [name for name in ("metrics", "tally") if silo.admits(name)]
    if privacy is None or privacy.metrics_epsilon is None or not wanted:
        return {}
    if not silo.has_floor(Disclosure.METRIC, rows.num_test):
        return {}
    bounds = bounds_of(silo, learner.task.kind)
    if not bounds:
        return {}
    weights = None if rows.test_subjects is None else rows.test_subjects.weights
    sigma, stream = paid_noise(silo, rows.num_test, mark_of(rows))
    sums = clipped_sums(
        silo,
        learner,
        rows.test,
        weights,
        num_units=rows.num_test,
        places=stream.child("places"),
    )
    tally = noisy_tally(sums, bounds, rows.num_test, sigma, stream)
    found = {"metrics": metrics_of(tally), "tally": tally}
    return {name: found[name] for name in wanted}


def mark_of(rows: Rows) -> str:
    """Return the SHA-256 of the rows that are held out, in hexadecimal; it stays in the silo."""
    mark = hashlib.sha256()
    for array in (rows.test.features, rows.test.targets):
        for start in range(0, len(array), _BLOCK):
            mark.update(np.ascontiguousarray(array[start : start + _BLOCK]).tobytes())
    if rows.test_subjects is not None:
        mark.update(rows.test_subjects.codes.tobytes())
    return mark.hexdigest()


def paid_noise(silo: SiloView, units: int, mark: str) -> tuple[float, SecretStream]:
    """Reserve one question about held-out rows; return its noise multiplier and secret stream.

    Args:
        silo: where; its job has ``privacy.metrics_epsilon``.
        units: how many rows, or subjects, are held out.
        mark: of `mark_of`.

    Raises:
        BudgetExhausted: where the job's ε or the data set's account cannot pay.
    """
    privacy = silo.job.privacy
    assert privacy is not None
    sigma = figures_noise(silo.kept_number, privacy)
    silo.reserve(
        FIGURES,
        sigma=sigma,
        sample_rate=1.0,
        steps=1,
        rows=units,
        fingerprint=mark,
        admit=lambda history: admit([*continued(silo), *history], privacy),
    )
    return sigma, silo.noise(mark)


def noisy_tally(
    sums: Mapping[str, Floats],
    bounds: Mapping[str, float],
    num_rows: int,
    sigma: float,
    stream: SecretStream,
    *,
    reach: float = 1.0,
) -> dict[str, Any]:
    """Return a tally for `consilo.metrics` from clipped sums, with noise.

    Args:
        sums: entry → sum over rows; the groups of scores are vectors of `GROUPS`.
        bounds: entry → most that one row adds to it; 0 for an entry that is public. A row touches
            one of both vectors of scores.
        num_rows: how many rows, or subjects, there are; public.
        sigma: noise multiplier.
        stream: advanced by the numbers that were used.
        reach: how often its sensitivity tables differ by that are neighbours: 2 where a row is not
            there or not, but has other values.
    """
    size = sum(np.size(value) for value in sums.values())
    std = noise_std(sigma, sensitivity=reach * sensitivity(bounds), size=size)
    found: dict[str, Any] = {"n": np.asarray(float(num_rows))}
    for name, value in sums.items():
        bound = bounds[name]
        flat = np.atleast_1d(np.asarray(value, np.float64))
        noisy = add_gaussian(flat / bound, std, stream) * bound if bound else flat
        if name.startswith("scores_"):
            spread = np.zeros(NUM_BINS)
            spread[NUM_BINS // GROUPS // 2 :: NUM_BINS // GROUPS] = noisy
            found[name] = spread
        else:
            found[name] = noisy.reshape(())
        if bound:
            found[NOISE + name] = np.asarray((std * bound) ** 2)
    return found


def sensitivity(bounds: Mapping[str, float]) -> float:
    """Return the most that one row moves the vector of all entries, each divided by its bound."""
    touched = sum(1 for name, bound in bounds.items() if bound and name != "scores_1")
    return math.sqrt(touched)


def bounds_of(silo: SiloView, kind: TaskKind) -> dict[str, float]:
    """Return entry → most that one row adds to it; empty where nothing bounds it."""
    if kind in ("binary", "multiclass"):
        found = {"correct": 1.0, "log_loss_sum": MAX_LOGIT}
        return found | ({"scores_0": 1.0, "scores_1": 1.0} if kind == "binary" else {})
    ranges = target_ends(silo.contract) if kind == "regression" else None
    if ranges is None:
        return {}
    low, high = ranges
    width, largest = high - low, np.maximum(np.abs(low), np.abs(high))
    return {
        "values": 0.0,
        "squared_error_sum": float(np.sum(width**2)),
        "absolute_error_sum": float(np.sum(width)),
        "target_sum": float(np.sum(largest)),
        "target_square_sum": float(np.sum(largest**2)),
    }


def clipped_sums(
    silo: SiloView,
    learner: TorchLearner,
    data: Arrays,
    weights: Floats | None = None,
    *,
    num_units: int | None = None,
    places: SecretStream,
) -> dict[str, Floats]:
    """Return the clipped sums over the rows of ``data``.

    Args:
        silo: whose contract bounds targets.
        learner: the model.
        data: rows.
        weights: what each counts, those of one subject 1 together; None is 1 each.
        num_units: how many rows, or subjects, are public; by default those of ``data``.
        places: secret; in which places of the batches the rows are computed.
    """
    outputs = outputs_of(learner, data.features, places)
    kind = learner.task.kind
    return _sums(silo, kind, outputs, np.asarray(data.targets), weights, num_units=num_units)


def judged_if_replaced(
    silo: SiloView, kind: TaskKind, outputs: Floats, targets: np.ndarray[Any, Any], mechanism: str
) -> dict[str, float]:
    """Return the noisy figures of outputs that were computed already, once they are paid.

    Two tables differ in the values of one row, which moves each sum from one of its values to
    another: the noise is twice as large as where a row is there or not. Empty as
    `judged_privately` is.

    Args:
        silo: whose rows they are; its contract bounds targets.
        kind: of the task.
        outputs: shaped raw outputs, of each row by itself.
        targets: encoded.
        mechanism: as the ledger calls it.

    Raises:
        BudgetExhausted: where the job's ε or the data set's account cannot pay.
    """
    privacy, bounds = silo.job.privacy, bounds_of(silo, kind)
    if privacy is None or privacy.metrics_epsilon is None or not bounds:
        return {}
    if not silo.admits("metrics") or not silo.has_floor(Disclosure.METRIC, len(targets)):
        return {}
    sums = _sums(silo, kind, np.nan_to_num(outputs, nan=0.0, posinf=0.0, neginf=0.0), targets)
    mark = digest({"outputs": outputs, "targets": targets})
    sigma = figures_noise(silo.kept_number, privacy)
    silo.reserve(
        mechanism,
        sigma=sigma,
        sample_rate=1.0,
        steps=1,
        rows=len(targets),
        fingerprint=mark,
        admit=lambda history: admit([*continued(silo), *history], privacy),
    )
    stream = silo.noise(mark)
    return metrics_of(noisy_tally(sums, bounds, len(targets), sigma, stream, reach=2.0))


def _sums(
    silo: SiloView,
    kind: TaskKind,
    outputs: Floats,
    targets: np.ndarray[Any, Any],
    weights: Floats | None = None,
    *,
    num_units: int | None = None,
) -> dict[str, Floats]:
    """Return clipped sums over rows of the figures of their outputs."""
    weights = np.ones(len(targets)) if weights is None else weights
    if kind == "regression":
        ranges = target_ends(silo.contract)
        assert ranges is not None
        wide = np.clip(targets.astype(np.float64).reshape(len(targets), -1), *ranges)
        error = wide - np.clip(outputs.reshape(wide.shape), *ranges)
        count = len(targets) if num_units is None else num_units
        each = weights[:, None]
        return {
            "values": np.asarray(float(count * wide.shape[1])),
            "squared_error_sum": np.asarray(np.sum(each * error**2)),
            "absolute_error_sum": np.asarray(np.sum(each * np.abs(error))),
            "target_sum": np.asarray(np.sum(each * wide)),
            "target_square_sum": np.asarray(np.sum(each * wide**2)),
        }
    labels = targets.astype(np.int64).reshape(-1)
    binary = kind == "binary"
    said = (outputs > 0).astype(np.int64) if binary else np.argmax(outputs, axis=1)
    losses = np.clip(row_log_losses(labels, outputs), 0.0, MAX_LOGIT)
    sums = {"correct": np.sum(weights * (said == labels)), "log_loss_sum": np.sum(weights * losses)}
    if binary:
        places = np.floor((outputs + MAX_LOGIT) / (2 * MAX_LOGIT) * GROUPS)
        groups = places.clip(0, GROUPS - 1).astype(np.int64)
        for label in (0, 1):
            those = labels == label
            counts = np.bincount(groups[those], weights=weights[those], minlength=GROUPS)
            sums[f"scores_{label}"] = counts.astype(np.float64)
    return sums


def outputs_of(learner: TorchLearner, features: Any, places: SecretStream) -> Floats:
    """Return a model's outputs as float64, values in the target's units; raises nothing.

    What is not finite counts as 0, as the model itself would give it.

    A model that is not Consilo's own sees one row at a time: what mixes the rows of a batch would
    let one row move the sums by more than their noise hides. So would a batch in the rows' own
    order, in which one more moves those after it to other places, with other last bits: see
    `consilo.privacy.dpsgd`. Places are random here too, and those left over hold zeros.
    """
    if isinstance(learner, LearnerApart):
        found = np.nan_to_num(learner.outputs(features), nan=0.0, posinf=0.0, neginf=0.0)
        return learner.task.in_own_units(found)
    own = type(learner.model).__module__.partition(".")[0] == "consilo"
    size, was_training = (_BLOCK if own else 1), learner.model.training
    count = -(-len(features) // _SPARE_TO) * _SPARE_TO
    taken = drawn_places(count, places)
    held = np.argsort(taken)  # of each place its row
    learner.model.eval()
    try:
        with torch.no_grad():
            parts = [
                learner.forward(learner.model, _placed(features, held[start : start + size]))
                for start in range(0, count, size)
            ]
    finally:
        learner.model.train(was_training)
    shape = (0, learner.task.num_classes) if learner.task.kind == "multiclass" else (0,)
    made = np.concatenate([each.numpy() for each in parts]) if parts else np.zeros(shape)
    found = made.astype(np.float64)[taken[: len(features)]]
    found = np.nan_to_num(found, nan=0.0, posinf=0.0, neginf=0.0)
    return learner.task.in_own_units(found)


def _placed(features: Any, rows: np.ndarray[Any, Any]) -> torch.Tensor:
    """Return rows by number, in their order; zeros for those that there are not."""
    batch = torch.zeros((len(rows), *features.shape[1:]))
    there = np.flatnonzero(rows < len(features))
    batch[torch.from_numpy(there)] = torch.from_numpy(np.array(features[rows[there]], np.float32))
    return batch
