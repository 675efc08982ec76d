"""A join that is worth nothing by itself is told from one that carries the gain."""

import pytest

from consilo.vertical.control import control


def figures(joined, alone, shuffled, name="roc_auc"):
    return {f"joined/{name}": joined, f"label_only/{name}": alone, f"shuffled/{name}": shuffled}


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"accuracy": 0.9},
        figures(0.80, 0.70, 0.69),
        figures(0.80, 0.70, 0.74),
        figures(0.70, 0.70, 0.715),
        figures(0.5, 0.4, 0.39, "r2"),
    ],
)
def test_a_shuffled_join_that_falls_is_well(metrics):
    assert control(metrics, rows=10_000) == ""


@pytest.mark.parametrize(
    "metrics",
    [
        figures(0.80, 0.70, 0.79),
        figures(0.80, 0.70, 0.76, "accuracy"),
        figures(0.70, 0.70, 0.73),
        {**figures(0.80, 0.70, 0.79), **figures(0.9, 0.8, 0.7, "accuracy")},
    ],
)
def test_a_shuffled_join_that_gains_is_named_with_its_figures(metrics):
    said = control(metrics, rows=10_000)
    assert "the shuffled join gains too" in said
    assert f"{next(iter(metrics.values())):.4f}" in said


def test_few_rows_prove_nothing():
    metrics = figures(0.80, 0.70, 0.79)
    assert control(metrics, rows=999) == ""
    assert control(metrics, rows=1000) != ""
    assert control(figures(0.72, 0.70, 0.76), rows=1000) == ""
    assert control(figures(0.72, 0.70, 0.76), rows=4000) != ""
