from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from consilo import metrics
from consilo.metrics import TaskKind, custom_tally, merge, metrics_of, tally


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


def test_one_class_leaves_out_the_auc_only() -> None:
    assert set(metrics_of(tally("binary", np.array([1.0, 2.0]), np.array([1, 1])))) == {
        "accuracy",
        "log_loss",
    }


def test_constant_targets_leave_out_r2() -> None:
    found = metrics_of(tally("regression", np.array([3.0, 4.0]), np.array([3.1, 3.1])))
    assert set(found) == {"rmse", "mae"}


def test_extreme_logits_are_finite() -> None:
    found = metrics_of(tally("binary", np.array([1e4, -1e4]), np.array([0, 1])))
    assert found["log_loss"] == pytest.approx(1e4)
    assert found["roc_auc"] == 0.0


def test_custom_metrics_are_weighted_by_rows_and_skip_undefined_ones() -> None:
    merged = merge(
        [
            custom_tally(10, {"c_index": 0.5, "brier": 0.2}),
            custom_tally(30, {"c_index": 0.9}),
            custom_tally(5, {"c_index": math.nan}),
        ]
    )
    assert metrics_of(merged) == pytest.approx({"c_index": 0.8, "brier": 0.2})
