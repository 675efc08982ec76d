"""Boosted trees between real silos: matched, trained, kept on disk, and scored on other people."""

from __future__ import annotations

import copy
from pathlib import Path

import joint
import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from consilo.record.run_record import verify
from consilo.runs.vertical import run_vertical
from consilo.vertical.parts import Part
from consilo.vertical.trees.trees import coded, edges_of
from silos.kept.matches import read_match
from silos.kept.model_parts import read_part

pytestmark = pytest.mark.flow

TREES = {
    "depth": 2,
    "max_bins": 16,
    "min_rows": 5,
    "l2": 0.5,
    "judged_folds": 1,
    "learning_rate": 0.3,
}


@pytest.fixture(scope="module", params=["plain", "secure"])
def scored(request, tmp_path_factory):
    """A federation that has trained on some people and scored others.

    With secure histograms no policy lets a label leave, sealed or not.
    """
    folder = tmp_path_factory.mktemp("trees")
    policy = copy.deepcopy(joint.POLICY)
    policy["disclosures"]["label"] = request.param == "plain"
    silos = joint.write_silos(folder, joint.everybody(), policy)
    federation = joint.Federation(silos, folder)
    args = TREES | {"histograms": request.param, "release_top": True}
    job = joint.job_of(protocol={"name": "vertical_trees", "rounds": 4}, args=args)
    trained = run_vertical(federation.opened(job, "first"))
    assert trained.status == "complete", trained.reason
    used = joint.holds(joint.everybody(), "bank").index[read_match(silos["bank"], "customers").rows]
    people = joint.everybody(seed=11)
    for name, directory in silos.items():
        table = joint.holds(people, name, seed=5).drop(columns="OUTCOME", errors="ignore")
        table.to_csv(directory / "rows.csv", index=False)
    scoring = joint.job_of(
        name="joint-scores",
        kind="scoring",
        protocol={"name": "vertical_score", "rounds": 1},
        args={"model": "first", "match": "prospects"},
    )
    result = run_vertical(federation.opened(scoring, "scores"))
    assert result.status == "complete", result.reason
    return silos, joint.everybody().loc[used], people, trained


def test_other_people_get_the_scores_of_the_pooled_trees(scored):
    """Bins are those of the people that were trained on: edges are kept, not quantiles."""
    silos, used, people, _ = scored
    found = pd.read_csv(silos["bank"] / "scores" / "scores.csv")
    names = list(joint.NAMES)
    mean, deviation = used[names].mean(), used[names].std(ddof=0)

    def standard(table):
        return ((table[names] - mean) / deviation).to_numpy().astype(np.float32)

    edges = edges_of(standard(used), 16)
    pooled = HistGradientBoostingClassifier(
        max_iter=4,
        max_depth=2,
        learning_rate=0.3,
        max_leaf_nodes=None,
        min_samples_leaf=5,
        l2_regularization=0.5,
        early_stopping=False,
    ).fit(coded(standard(used), edges), used["churned"])
    who = people.loc[found["account"].str.removeprefix("ACC-").astype(int)]
    expected = pooled.predict_proba(coded(standard(who), edges))[:, 1]
    assert len(found) > 100
    assert np.ptp(expected) > 0.2
    assert found["probability"].to_numpy() == pytest.approx(expected, abs=1e-4)


def test_every_silo_keeps_its_own_part_and_the_label_silos_is_released(scored):
    silos, _, _, trained = scored
    parts = {name: Part.from_bytes(read_part(place, "first")) for name, place in silos.items()}
    assert all(len(parts[name].content["nodes"]) for name in ("shop", "telecom"))
    assert all(parts[name].protocol == "vertical_trees" for name in silos)
    assert verify(Path(trained.record))["status"] == "complete"
    assert set(parts["bank"].content) == {"base", "owners", "columns", "thresholds", "values"}
