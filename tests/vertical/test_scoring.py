"""Scoring with a vertical model's parts: new rows, the pooled model's scores, refusals."""

from __future__ import annotations

import stat
from pathlib import Path

import joint
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob
from consilo.record.run_record import read, verify
from consilo.runs.vertical import run_vertical
from consilo.vertical.parts import Part
from consilo.vertical.scoring import told
from silos.kept.matches import read_match
from silos.kept.model_parts import drop_part, read_part


def scoring_job(**changes):
    args = {"model": "first", "match": "prospects", **changes.pop("args", {})}
    protocol = {"name": "vertical_score", "rounds": 1}
    return joint.job_of(
        name="joint-scores", kind="scoring", protocol=protocol, args=args, **changes
    )


def newcomers(silos, people):
    """Put other people in the place of those that were trained on; nobody knows their target."""
    for name, directory in silos.items():
        table = joint.holds(people, name, seed=5).drop(columns="OUTCOME", errors="ignore")
        table.to_csv(directory / "rows.csv", index=False)


def trained(folder):
    silos = joint.write_silos(folder, joint.everybody())
    federation = joint.Federation(silos, folder)
    result = run_vertical(federation.opened(joint.job_of(), "first"))
    assert result.status == "complete", result.reason
    return federation, silos


pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """A federation that has trained on some people and scored others."""
    federation, silos = trained(tmp_path_factory.mktemp("scored"))
    used = joint.holds(joint.everybody(), "bank").index[read_match(silos["bank"], "customers").rows]
    people = joint.everybody(seed=11)
    newcomers(silos, people)
    result = run_vertical(federation.opened(scoring_job(), "scores"))
    assert result.status == "complete", result.reason
    return silos, joint.everybody().loc[used], people, result


@pytest.fixture(scope="module")
def once_trained(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("trained"))[1]


@pytest.fixture
def place(once_trained, tmp_path):
    """A federation that has trained; the same people can be scored by the match that is held."""
    silos = joint.copied(once_trained, tmp_path)
    return joint.Federation(silos, tmp_path), silos


def test_the_scores_are_the_pooled_models_and_named_by_the_label_silos_ids(scored):
    silos, used, people, result = scored
    found = pd.read_csv(silos["bank"] / "scores" / "scores.csv")
    assert list(found.columns) == ["row", "account", "probability"]
    assert len(found) == next(
        each["body"]["rows"] for each in read(Path(result.record)) if each["kind"] == "matched"
    )
    names = list(joint.NAMES)
    mean, deviation = used[names].mean(), used[names].std(ddof=0)
    pooled = LogisticRegression(tol=1e-10, max_iter=10_000)
    pooled.fit(((used[names] - mean) / deviation).to_numpy(), used["churned"])
    who = people.loc[found["account"].str.removeprefix("ACC-").astype(int)]
    expected = pooled.predict_proba(((who[names] - mean) / deviation).to_numpy())[:, 1]
    assert len(found) > 100
    assert found["probability"].to_numpy() == pytest.approx(expected, abs=1e-5)


def test_the_scores_lie_in_the_label_silo_only_and_for_its_owner(scored):
    silos, _, _, result = scored
    assert not (silos["shop"] / "scores").exists()
    assert not (silos["telecom"] / "scores").exists()
    place = silos["bank"] / "scores"
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((place / "scores.csv").stat().st_mode) == 0o600
    assert {each.status for each in result.silos.values()} == {"answered"}
    assert verify(Path(result.record))["status"] == "complete"
    # What was trained stays as it was: the same part, and no other.
    assert [each.name for each in (silos["bank"] / "models").iterdir()] == ["first"]


def test_a_model_can_score_the_rows_that_it_was_trained_on(place):
    federation, silos = place
    job = scoring_job(match=None, args={"match": "customers"})
    result = run_vertical(federation.opened(job, "again"))
    assert result.status == "complete", result.reason
    assert (silos["bank"] / "scores" / "again.csv").exists()


def test_without_one_silos_part_nothing_is_scored(place):
    federation, silos = place
    drop_part(silos["shop"], "first")
    job = scoring_job(match=None, args={"match": "customers"})
    result = run_vertical(federation.opened(job, "r"))
    assert result.status == "failed"
    assert "shop: refused: this silo keeps no part of the model 'first'" in result.reason
    assert result.silos["shop"].status == "refused"
    assert not (silos["bank"] / "scores").exists()


def test_a_model_serves_its_own_purpose_only(place):
    federation, silos = place
    result = run_vertical(federation.opened(scoring_job(purpose="marketing"), "r"))
    assert result.status == "failed"
    said = "the model 'first' was trained for the purpose 'unstated', not for 'marketing'"
    assert said in result.reason
    assert not (silos["bank"] / "scores").exists()


def test_an_expired_match_is_no_match(place):
    federation, silos = place
    path = silos["shop"] / "matches" / "customers" / "match.yaml"
    said = yaml.safe_load(path.read_text())
    said["expires"] = said["created"]
    path.write_text(yaml.safe_dump(said))
    job = scoring_job(match=None, args={"match": "customers"})
    with pytest.raises(IncompatibleJob, match=r"shop: its match has expired.*'consilo match run'"):
        run_vertical(federation.opened(job, "r"))


def test_a_model_that_nobody_trained_is_refused(place):
    federation, silos = place
    job = scoring_job(match=None, args={"match": "customers", "model": "nobody"})
    result = run_vertical(federation.opened(job, "r"))
    assert result.status == "failed"
    assert "keeps no part of the model 'nobody'" in result.reason
    assert not (silos["bank"] / "scores").exists()


def test_a_model_without_a_block_is_scored_without_it(tmp_path):
    silos = joint.write_silos(tmp_path, joint.everybody())
    federation = joint.Federation(silos, tmp_path)
    some = joint.job_of(args={"missing_blocks": "leave_out"})
    trained = run_vertical(federation.opened(some, "first", online=("bank", "shop")))
    assert trained.status == "degraded", trained.reason
    result = run_vertical(federation.opened(scoring_job(), "all"))
    assert result.status == "failed"
    assert "the model's parts lie in bank, shop, its labels in bank" in result.reason
    columns = {name: list(joint.COLUMNS[name]) for name in ("bank", "shop")}
    job = scoring_job(args={"columns": columns, "missing_blocks": "leave_out"})
    result = run_vertical(federation.opened(job, "two"))
    assert result.status == "complete", result.reason
    assert (silos["bank"] / "scores" / "two.csv").exists()


def test_a_model_of_the_registry_must_be_looked_up_first(place):
    federation, _ = place
    job = scoring_job(args={"model": "models:/joint@candidate"})
    with pytest.raises(IncompatibleJob, match="looked up in the registry"):
        federation.opened(job, "r")


def test_inputs_are_those_of_the_training_though_others_are_there_now(place):
    """Codes of a category make inputs: a contract with other codes makes others."""
    federation, silos = place
    part = Part.from_bytes(read_part(silos["shop"], "first"))
    assert (part.inputs, part.contract) == (joint.COLUMNS["shop"], "joint@1")
    (federation.folder / "joint-2.yaml").write_text(
        yaml.safe_dump(
            {
                **joint.JOINT,
                "version": 2,
                "columns": {
                    **joint.JOINT["columns"],
                    "s0": {"type": "category", "allowed": ["a", "b"]},
                },
            }
        )
    )
    contract = Contract.load(federation.folder / "joint-2.yaml")
    for name, directory in silos.items():
        mapping = yaml.safe_load((directory / "mappings" / "joint@1.yaml").read_text())
        if name == "shop":
            mapping["columns"] = {"s0": {"constant": "a"}}
        mapping |= {"contract": "joint@2", "agreed": contract.digest}
        (directory / "mappings" / "joint@2.yaml").write_text(yaml.safe_dump(mapping))
    job = scoring_job(match=None, args={"match": "customers"}, contract="joint-2.yaml")
    result = run_vertical(federation.opened(job, "r"))
    assert result.status == "failed"
    assert "trained on other inputs" in result.reason


@pytest.mark.parametrize(
    ("task", "outputs", "columns"),
    [
        ("binary", np.array([0.0, 800.0, -800.0]), {"probability": [0.5, 1.0, 0.0]}),
        ("multiclass", np.array([[0.0, 0.0], [900.0, 0.0]]), {"a": [0.5, 1.0], "b": [0.5, 0.0]}),
        ("regression", np.array([1.5, -2.0]), {"prediction": [1.5, -2.0]}),
        (
            "custom",
            np.array([[1.0, 2.0], [3.0, 4.0]]),
            {"prediction_0": [1.0, 3.0], "prediction_1": [2.0, 4.0]},
        ),
    ],
)
def test_what_people_read_of_outputs(place_of_part, task, outputs, columns):
    found = told(place_of_part(task), outputs)
    assert {name: each.tolist() for name, each in found.items()} == columns


@pytest.fixture
def place_of_part():
    """Return what makes a part of a task."""
    from consilo.horizontal.features import Scale

    def make(task):
        return Part(
            model="first",
            job="joint",
            purpose="unstated",
            protocol="vertical_linear",
            task=task,
            silo="bank",
            label_silo="bank",
            members=("bank", "shop"),
            contract="joint@1",
            inputs=("b0",),
            features={},
            scale=Scale.unit(1),
            classes=("a", "b"),
            args={},
            content={},
            salt=b"",
        )

    return make
