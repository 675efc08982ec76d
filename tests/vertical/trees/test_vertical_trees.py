"""Vertical boosted trees: the pooled trees with the same bins; scikit-learn's as the oracle."""

import numpy as np
import pytest
import vertical
from bins import binned
from boosted import COLUMNS, NAMES, ROUNDS, contract_of, job_of, run, scored, table, trained_scores
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import r2_score, roc_auc_score

from consilo.errors import IncompatibleJob, JobInvalid, Refused
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.kernel.verbs import Disclosure
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.vertical.blocks import folds_of
from consilo.vertical.parts import Part
from consilo.vertical.training import Turn
from consilo.vertical.trees.protocol import VerticalTrees
from consilo.vertical.trees.trees import Growth, best_splits, coded, edges_of
from consilo.wire.payload import pack, unpack


def grown(codes, rows, task):
    """scikit-learn's trees of columns that are binned as the silos bin theirs."""
    kind = HistGradientBoostingClassifier if task == "binary" else HistGradientBoostingRegressor
    return kind(
        max_iter=ROUNDS,
        max_depth=3,
        max_leaf_nodes=None,
        min_samples_leaf=5,
        l2_regularization=0.5,
        early_stopping=False,
    ).fit(codes, rows["y"])


def said_of(model, codes, task):
    return model.decision_function(codes) if task == "binary" else model.predict(codes)


def pooled(rows, task, columns=NAMES):
    """The mean figure of pooled trees over the folds."""
    codes = binned(np.float32(rows[list(columns)].to_numpy()), 32)
    judge = roc_auc_score if task == "binary" else r2_score
    folds, found = folds_of(len(rows), 3), []
    for fold in range(3):
        held = folds == fold
        model = grown(codes[~held], rows[~held], task)
        found.append(judge(rows["y"][held], said_of(model, codes[held], task)))
    return np.mean(found)


@pytest.mark.parametrize(("task", "name"), [("binary", "roc_auc"), ("regression", "r2")])
def test_trees_over_all_silos_are_the_pooled_ones(task, name):
    rows = table(task=task)
    found, hosts = run(rows, task)
    metrics = found.metrics
    assert metrics[f"joined/{name}"] == pytest.approx(pooled(rows, task), abs=1e-3)
    alone = pooled(rows, task, COLUMNS["bank"])
    assert metrics[f"label_only/{name}"] == pytest.approx(alone, abs=1e-3)
    assert metrics[f"joined/{name}"] > metrics[f"label_only/{name}"] + 0.05
    assert metrics[f"shuffled/{name}"] < metrics[f"label_only/{name}"] + 0.03
    assert (found.round, dict(found.facts)) == (ROUNDS, {"trees": ROUNDS})
    parts = {silo: Part.from_bytes(host.part("r")) for silo, host in hosts.items()}
    assert found.references == {silo: part.digest.hex() for silo, part in parts.items()}


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_the_kept_parts_score_as_the_model_that_was_trained(task):
    """Also of rows at a bin's edge: the oracle is scikit-learn's model of all rows."""
    rows = table(600, task=task).round(1)  # few values, many of them on edges
    _, hosts = run(rows, task)
    found = scored(hosts, task)
    trained = trained_scores(hosts)
    said = found["probability"] if task == "binary" else found["prediction"]
    expected = 1 / (1 + np.exp(-trained)) if task == "binary" else trained
    assert np.abs(said - expected).max() < 1e-12
    values = np.float32(rows[list(NAMES)].to_numpy())
    codes = binned((values - values.mean(0)) / values.std(0), 32)
    assert trained == pytest.approx(said_of(grown(codes, rows, task), codes, task), abs=1e-4)


def test_a_silo_keeps_its_own_splits_only():
    rows = table(600)
    _, hosts = run(rows)
    parts = {silo: Part.from_bytes(host.part("r")).content for silo, host in hosts.items()}
    owners = parts["bank"]["owners"]
    for number, silo in enumerate(("shop", "telecom"), start=1):
        assert np.array_equal(np.argwhere(owners == number), parts[silo]["nodes"])
        assert (parts[silo]["columns"] < len(COLUMNS[silo])).all()
    assert {-1, 0, 1, 2} >= set(np.unique(owners)) >= {0, 1, 2}
    assert not parts["bank"]["thresholds"][owners != 0].any()


def test_training_goes_on_from_a_checkpoint():
    rows, job, contract = table(300), job_of(), contract_of()
    whole, hosts = run(rows)
    again = vertical.silos_of(rows, COLUMNS)
    moved = LocalTransport({name: answerer(host) for name, host in again.items()})
    kernel = Kernel(moved, run_id="r", job=job, contract=contract, observe=lambda each: None)
    fed = Federation(tuple(sorted(again)), job, contract, lambda: tuple(again))
    driven = kernel.drive("vertical_trees", VerticalTrees.from_job(job), fed, Turn())
    third = [next(driven).state for _ in range(3)][-1]
    driven.close()
    kept = Turn.from_payload(unpack(pack(third.to_payload())))
    assert kept.round == 3
    found, exchanges = vertical.driven(job, contract, again, state=kept)
    assert found.metrics == whole.metrics
    assert np.array_equal(trained_scores(again), trained_scores(hosts))
    assert min(each.round for each in exchanges) == 4


def test_fewer_folds_are_judged_where_the_job_says_so():
    rows = table(400)
    found, _ = run(rows, args={"judged_folds": 1})
    assert set(found.metrics) >= {"joined/roc_auc", "shuffled/roc_auc", "label_only/roc_auc"}
    codes = binned(np.float32(rows[list(NAMES)].to_numpy()), 32)
    held = folds_of(len(rows), 3) == 0
    model = grown(codes[~held], rows[~held], "binary")
    auc = roc_auc_score(rows["y"][held], model.decision_function(codes[held]))
    assert found.metrics["joined/roc_auc"] == pytest.approx(auc, abs=1e-3)


def test_labels_of_one_class_are_refused_without_a_word_of_which():
    rows = table(200)
    rows["y"] = 1
    with pytest.raises(Refused, match="have one class only"):
        run(rows)


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


def test_a_value_is_in_a_bin_or_below_iff_it_is_at_most_its_edge():
    values = np.random.default_rng(2).normal(size=(500, 2)).astype(np.float32).round(1)
    for bins in (8, 200):
        edges = edges_of(values, bins)
        codes = coded(values, edges)
        for column, upper in enumerate(edges):
            below = values[:, column, None].astype(np.float64) <= upper
            assert np.array_equal(below, codes[:, column, None] <= np.arange(len(upper)))


def test_bins_are_values_where_they_are_few_and_quantiles_else():
    few = np.float32([[3.0], [1.0], [3.0], [2.0]])
    assert binned(few, 4).tolist() == [[2], [0], [2], [1]]
    counts = np.bincount(binned(np.random.default_rng(1).normal(size=(1000, 1)), 10)[:, 0])
    assert counts.tolist() == [100] * 10


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"args": {"histograms": "hidden"}}, "histograms"),
        ({"args": {"judged_folds": 4}}, "4 of 3 folds"),
        ({"args": {"depth": 7}}, "depth"),
        ({"task": "multiclass"}, "binary or regression"),
        ({"privacy": {"epsilon": 1, "delta": 1e-5}}, "vertical_split"),
    ],
)
def test_a_job_that_cannot_work_is_refused_before_any_message(changes, says):
    with pytest.raises((IncompatibleJob, JobInvalid), match=says):
        VerticalTrees.from_job(job_of(**changes))


def test_the_classes_of_what_is_sealed_are_declared():
    verbs = VerticalTrees.verbs()
    assert Disclosure.EMBEDDING in verbs["split"].disclosures
    assert Disclosure.LABEL in verbs["grow"].disclosures & verbs["start"].disclosures


def test_the_label_silos_trees_are_released_where_the_job_says_so():
    found, hosts = run(table(200), args={"release_top": True, "judged_folds": 1})
    part = Part.from_bytes(hosts["bank"].part("r")).content
    assert set(found.top) == set(part)
    assert all(np.array_equal(found.top[name], part[name]) for name in part)
