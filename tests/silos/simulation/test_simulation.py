"""A run in a notebook: three lines, real silos, a result with the issue's content."""

import json
import re

import clinic
import numpy as np
import pytest
import yaml
from agreed import agree

from consilo.errors import ConfigInvalid, ContractInvalid, IncompatibleJob
from consilo.jobs.job import Job
from consilo.record.run_record import verify
from silos.gate.policy import TEMPLATE
from silos.simulation.in_memory import write_made_up_root
from silos.simulation.simulation import simulate


@pytest.fixture
def folder(tmp_path):
    """A job file with its contract and a user's model beside it."""
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, num_inputs):\n"
        "        super().__init__(num_inputs, 1)\n"
    )
    job = {**clinic.JOB, "model": "net:Net", "protocol": {"rounds": 2}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    return tmp_path


def test_three_lines_run_a_job(folder):
    result = simulate(folder / "job.yaml", clinic.frames(30, 20, 40))
    assert result.status == "complete", result.reason
    value = json.loads(json.dumps(result.to_json()))
    wanted = {"status", "silos", "metrics", "pooled_baseline", "local_baselines", "model", "mlflow"}
    assert wanted | {"prefect", "record", "seconds"} <= set(value)
    for outcome in value["silos"].values():
        wanted = {"status", "reason", "rounds", "num_examples", "epsilon", "metrics"}
        assert wanted <= set(outcome)
        assert outcome["contract"] == "passed"
    assert {"check", "standardize", "train", "evaluate"} <= set(value["seconds"])


def test_the_same_job_and_rows_give_the_same_figures(folder):
    first, again = (
        simulate(folder / "job.yaml", clinic.frames(30, 20)).to_json() for _ in range(2)
    )
    assert first["metrics"] == again["metrics"]


def test_a_silo_that_breaks_the_contract_is_left_out_and_the_result_says_why(folder):
    rows = clinic.frames(30, 20, 40)
    rows["north"] = rows["north"].assign(age=4801234.0)
    result = simulate(folder / "job.yaml", rows)
    assert result.status == "degraded"
    assert result.silos["north"].status == "left_out"
    assert result.silos["north"].contract == "failed"
    assert "breaks clinic@1: range (age)" in result.reason
    assert not re.search(r"(?<![\d.])480(?!\d)", json.dumps(result.to_json()))


def test_too_few_silos_are_a_failed_result(folder):
    job = Job.load(folder / "job.yaml", quorum={"min_silos": 2})
    rows = clinic.frames(30, 20)
    rows["north"] = rows["north"].iloc[:0]
    result = simulate(job, rows, search_path=[folder], contract=clinic.contract())
    assert result.status == "failed"
    assert result.reason.startswith("SchemaDrift: before the run: the contract is not")
    assert result.silos["north"].status == "left_out"


def test_rows_may_have_any_index(folder):
    rows = {name: each.set_index(np.arange(len(each)) * 7) for name, each in
            clinic.frames(30, 20).items()}  # fmt: skip
    assert simulate(folder / "job.yaml", rows).status == "complete"


def test_a_directory_keeps_record_and_checkpoint(folder, tmp_path):
    place = tmp_path / "kept"
    result = simulate(folder / "job.yaml", clinic.frames(30), directory=place)
    assert result.record == str(place / "run" / "record.jsonl")
    assert (place / "run" / "record.jsonl").exists()
    assert (place / "run" / "checkpoint.safetensors").exists()


def test_a_silos_directory_may_stand_in_for_rows(folder, tmp_path):
    place = tmp_path / "hospital"
    place.mkdir()
    write_made_up_root(place, "hospital")  # the same rows are held out in every test
    clinic.frame(30).to_csv(place / "rows.csv", index=False)
    config = {"name": "hospital", "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (place / "silo.yaml").write_text(yaml.safe_dump(config))
    # Without a policy nothing leaves.
    result = simulate(folder / "job.yaml", {"hospital": place, **clinic.frames(20)})
    assert result.status == "degraded"
    assert result.silos["hospital"].status == "refused"
    (place / "policy.yaml").write_text(TEMPLATE)
    agree(place, clinic.contract())
    result = simulate(folder / "job.yaml", {"hospital": place, **clinic.frames(20)})
    assert result.status == "complete", result.reason
    with pytest.raises(ConfigInvalid, match="expected 'clinic', found 'hospital'"):
        simulate(folder / "job.yaml", {"clinic": place})


def test_a_contract_may_be_a_file_beside_the_job(folder, tmp_path, monkeypatch):
    (folder / "own").mkdir()
    (folder / "own" / "table.yaml").write_text(clinic.CONTRACT)
    job = yaml.safe_load((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump({**job, "contract": "own/table.yaml"}))
    (folder / "clinic.yaml").unlink()
    monkeypatch.chdir("/")
    assert simulate(folder / "job.yaml", clinic.frames(20)).status == "complete"


def test_bad_input_is_refused_before_anything_runs(folder):
    with pytest.raises(ContractInvalid):
        simulate(Job.load(folder / "job.yaml", contract="nowhere@1"), clinic.frames(20))
    with pytest.raises(IncompatibleJob, match="net"):
        simulate(Job.load(folder / "job.yaml"), clinic.frames(20), contract=clinic.contract())


def test_of_a_handful_of_rows_nothing_leaves(folder):
    rows = {**clinic.frames(60, 40), "tiny": clinic.frame(6, 9, missing=0.0).head(1)}
    result = simulate(folder / "job.yaml", rows)
    assert result.status == "degraded"
    assert result.silos["tiny"].status == "refused"
    assert "of 5 rows or more only" in result.silos["tiny"].reason
    assert not result.silos["tiny"].rounds


@pytest.mark.flow
def test_many_silos_train_in_one_process(folder):
    rows = {f"silo-{number}": clinic.frame(12, number) for number in range(16)}
    result = simulate(folder / "job.yaml", rows)
    assert result.status == "complete", result.reason
    assert len(result.silos) == 16


def test_a_directory_that_keeps_a_run_is_not_written_over(folder, tmp_path):
    place = tmp_path / "kept"
    simulate(folder / "job.yaml", clinic.frames(30), directory=place)
    with pytest.raises(ConfigInvalid, match="give another directory"):
        simulate(folder / "job.yaml", clinic.frames(30), directory=place)


def test_a_result_answers_for_rows_shows_tables_and_keeps_its_files(folder, tmp_path):
    # A simulated run once left nothing but tensors, and the path of a record that was gone.
    told: list[str] = []
    result = simulate(folder / "job.yaml", clinic.frames(30, 20, 40), say=told.append)
    assert result.to_json()["record"] is None
    assert [each for each in told if each.startswith("round 2 of 2")]
    history = result.history
    assert list(history.index) == [0, 1, 2]
    assert history.loc[2, "log_loss"] == result.metrics["log_loss"]
    assert history.loc[0, "log_loss"] == result.rounds[0]["metrics"]["log_loss"]
    assert (history.loc[1:, "silos"] == 3).all()
    assert list(result.silos.frame.index) == list(result.silos)
    assert "<table" in result.silos._repr_html_()
    rows = clinic.frame(50, seed=7)
    answers = result.predict(rows)["probability"]
    # Scale and encoding are inside: the parameters alone, over inputs made by hand, say the same.
    state = tmp_path / "out"
    written = result.save(state)
    spec = json.loads((state / "model" / "scoring.json").read_text())
    mean, deviation = (np.array(spec["scale"][each]) for each in ("mean", "deviation"))
    number = (np.stack([rows["age"], rows["smoker"]], axis=1).astype(float) - mean) / deviation
    hot = np.stack([(rows["ward"] == each).fillna(False) for each in "abc"], axis=1)
    inputs = np.concatenate([np.nan_to_num(number), hot], axis=1)
    logit = inputs @ result.params["weight"][0] + result.params["bias"][0]
    np.testing.assert_allclose(answers, 1 / (1 + np.exp(-logit)), rtol=1e-4)
    assert set(written) == {"summary", "model", "history", "silos", "participation", "record"}
    assert verify(state / "record.jsonl")["status"] == result.status
    assert json.loads((state / "summary.json").read_text())["model"] == written["model"]
    assert len(result.plot().axes) == 3
    assert result.model.training is False
    with pytest.raises(ConfigInvalid, match="give a fresh directory"):
        result.save(state)


def test_a_run_without_a_model_says_so(folder):
    rows = clinic.frames(30)
    rows["east"] = rows["east"].iloc[:0]
    result = simulate(folder / "job.yaml", rows)
    assert result.status == "failed"
    with pytest.raises(IncompatibleJob, match="left no model at the coordinator"):
        result.predict(clinic.frame(3))
