from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from consilo import metrics
from consilo.metrics import TaskKind, merge, metrics_of, own_tally, tally
from consilo.vertical.linear.solve import figures_of


def _rows(kind: TaskKind, num_rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if kind == "binary":
        labels = rng.integers(0, 2, num_rows)
        return rng.normal(labels * 1.5 - 0.7, 1.5), labels
    if kind == "multiclass":
        labels = rng.integers(0, 4, num_rows)
        return rng.normal(size=(num_rows, 4)) + np.eye(4)[labels], labels
    targets = rng.normal(50, 10, num_rows)
    return targets + rng.normal(size=num_rows), targets


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=40))
def test_auc_equals_sklearn_with_ties(pairs: list[tuple[int, int]]) -> None:
    labels = np.array([label for label, _ in pairs])
    scores = np.array([score for _, score in pairs], float)
    if len(set(labels)) < 2:
        assert math.isnan(metrics.roc_auc(labels, scores))
    else:
        assert metrics.roc_auc(labels, scores) == pytest.approx(
            oracle.roc_auc_score(labels, scores), abs=1e-12
        )


def test_figures_equal_sklearn() -> None:
    logits, labels = _rows("binary", 500, 1)
    probabilities = 1 / (1 + np.exp(-logits))
    assert metrics.log_loss(labels, logits) == pytest.approx(
        oracle.log_loss(labels, probabilities), rel=1e-9
    )
    many, classes = _rows("multiclass", 500, 2)
    softmax = np.exp(many) / np.exp(many).sum(1, keepdims=True)
    assert metrics.log_loss(classes, many) == pytest.approx(
        oracle.log_loss(classes, softmax), rel=1e-9
    )
    assert metrics.accuracy(classes, many.argmax(1)) == oracle.accuracy_score(
        classes, many.argmax(1)
    )
    values, targets = _rows("regression", 500, 3)
    assert metrics.rmse(targets, values) == pytest.approx(
        oracle.root_mean_squared_error(targets, values)
    )
    assert metrics.mae(targets, values) == pytest.approx(
        oracle.mean_absolute_error(targets, values)
    )
    assert metrics.r2(targets, values) == pytest.approx(oracle.r2_score(targets, values))


@settings(max_examples=40)
@given(
    st.sampled_from(["binary", "multiclass", "regression"]),
    st.integers(0, 60),
    st.lists(st.integers(0, 60), max_size=3),
    st.integers(0, 2**32 - 1),
)
def test_merged_parts_equal_the_whole(
    kind: TaskKind, num_rows: int, cuts: list[int], seed: int
) -> None:
    outputs, targets = _rows(kind, num_rows, seed)
    places = sorted(min(cut, num_rows) for cut in cuts)
    parts = zip(np.split(outputs, places), np.split(targets, places), strict=True)
    merged = metrics_of(merge(tally(kind, *part) for part in parts))
    assert merged == pytest.approx(metrics_of(tally(kind, outputs, targets)), rel=1e-9)


@pytest.mark.parametrize("spread", [0.3, 1.0, 2.5])
def test_histogram_auc_is_within_its_bound(spread: float) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 2, 3000)
    logits = rng.normal((labels - 0.5) * spread, spread)
    found = metrics_of(tally("binary", logits, labels))["roc_auc"]
    assert found == pytest.approx(metrics.roc_auc(labels, logits), abs=2e-3)


def test_tally_metrics_equal_the_direct_ones() -> None:
    values, targets = _rows("regression", 300, 7)
    found = metrics_of(tally("regression", values, targets))
    assert found["r2"] == pytest.approx(metrics.r2(targets, values), rel=1e-9)
    assert found["rmse"] == pytest.approx(metrics.rmse(targets, values))
    assert found["mae"] == pytest.approx(metrics.mae(targets, values))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression", "custom"])
def test_no_rows_give_no_metrics_and_no_warning(kind: TaskKind) -> None:
    outputs = np.zeros((0, 4)) if kind == "multiclass" else np.zeros(0)
    assert metrics_of(tally(kind, outputs, np.zeros(0))) == {}
    assert metrics_of({}) == {}
    assert merge([]) == {}


def test_one_class_leaves_out_what_needs_two() -> None:
    found = metrics_of(tally("binary", np.array([1.0, -2.0]), np.array([1, 1])))
    assert "roc_auc" not in found
    assert (found["recall"], found["precision"], found["pr_auc"]) == (0.5, 1.0, 1.0)
    none = metrics_of(tally("binary", np.array([-1.0, -2.0]), np.array([0, 0])))
    assert not {"roc_auc", "recall", "precision", "pr_auc", "f1"} & set(none)
    assert none["accuracy"] == 1.0


def test_constant_targets_leave_out_r2() -> None:
    found = metrics_of(tally("regression", np.array([3.0, 4.0]), np.array([3.1, 3.1])))
    assert set(found) == {"rmse", "mae"}


def test_extreme_logits_are_finite() -> None:
    found = metrics_of(tally("binary", np.array([1e4, -1e4]), np.array([0, 1])))
    assert found["log_loss"] == pytest.approx(1e4)
    assert found["roc_auc"] == 0.0


def _cut(rng: np.random.Generator, num_rows: int) -> list[np.ndarray]:
    """Return which rows lie in which of some silos; one may be empty."""
    owner = rng.integers(0, 4, num_rows)
    return [np.flatnonzero(owner == each) for each in range(5)]


def _middles(logits: np.ndarray) -> np.ndarray:
    """Return scores rounded to the middles of the declared bins."""
    width = 2 * metrics.MAX_LOGIT / metrics.NUM_BINS
    places = np.floor((logits + metrics.MAX_LOGIT) / width).clip(0, metrics.NUM_BINS - 1)
    return (places + 0.5) * width - metrics.MAX_LOGIT


@settings(max_examples=30)
@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_two_classes_over_silos_equal_sklearn_on_the_union(
    num_rows: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    labels = (rng.random(num_rows) < share).astype(int)
    logits = rng.normal(labels * 2.0 - 1.0, 2.5)
    sums = merge(tally("binary", logits[part], labels[part]) for part in _cut(rng, num_rows))
    found, said = metrics_of(sums), (logits > 0).astype(int)
    chances, rounded = 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-_middles(logits)))
    exact = {
        "accuracy": oracle.accuracy_score(labels, said),
        "brier": np.mean((chances - labels) ** 2),
        "log_loss": oracle.log_loss(labels, chances, labels=[0, 1]),
    }
    if labels.any():
        exact["recall"] = oracle.recall_score(labels, said)
        exact["pr_auc"] = oracle.average_precision_score(labels, rounded)
    if said.any():
        exact["precision"] = oracle.precision_score(labels, said)
    if labels.any() or said.any():
        exact["f1"] = oracle.f1_score(labels, said)
    if 0 < labels.sum() < num_rows:
        exact["roc_auc"] = oracle.roc_auc_score(labels, rounded)
    assert set(found) == {*exact, "calibration_error"}
    for name, value in exact.items():
        assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
    steps = np.minimum((rounded * 10).astype(int), 9)
    true, guessed = calibration_curve(labels, rounded, n_bins=10, strategy="uniform")
    weights = np.bincount(steps, minlength=10)
    gap = np.sum(weights[weights > 0] * np.abs(true - guessed)) / num_rows
    assert found["calibration_error"] == pytest.approx(gap, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(4, 300), st.integers(0, 2**32 - 1), st.integers(2, 6))
def test_several_classes_over_silos_equal_sklearn_on_the_union(
    num_rows: int, seed: int, num_classes: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num_rows)])
    logits = rng.normal(size=(len(labels), num_classes), scale=2.0) + np.eye(num_classes)[labels]
    sums = merge(tally("multiclass", logits[p], labels[p]) for p in _cut(rng, len(labels)))
    names = [f"c{each}" for each in range(num_classes)]
    found, said = metrics_of(sums, names), logits.argmax(axis=1)
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_array_equal(sums["confusion"], oracle.confusion_matrix(labels, said))
    recall = oracle.recall_score(labels, said, average=None)
    precision = oracle.precision_score(labels, said, average=None, zero_division=np.nan)
    margins = np.log(chances) - np.log1p(-chances)
    areas = [
        oracle.roc_auc_score(labels == each, _middles(margins[:, each]))
        for each in range(num_classes)
    ]
    exact = {
        "accuracy": oracle.accuracy_score(labels, said),
        "log_loss": oracle.log_loss(labels, chances),
        "brier": np.mean(np.sum((chances - np.eye(num_classes)[labels]) ** 2, axis=1)),
        "balanced_accuracy": oracle.balanced_accuracy_score(labels, said),
        "f1_macro": oracle.f1_score(labels, said, average="macro"),
        "roc_auc_macro": np.mean(areas),
        **{f"recall/{name}": recall[at] for at, name in enumerate(names)},
        **{f"roc_auc/{name}": areas[at] for at, name in enumerate(names)},
        **{f"precision/{n}": precision[at] for at, n in enumerate(names) if said[said == at].size},
    }
    assert found == pytest.approx(exact, rel=1e-9, abs=1e-12)


@settings(max_examples=30)
@given(st.integers(2, 300), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 50.0, -1e6]))
def test_numbers_over_silos_equal_sklearn_on_the_union(
    num_rows: int, seed: int, offset: float
) -> None:
    rng = np.random.default_rng(seed)
    targets = offset + rng.normal(size=num_rows)
    outputs = targets + rng.normal(size=num_rows)
    sums = merge(tally("regression", outputs[p], targets[p]) for p in _cut(rng, num_rows))
    assert sums["n"] == num_rows
    found = metrics_of(sums)
    assert found["rmse"] == pytest.approx(
        oracle.root_mean_squared_error(targets, outputs), rel=1e-12
    )
    assert found["mae"] == pytest.approx(oracle.mean_absolute_error(targets, outputs), rel=1e-12)
    # The spread of targets far from nought is a small difference of large sums: told as far as it
    # is known, or left out.
    near = abs(offset) < 100
    assert "r2" in found or not near
    if "r2" in found:
        left = 1 - oracle.r2_score(targets, outputs)
        assert 1 - found["r2"] == pytest.approx(left, rel=1e-9 if near else 1e-2)


@settings(max_examples=30)
@given(st.integers(4, 200), st.integers(0, 2**32 - 1))
def test_the_label_silos_figures_of_a_vertical_model_equal_sklearn(
    num_rows: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([[0, 1], rng.integers(0, 2, num_rows)]).astype(float)
    outputs = rng.normal(labels, 1.0)
    chances = 1 / (1 + np.exp(-outputs))
    assert figures_of("binary", labels, outputs) == pytest.approx(
        {
            "roc_auc": oracle.roc_auc_score(labels, outputs),
            "accuracy": oracle.accuracy_score(labels, outputs > 0),
            "log_loss": oracle.log_loss(labels, chances),
        },
        rel=1e-12,
    )
    assert figures_of("regression", outputs, labels) == pytest.approx(
        {
            "rmse": oracle.root_mean_squared_error(outputs, labels),
            "r2": oracle.r2_score(outputs, labels),
        },
        rel=1e-12,
    )


def test_with_many_classes_there_is_neither_matrix_nor_curve() -> None:
    many = metrics.MOST_CLASSES + 1
    sums = tally("multiclass", np.eye(many), np.arange(many))
    assert {"confusion", "scores_each"}.isdisjoint(sums)
    assert metrics_of(sums)["accuracy"] == 1.0


def test_a_figure_is_left_out_where_a_silo_lacks_its_sums() -> None:
    """Silos of releases before count less: no figure mixes sums over different rows."""
    logits, labels = _rows("binary", 90, 3)
    new = tally("binary", logits[:40], labels[:40])
    whole = tally("binary", logits[40:], labels[40:])
    old = {name: value for name, value in whole.items() if name not in ("predicted_1", "brier_sum")}
    found = metrics_of(merge([new, {}, old]))
    assert {"recall", "precision", "f1", "brier"}.isdisjoint(found)
    assert found["roc_auc"] == metrics_of(tally("binary", logits, labels))["roc_auc"]


def test_sums_of_ones_own_are_those_of_all_rows() -> None:
    """Three silos with 5, 5 and 32 rows of a rare class, of which 1, 3 and 26 are found."""
    merged = merge(
        own_tally(rows, {"recall_rare": (found, cases)})
        for rows, found, cases in ((900, 1, 5), (700, 3, 5), (80, 26, 32))
    )
    assert metrics_of(merged) == {"recall_rare": pytest.approx(30 / 42)}


def test_a_number_of_ones_own_is_called_a_mean_over_silos() -> None:
    merged = merge(
        [
            own_tally(10, {"c_index": 0.5, "brier": 0.2}),
            own_tally(30, {"c_index": 0.9}),
            own_tally(5, {"c_index": math.nan}),
        ]
    )
    assert metrics_of(merged) == pytest.approx(
        {
            "silo_mean/c_index": 0.8,
            "num_silos/c_index": 2,
            "silo_mean/brier": 0.2,
            "num_silos/brier": 1,
        }
    )


def test_the_best_constant_is_known_from_the_sums() -> None:
    logits, labels = _rows("binary", 200, 5)
    found, share = metrics.constant_of(tally("binary", logits, labels)), labels.mean()
    constant = np.full(200, np.log(share / (1 - share)))
    assert found["log_loss"] == pytest.approx(metrics.log_loss(labels, constant))
    assert found["accuracy"] == max(share, 1 - share)
    values, targets = _rows("regression", 200, 6)
    found = metrics.constant_of(tally("regression", values, targets))
    assert found == {"rmse": pytest.approx(targets.std())}
    assert metrics.constant_of({"n": 3.0}) == {}


def test_intervals_hold_what_they_say() -> None:
    """Of 200 draws of 150 rows each, the interval holds the population's figure nearly always."""
    logits, labels = _rows("binary", 200_000, 8)
    truth = metrics_of(tally("binary", logits, labels))
    rng, held = np.random.default_rng(1), dict.fromkeys(truth, 0)
    for _ in range(200):
        part = rng.integers(0, len(labels), 150)
        for name, (low, high) in metrics.intervals_of(
            tally("binary", logits[part], labels[part])
        ).items():
            held[name] += low <= truth[name] <= high
    told = {name: times for name, times in held.items() if times}
    assert set(told) == {"accuracy", "recall", "precision", "f1", "roc_auc", "pr_auc"}
    assert min(told.values()) >= 178, told  # of 200; 190 are promised


def test_wilson_equals_the_textbook() -> None:
    """Newcombe 1998, Table I, method 3: 81 of 263 and 15 of 148."""
    for right, rows, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)):
        labels = np.ones(rows, int)
        logits = np.where(np.arange(rows) < right, 1.0, -1.0)
        found = metrics.intervals_of(tally("binary", logits, labels))["accuracy"]
        assert found == pytest.approx((low, high), abs=5e-5)
