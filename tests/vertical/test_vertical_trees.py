"""Vertical boosted trees: the pooled trees with the same bins; scikit-learn's as the oracle."""

import numpy as np
import pandas as pd
import pytest
import vertical
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score

from consilo.errors import IncompatibleJob, JobInvalid
from consilo.protocol import Disclosure
from consilo.protocols.vertical_trees import VerticalTrees
from consilo.vertical.blocks import folds_of
from consilo.vertical.trees import Growth, best_splits, binned

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1", "s2"), "telecom": ("t0",)}
NAMES = tuple(name for names in COLUMNS.values() for name in names)
ARGS = {"depth": 3, "folds": 3, "max_bins": 32, "min_rows": 5, "l2": 0.5}


def table(rows=1500, *, task="binary", seed=5):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, len(NAMES)))
    score = values[:, 0] + 3 * (values[:, 2] > 0) * (values[:, 5] > 0) - 2 * np.abs(values[:, 3])
    noisy = score + 0.5 * rng.logistic(size=rows)
    y = (noisy > np.median(noisy)).astype(int) if task == "binary" else noisy
    return pd.DataFrame(values, columns=list(NAMES)).assign(y=y)


def run(rows, task="binary", **changes):
    contract = vertical.contract_of(COLUMNS, classes=2 if task == "binary" else None)
    args = {**ARGS, **changes.pop("args", {})}
    job = vertical.job_of(
        "vertical_trees", COLUMNS, task=task, protocol={"rounds": 6}, args=args, **changes
    )
    return vertical.driven(job, contract, vertical.silos_of(rows, COLUMNS))[0]


def pooled(rows, task, columns=NAMES):
    """scikit-learn's trees over columns that are binned as the silos bin theirs."""
    codes = binned(np.float32(rows[list(columns)].to_numpy()), 32)
    kind = HistGradientBoostingClassifier if task == "binary" else HistGradientBoostingRegressor
    folds, found = folds_of(len(rows), 3), []
    for fold in range(3):
        learnt, held = folds != fold, folds == fold
        model = kind(
            max_iter=6,
            max_depth=3,
            max_leaf_nodes=None,
            min_samples_leaf=5,
            l2_regularization=0.5,
            early_stopping=False,
        ).fit(codes[learnt], rows["y"][learnt])
        if task == "binary":
            found.append(roc_auc_score(rows["y"][held], model.decision_function(codes[held])))
        else:
            found.append(r2_score(rows["y"][held], model.predict(codes[held])))
    return np.mean(found)


@pytest.mark.parametrize(("task", "name"), [("binary", "roc_auc"), ("regression", "r2")])
def test_trees_over_all_silos_are_the_pooled_ones(task, name):
    rows = table(task=task)
    metrics = run(rows, task).metrics
    assert metrics[f"joined/{name}"] == pytest.approx(pooled(rows, task), abs=1e-3)
    alone = pooled(rows, task, COLUMNS["bank"])
    assert metrics[f"label_only/{name}"] == pytest.approx(alone, abs=1e-3)
    assert metrics[f"joined/{name}"] > metrics[f"label_only/{name}"] + 0.05
    assert metrics[f"shuffled/{name}"] < metrics[f"label_only/{name}"] + 0.03


def test_a_split_is_the_best_of_all_that_there_are():
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 6, (60, 3)).astype(np.uint8)
    slope, nodes = rng.normal(size=60), rng.integers(-1, 2, 60).astype(np.int8)
    slope[:10] = np.nan
    curve = np.ones(60)
    found = best_splits(codes, slope, curve, nodes, num_nodes=2, growth=Growth(1.0, 3))
    for node in range(2):
        rows = (nodes == node) & np.isfinite(slope)
        worth = {}
        for column in range(3):
            for level in range(6):
                left = rows & (codes[:, column] <= level)
                right = rows & ~left
                if min(left.sum(), right.sum()) >= 3:
                    parts = [slope[each].sum() ** 2 / (each.sum() + 1) for each in (left, right)]
                    worth[column, level] = sum(parts) - slope[rows].sum() ** 2 / (rows.sum() + 1)
        best = max(worth, key=worth.__getitem__)
        assert (found.columns[node], found.bins[node]) == best
        assert found.gains[node] == pytest.approx(worth[best])


def test_bins_are_values_where_they_are_few_and_quantiles_else():
    few = np.float32([[3.0], [1.0], [3.0], [2.0]])
    assert binned(few, 4).tolist() == [[2], [0], [2], [1]]
    counts = np.bincount(binned(np.random.default_rng(1).normal(size=(1000, 1)), 10)[:, 0])
    assert counts.tolist() == [100] * 10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"args": {"histograms": "secure"}}, "encrypted gradients"),
        ({"args": {"depth": 7}}, "depth"),
        ({"task": "multiclass"}, "binary or regression"),
        ({"privacy": {"epsilon": 1, "delta": 1e-5}}, "vertical_split"),
    ],
)
def test_a_job_that_cannot_work_is_refused_before_any_message(changes, says):
    with pytest.raises((IncompatibleJob, JobInvalid), match=says):
        VerticalTrees.from_job(vertical.job_of("vertical_trees", COLUMNS, **changes))


def test_the_classes_of_what_is_sealed_are_declared():
    verbs = VerticalTrees.verbs()
    assert Disclosure.EMBEDDING in verbs["split"].disclosures
    assert Disclosure.LABEL in verbs["grow"].disclosures & verbs["start"].disclosures
