"""The credit default table cut by columns between two silos, as FATE publishes it; real rows."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import vertical
from bins import binned
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from consilo.contracts.contract import SHIPPED
from consilo.vertical.blocks import folds_of
from consilo.vertical.parts import Part
from consilo.wire.payload import unpack

DATA = Path(os.environ.get("CONSILO_DATA", SHIPPED.parent.parent / "shared" / "data")) / "fate"
FILES = {"bank": "default_credit_hetero_guest.csv.gz", "shop": "default_credit_hetero_host.csv.gz"}

pytestmark = pytest.mark.skipif(
    not (DATA / FILES["bank"]).exists(),
    reason="the FATE example files are not here; set CONSILO_DATA to the folder that holds them",
)


@pytest.fixture(scope="module")
def credit():
    parts, columns = [], {}
    for silo, file in FILES.items():
        part = pd.read_csv(DATA / file).set_index("id")
        labels = part.pop("y") if "y" in part else None
        part.columns = [f"{silo}_{name}" for name in part.columns]
        columns[silo] = tuple(part.columns)
        parts += [part] if labels is None else [part, labels]
    table = pd.concat(parts, axis=1, join="inner").sample(frac=1, random_state=0)
    return table.reset_index(drop=True), columns


def pooled_auc(features, labels):
    folds, aucs = folds_of(len(labels), 5), []
    for fold in range(5):
        learnt, held = folds != fold, folds == fold
        model = LogisticRegression(max_iter=2000).fit(features[learnt], labels[learnt])
        aucs.append(roc_auc_score(labels[held], model.decision_function(features[held])))
    return np.mean(aucs)


def test_logistic_regression_over_both_is_that_of_the_joined_table(credit):
    table, columns = credit
    hosts = vertical.silos_of(table, columns)
    job = vertical.job_of("vertical_linear", columns)
    found, _ = vertical.driven(job, vertical.contract_of(columns), hosts)
    names = [name for held in columns.values() for name in held]
    values = table[names].to_numpy()
    values = (values - values.mean(0)) / values.std(0)
    pooled = LogisticRegression(tol=1e-9, max_iter=5000).fit(values, table["y"])
    weights = [Part.from_bytes(hosts[name].part("r")).content["weights"] for name in columns]
    assert np.concatenate(weights) == pytest.approx(pooled.coef_[0], abs=1e-4)
    metrics = found.metrics
    assert metrics["joined/roc_auc"] == pytest.approx(pooled_auc(values, table["y"]), abs=1e-3)
    assert metrics["joined/roc_auc"] == pytest.approx(0.722, abs=0.002)
    assert metrics["label_only/roc_auc"] == pytest.approx(0.657, abs=0.003)
    assert metrics["shuffled/roc_auc"] == pytest.approx(metrics["label_only/roc_auc"], abs=0.003)
    assert found.facts["converged"]
    assert found.round <= 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("trees", "depth", "bins", "auc"), [(8, 4, 32, None), (30, 5, 64, 0.7811)], ids=["few", "docs"]
)
def test_trees_over_both_are_those_of_the_joined_table(credit, trees, depth, bins, auc):
    table, columns = credit
    hosts = vertical.silos_of(table, columns)
    args = {"depth": depth, "max_bins": bins}
    job = vertical.job_of("vertical_trees", columns, protocol={"rounds": trees}, args=args)
    metrics = vertical.driven(job, vertical.contract_of(columns), hosts)[0].metrics
    if auc is not None:  # what docs/vertical.md tells
        assert metrics["joined/roc_auc"] == pytest.approx(auc, abs=1e-3)
    names = {
        "joined": [name for held in columns.values() for name in held],
        "label_only": list(columns["bank"]),
    }
    folds = folds_of(len(table), 5)
    for way, held_columns in names.items():
        codes, aucs = binned(np.float32(table[held_columns].to_numpy()), bins), []
        for fold in range(5):
            learnt, held = folds != fold, folds == fold
            model = HistGradientBoostingClassifier(
                max_iter=trees, max_depth=depth, max_leaf_nodes=None, early_stopping=False
            ).fit(codes[learnt], table["y"][learnt])
            aucs.append(roc_auc_score(table["y"][held], model.decision_function(codes[held])))
        assert metrics[f"{way}/roc_auc"] == pytest.approx(np.mean(aucs), abs=1e-3)
    assert metrics["shuffled/roc_auc"] == pytest.approx(metrics["label_only/roc_auc"], abs=0.003)
    codes = binned(np.float32(table[names["joined"]].to_numpy()), bins)
    whole = HistGradientBoostingClassifier(
        max_iter=trees, max_depth=depth, max_leaf_nodes=None, early_stopping=False
    ).fit(codes, table["y"])
    kept = unpack(hosts["bank"].state["r", f"models-{trees * depth}"])["value"]["scores"][0]
    assert roc_auc_score(table["y"], kept) == pytest.approx(
        roc_auc_score(table["y"], whole.decision_function(codes)), abs=1e-3
    )
