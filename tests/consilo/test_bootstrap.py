"""Paired bootstrap intervals: held against scipy's, against exact figures, and at their borders."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap

from consilo import metrics
from consilo.metrics.bootstrap import FIGURES, LOWER_IS_BETTER, figure, gain, gap, interval


def made(kind: str, rows: int, seed: int = 0, classes: int = 3):
    """Return a model's outputs, another's that is a little worse, and the targets."""
    rng = np.random.default_rng(seed)
    if kind == "regression":
        targets = rng.normal(50, 10, rows)
        return targets + rng.normal(0, 3, rows), targets + rng.normal(0, 4, rows), targets
    labels = rng.integers(0, 2 if kind == "binary" else classes, rows)
    if kind == "binary":
        signal = 2.0 * labels - 1
        return signal + rng.normal(0, 1, rows), signal + rng.normal(0, 1.5, rows), labels
    signal = 2.0 * np.eye(classes)[labels]
    shape = (rows, classes)
    return signal + rng.normal(0, 1, shape), signal + rng.normal(0, 1.5, shape), labels


@pytest.mark.parametrize("name", ["roc_auc", "log_loss"])
def test_the_interval_is_scipys(name: str) -> None:
    candidate, other, labels = made("binary", 120)
    found = gain(
        name, "binary", candidate, other, labels, rng=np.random.default_rng(1), resamples=4000
    )
    of = {"roc_auc": metrics.roc_auc, "log_loss": metrics.log_loss}[name]
    sign = -1 if name in LOWER_IS_BETTER else 1

    def statistic(own, its, true):
        return sign * (of(true, own) - of(true, its))

    told = bootstrap(
        (candidate, other, labels),
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    width = told.high - told.low
    assert found is not None
    assert found.value == pytest.approx(statistic(candidate, other, labels))
    assert abs(found.low - told.low) < 0.08 * width
    assert abs(found.high - told.high) < 0.08 * width


@pytest.mark.parametrize("kind", list(FIGURES))
def test_figures_are_those_of_the_tally_or_finer(kind: str) -> None:
    """Where scores are counted in bins, a tally's figure is within its promise."""
    candidate, _, targets = made(kind, 4000)
    whole = metrics.metrics_of(metrics.tally(kind, candidate, targets))
    for name in FIGURES[kind]:
        found = figure(name, kind, candidate, targets)(np.ones((1, len(targets))))[0]
        coarse = name in ("roc_auc", "pr_auc", "calibration_error", "roc_auc_macro")
        assert found == pytest.approx(whole[name], abs=5e-3 if coarse else 1e-9), name


@pytest.mark.parametrize("kind", list(FIGURES))
def test_a_row_that_counts_twice_is_the_row_written_twice(kind: str) -> None:
    candidate, _, targets = made(kind, 60)
    counts = np.random.default_rng(3).integers(0, 3, (1, 60)).astype(float)
    twice = np.repeat(np.arange(60), counts[0].astype(int))
    for name in FIGURES[kind]:
        drawn = figure(name, kind, candidate, targets)(counts)
        written = figure(name, kind, candidate[twice], targets[twice])(np.ones((1, len(twice))))
        assert drawn == pytest.approx(written), name


@pytest.mark.parametrize("kind", list(FIGURES))
def test_the_same_model_is_as_good_as_itself_and_others_differ_by_sign(kind: str) -> None:
    candidate, other, targets = made(kind, 80)
    for name in FIGURES[kind]:
        same = gain(name, kind, candidate, candidate, targets, rng=np.random.default_rng(0))
        assert same is not None
        assert (same.value, same.low, same.high) == (0, 0, 0), name
    names = [name for name in FIGURES[kind] if name not in ("rmse", "mae")]  # these are shares
    for name in names:
        there, back = (
            gain(name, kind, *pair, targets, rng=np.random.default_rng(0))
            for pair in ((candidate, other), (other, candidate))
        )
        assert there is not None
        assert back is not None
        if "accuracy" not in name and name not in ("recall", "precision", "f1", "f1_macro"):
            assert (there.low, there.high) == pytest.approx((-back.high, -back.low)), name
        assert there.value == pytest.approx(-back.value), name


def test_few_rows_on_which_both_say_the_same_have_an_interval_all_the_same() -> None:
    labels = np.tile([0, 1], 15)
    sure = 4.0 * labels - 2
    found = gain("accuracy", "binary", sure, sure * 1.1, labels, rng=np.random.default_rng(0))
    assert found is not None
    assert found.low < -0.05 < 0.05 < found.high


def test_rows_of_one_person_are_drawn_together() -> None:
    """A hundred copies of ten rows tell no more than ten rows."""
    candidate, other, labels = made("binary", 10)
    copies = np.tile(np.arange(10), 100)
    asked = ("log_loss", "binary", candidate[copies], other[copies], labels[copies])
    alone = gain(*asked, rng=np.random.default_rng(0))
    together = gain(*asked, rng=np.random.default_rng(0), people=copies)
    ten = gain("log_loss", "binary", candidate, other, labels, rng=np.random.default_rng(0))
    assert alone is not None
    assert together is not None
    assert ten is not None
    assert together.high - together.low == pytest.approx(ten.high - ten.low)
    assert alone.high - alone.low < 0.2 * (together.high - together.low)


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 200 tables, 95 % of the intervals hold the true difference; 88 % at least of so few."""
    held = 0
    for seed in range(200):
        candidate, other, labels = made("binary", 80, seed=seed)
        found = gain(
            "brier",
            "binary",
            candidate,
            other,
            labels,
            rng=np.random.default_rng(seed),
            resamples=300,
        )
        assert found is not None
        held += found.low <= TRUE_GAIN <= found.high
    assert held >= 176


def _true_gain() -> float:
    candidate, other, labels = made("binary", 400_000, seed=999)
    of = (figure("brier", "binary", each, labels) for each in (other, candidate))
    its, own = (float(each(np.ones((1, len(labels))))[0]) for each in of)
    return its - own


TRUE_GAIN = _true_gain()


def test_a_gap_between_groups_is_found_and_a_group_without_the_figure_is_none() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)
    scores = 2.0 * labels - 1 + rng.normal(0, 0.5, 600)
    scores[:300] = rng.normal(0, 1, 300)
    halves = [np.arange(300), np.arange(300, 600)]
    found = gap("roc_auc", "binary", scores, labels, halves, rng=rng)
    assert found is not None
    assert 0.35 < found.low < found.value < 0.6
    ill = np.flatnonzero(labels == 1)
    assert gap("roc_auc", "binary", scores, labels, [halves[1], ill], rng=rng) is None


def test_what_no_draw_defines_has_no_interval() -> None:
    labels = np.ones(40, int)
    scores = np.arange(40.0)
    assert gain("roc_auc", "binary", scores, -scores, labels, rng=np.random.default_rng(0)) is None
    nothing = interval(lambda counts: counts[:, 0], 0, rng=np.random.default_rng(0))
    assert nothing is None
