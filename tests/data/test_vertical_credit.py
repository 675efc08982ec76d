"""Real rows all the way on real silos: people matched through faults, then one model over both."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from agreed import agree
from bins import binned
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from test_people_matched import CREDIT_KEYS, identities, soil

from consilo.contracts.contract import SHIPPED, Contract
from consilo.jobs.job import Job
from consilo.vertical.blocks import folds_of
from silos import simulate
from silos.kept.matches import read_match

DATA = Path(os.environ.get("CONSILO_DATA", SHIPPED.parent.parent / "shared" / "data")) / "fate"
SILOS = {"guest": 13, "host": 10}
COLUMNS = {name: [f"{name}_x{n}" for n in range(width)] for name, width in SILOS.items()}
PEOPLE = ("number", "given", "surname", "born", "postcode")

pytestmark = [
    pytest.mark.flow,
    pytest.mark.slow,  # minutes: seven keys of 25,000 people, then two models with five folds
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not (DATA / "default_credit_hetero_guest.csv.gz").exists(),
        reason="the FATE example files are not here; set CONSILO_DATA to the folder that has fate/",
    ),
]


def write_yaml(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(value, sort_keys=False))


def write_silo(folder, name, table):
    """Write a silo whose one table has people and columns; the contract's names are longer."""
    table.to_parquet(folder / name / "rows.parquet", index=False)
    source = {"type": "parquet", "path": "rows.parquet"}
    write_yaml(folder / name / "silo.yaml", {"name": name, "data": {"cards": source}})
    held = {column: {"from": column.removeprefix(f"{name}_")} for column in COLUMNS[name]}
    write_yaml(folder / name / "mappings/credit@1.yaml", {"contract": "credit@1", "columns": held})
    write_yaml(folder / name / "mappings/people@1.yaml", {"contract": "people@1"})
    kinds = ("sealed", "match", "statistic", "metric", "embedding", "label", "update")
    policy = {
        "allow": [{"jobs": ["credit*"]}],
        "disclosures": dict.fromkeys(kinds, True),
        "matching": {"min_set_size": 1000, "min_intersection": 1000},
    }
    write_yaml(folder / name / "policy.yaml", policy)


@pytest.fixture(scope="module")
def cards(tmp_path_factory):
    """A fifth missing on each side, shuffled, 5 % doubled, 10 % with a fault in one field."""
    folder, rng = tmp_path_factory.mktemp("credit"), np.random.default_rng(7)
    halves = {n: pd.read_csv(DATA / f"default_credit_hetero_{n}.csv.gz") for n in SILOS}
    people = identities(len(halves["guest"]), rng)
    people["id"] = halves["guest"]["id"].to_numpy()
    who = {}
    for name, half in halves.items():
        kept = half[rng.random(len(half)) >= 0.2]
        twice = kept.sample(frac=0.05, random_state=int(rng.integers(2**31)))
        mine = pd.concat([kept, twice]).sample(frac=1.0, random_state=int(rng.integers(2**31)))
        mine = mine.merge(people, on="id", how="left")
        who[name] = mine.pop("id").to_numpy()
        dirty = soil(mine[list(PEOPLE)].reset_index(drop=True), 0.10, rng)
        (folder / name).mkdir(mode=0o700)
        write_silo(folder, name, mine.assign(**{column: dirty[column] for column in PEOPLE}))
    string = {"type": "string", "role": "id", "nullable_share": 1.0}
    named = dict.fromkeys(PEOPLE, string)
    write_yaml(folder / "people.yaml", {"name": "people", "version": 1, "columns": named})
    columns = {column: {"type": "float"} for held in COLUMNS.values() for column in held}
    columns["y"] = {"type": "integer", "role": "target", "allowed": [0, 1]}
    write_yaml(folder / "credit.yaml", {"name": "credit", "version": 1, "columns": columns})
    for name in SILOS:
        for contract in ("people", "credit"):
            agree(folder / name, Contract.load(folder / f"{contract}.yaml"))
    truth = halves["guest"].merge(halves["host"], on="id", suffixes=("", "_host")).set_index("id")
    return folder, who, truth


def trained(cards, protocol):
    """Return the run of a job over both silos; the first one makes the match."""
    folder, *_ = cards
    args = {"match": "cards", "label_silo": "guest", "columns": COLUMNS, **protocol.pop("args", {})}
    job = {
        "name": "credit-default",
        "kind": "vertical",
        "contract": "credit@1",
        "protocol": {**protocol, "args": args},
        "match": {"contract": "people@1", "hub": "guest", "recipe": {"keys": CREDIT_KEYS}},
    }
    silos = {name: folder / name for name in SILOS}
    result = simulate(Job.from_json(job), silos, search_path=[folder])
    assert result.status == "complete", result.reason
    print({key: round(value, 1) for key, value in result.seconds.items()}, dict(result.metrics))
    return result


def rows_of(cards):
    """Return who is matched in each silo, in the joint order."""
    folder, who, _ = cards
    return {name: who[name][read_match(folder / name, "cards").rows] for name in SILOS}


def pooled(cards, model, prepared):
    """Return the mean AUC on held-out rows of a model on what is true of the matched people."""
    _, _, truth = cards
    rows = truth.loc[rows_of(cards)["guest"]]
    labels, features = rows["y"].to_numpy(), prepared(rows.drop(columns="y").to_numpy())
    folds, found = folds_of(len(rows), 5), []
    for fold in range(5):
        seen = folds != fold
        scores = model.fit(features[seen], labels[seen]).decision_function(features[~seen])
        found.append(roc_auc_score(labels[~seen], scores))
    return float(np.mean(found))


def test_people_are_found_and_the_regression_is_that_of_the_joined_table(cards):
    _, who, _ = cards
    result = trained(cards, {"name": "vertical_linear", "rounds": 8})
    matched = rows_of(cards)
    right = matched["guest"] == matched["host"]
    both = np.intersect1d(who["guest"], who["host"])
    recall = len(np.unique(matched["guest"][right])) / len(both)
    print(f"{right.sum()} of {len(right)} right, {len(both)} in both, recall {recall:.4f}")
    assert len(both) > 18_000
    assert right.mean() >= 0.999
    assert recall >= 0.99
    metrics = result.metrics
    expected = pooled(
        cards,
        LogisticRegression(max_iter=2000),
        lambda values: (values - values.mean(0)) / values.std(0),
    )
    print(f"pooled {expected:.4f}")
    assert metrics["joined/roc_auc"] == pytest.approx(expected, abs=0.002)
    assert metrics["label_only/roc_auc"] < expected - 0.04
    assert metrics["shuffled/roc_auc"] < metrics["label_only/roc_auc"] + 0.01


def test_trees_on_the_same_match_are_those_of_the_joined_table(cards):
    args = {"depth": 5, "max_bins": 64}
    result = trained(cards, {"name": "vertical_trees", "rounds": 30, "args": args})
    settings = {"max_iter": 30, "max_depth": 5, "max_leaf_nodes": None, "early_stopping": False}
    expected = pooled(
        cards,
        HistGradientBoostingClassifier(**settings),
        lambda values: binned(np.float32(values), 64),
    )
    print(f"pooled {expected:.4f}")
    metrics = result.metrics
    assert metrics["joined/roc_auc"] == pytest.approx(expected, abs=0.003)
    assert metrics["label_only/roc_auc"] < expected - 0.02
    assert metrics["shuffled/roc_auc"] < metrics["label_only/roc_auc"] + 0.01
