"""The pipeline flow over silos in memory: its graph, its endings, and what it leaves behind."""

from __future__ import annotations

import json
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.logging.handlers import APILogWorker
from prefect.states import Failed, Running, Scheduled, State

from consilo.cards.verify import verify
from consilo.errors import ConfigInvalid
from consilo.machine.processes import free_port
from consilo.membership.keys import public_pem
from consilo.record import run_record as record
from consilo.record.traces import traces_of
from flows.endings import summary_of
from flows.pipeline import pipeline
from flows.registry import cards, names, patient
from flows.services.connection import connecting
from flows.telling.shown import close_died, flow_run, opens

pytestmark = pytest.mark.flow


@dataclass(frozen=True)
class Ended:
    """A finished flow run with what it said."""

    state: State[Any]
    summary: dict[str, Any]
    federation: Any

    @property
    def client(self) -> MlflowClient:
        return MlflowClient(self.federation.tracking_uri)

    @property
    def run_id(self) -> str:
        return self.summary["mlflow"]["run_id"]

    @property
    def flow_run_id(self) -> str:
        return self.summary["prefect"]["flow_run_id"]


def run(federation, **parameters) -> Ended:
    with connecting(federation.connect()):
        state = pipeline(
            str(federation.job),
            home=str(federation.home),
            wait_s=0,
            return_state=True,
            **parameters,
        )
    return Ended(state, summary_of(state), federation)


@pytest.fixture(scope="module")
def complete(make_federation):
    """One run of everybody, looked at by many tests."""
    return run(make_federation("complete"))


@pytest.fixture(scope="module")
def degraded(make_federation):
    federation = make_federation("degraded")
    federation.break_contract("berta")
    return run(federation)


@pytest.fixture(scope="module")
def failed(make_federation):
    federation = make_federation("failed")
    federation.break_contract("berta")
    federation.absent = ("clara",)
    return run(federation)


def task_runs(ended: Ended) -> list[str]:
    filters = FlowRunFilter(id=FlowRunFilterId(any_=[ended.flow_run_id]))
    with get_client(sync_client=True) as client:
        return [each.name for each in client.read_task_runs(flow_run_filter=filters, limit=200)]


def everything_left(ended: Ended, folder: Path) -> str:
    """Return all text that a run left in Prefect and MLflow: the sentinel must not be in it."""
    APILogWorker.drain_all(timeout=10)
    told = []
    with get_client(sync_client=True) as client:
        flow_run_id = ended.flow_run_id
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id])),
            limit=200,
        )
        told += [each.model_dump_json() for each in artifacts]
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[flow_run_id])))
        told += [each.message for each in logs]
        told.append(client.read_flow_run(flow_run_id).model_dump_json())
    assert len(told) > 8
    found = ended.client.get_run(ended.run_id)
    told.append(json.dumps(found.to_dictionary()))
    for name in found.data.metrics:
        told += [str(m.value) for m in ended.client.get_metric_history(ended.run_id, name)]
    mlflow.set_tracking_uri(ended.federation.tracking_uri)
    ended.client.download_artifacts(ended.run_id, "", str(folder))
    if ended.summary["model"]:
        mlflow.artifacts.download_artifacts(
            ended.summary["model"]["version_uri"], dst_path=str(folder / "model")
        )
    for file in folder.rglob("*"):
        if file.is_file():
            told.append(file.read_bytes().decode("utf-8", "replace"))
    return "\n".join(told)


def test_a_run_of_everybody_completes(complete):
    assert complete.state.name == "Completed"
    assert complete.summary["status"] == "complete"
    assert complete.federation.finished == [(True, "complete")]
    assert complete.summary["metrics"] == {}
    assert "the job is private and pays for none" in " ".join(complete.summary["notes"])
    json.dumps(complete.summary, allow_nan=False)


def test_a_fold_is_judged_and_registers_no_model(make_federation):
    ended = run(make_federation("fold"), folds=2, fold=1)
    assert ended.summary["status"] == "complete"
    assert ended.summary["model"] is None
    assert "register" not in task_runs(ended)
    half = run(make_federation("half-said"), folds=2)
    assert "folds and fold belong together" in half.summary["reason"]


def test_the_graph_is_the_sentence_of_the_flow(complete):
    assert sorted(task_runs(complete)) == [
        "admit",
        "check-anna",
        "check-berta",
        "check-clara",
        "evaluate",
        "register",
        "report",
        "round-1",
        "round-2",
        "standardize",
        "wait-for-silos",
        "write-card",
    ]


def test_the_record_is_whole_and_names_model_and_runs(complete):
    path = Path(complete.summary["record"])
    closing = record.verify(path)
    assert closing["status"] == "complete"
    model = next(each for each in record.read(path) if each["kind"] == "model")
    assert model["body"]["mlflow"]["run_id"] == complete.run_id
    assert model["body"]["prefect"]["flow_run_id"] == complete.flow_run_id


def test_a_silo_that_breaks_the_contract_makes_the_run_degraded(degraded):
    assert degraded.state.is_completed()
    assert degraded.state.name == "Degraded"
    assert "berta left out: breaks toy@1: range (weight)" in degraded.state.message
    assert degraded.summary["silos"]["berta"]["status"] == "left_out"
    tags = degraded.client.get_run(degraded.run_id).data.tags
    assert tags[names.TAG_STATUS] == "degraded"
    assert "berta" in tags[names.TAG_REASON]


def test_a_degraded_model_says_so(degraded):
    model = degraded.summary["model"]
    found = degraded.client.get_model_version(model["name"], model["version"])
    assert found.tags[names.TAG_STATUS] == "degraded"
    assert found.tags[names.TAG_SILOS] == "anna, clara"


def test_below_the_quorum_the_run_fails_and_registers_nothing(failed):
    assert failed.state.is_failed()
    told = failed.state.message
    assert told.startswith("SchemaDrift: before the run: the contract is not kept by berta; no ")
    assert "\n  - berta: contract: breaks toy@1" in told
    assert "\n  - clara: unreachable: not connected" in told
    assert failed.summary["status"] == "failed"
    assert failed.summary["model"] is None
    assert failed.federation.finished[0][0] is False
    assert failed.client.get_run(failed.run_id).info.status == "FAILED"
    with pytest.raises(MlflowException, match="not found"):
        failed.client.get_model_version_by_alias("failed-model", names.CANDIDATE)
    assert record.verify(Path(failed.summary["record"]))["status"] == "failed"


def test_the_candidate_leads_back_to_its_run(complete):
    found = complete.client.get_model_version_by_alias("complete-model", names.CANDIDATE)
    assert found.run_id == complete.run_id
    assert set(names.MODEL_TAGS) <= set(found.tags)
    assert found.tags[names.TAG_RUN] == complete.summary["run_id"]
    assert found.tags[names.TAG_BUNDLE] == "b" * 64
    assert found.tags[names.TAG_REPRODUCIBLE] == "true"
    assert float(found.tags[names.TAG_EPSILON]) == pytest.approx(8.0, abs=0.05)
    assert float(found.tags[names.TAG_DELTA]) == 1e-3


def test_a_version_has_its_card_and_a_folder_that_proves_it(complete, tmp_path):
    name, client = "complete-model", complete.client
    found = client.get_model_version_by_alias(name, names.CANDIDATE)
    assert found.tags[names.TAG_CARD] == f"runs:/{complete.run_id}/card/card.html"
    assert "learnt over 3 organisations" in found.description
    files = {each.path for each in client.list_artifacts(complete.run_id, names.CARD_FOLDER)}
    assert {"card/card.html", "card/card.md", "card/bom.json", "card/statement.json"} <= files
    home, out = complete.federation.home, tmp_path / "card.zip"
    key = complete.federation.key
    cards.write(client, home, key, name=name, version=str(found.version), out=out)
    public = tmp_path / "coordinator.pub"
    public.write_bytes(public_pem(key))
    verdict = verify(out, [public])
    assert verdict.passed, [each for each in verdict.checks if not each.passed]
    assert any(each.found.endswith("files, as the record has them") for each in verdict.checks)
    attached = client.download_artifacts(complete.run_id, "card/card.md", str(tmp_path))
    with zipfile.ZipFile(out) as archive:
        text = archive.read("card.md").decode()
    assert Path(attached).read_text() == text
    assert "ε, the most a silo may spend | 8 |" in text
    assert "whoever knows the seed can take it away" in text
    with pytest.raises(ConfigInvalid, match=r"tells of this version; known versions: 1\b"):
        cards.record_of(home, name, "77")


def test_only_declared_metrics_are_tracked(complete):
    found = complete.client.get_run(complete.run_id).data.metrics
    silos = ("anna", "berta", "clara")
    own = {re.sub("^global/", "", each) for each in found if each.startswith("global/")}
    assert set(found) <= names.declared(own, silos)
    for silo in silos:
        assert found[names.silo_metric(silo, names.BYTES_UP)] > 0
        assert found[names.silo_metric(silo, names.EPSILON_RDP)] > 0


def test_params_files_and_lineage_are_there(complete):
    found = complete.client.get_run(complete.run_id)
    assert found.data.params["protocol.rounds"] == "2"
    assert found.data.params["privacy.epsilon"] == "8.0"
    files = {each.path for each in complete.client.list_artifacts(complete.run_id)}
    assert files >= {
        names.JOB_FILE,
        names.CONTRACT_FILE,
        names.REPORTS_FILE,
        names.PARTICIPATION_FILE,
        names.ROUNDS_FILE,
        names.SUMMARY_FILE,
        "record.jsonl",
        "plots",
    }
    plots = {each.path for each in complete.client.list_artifacts(complete.run_id, "plots")}
    assert plots == {names.HEATMAP_PLOT}  # a private job has no figures that make a curve
    assert {each.dataset.name for each in found.inputs.dataset_inputs} == {
        "anna (toy@1)",
        "berta (toy@1)",
        "clara (toy@1)",
    }


@pytest.mark.parametrize("ending", ["complete", "degraded", "failed"])
def test_no_value_of_a_row_is_left_anywhere(ending, request, tmp_path, sentinel):
    ended = request.getfixturevalue(ending)
    told = everything_left(ended, tmp_path)
    assert str(sentinel) not in told
    assert f"{sentinel:.0f}" not in told
    assert "patient-" not in told


def test_changes_replace_what_the_job_says_and_stdout_stays_empty(federation, capfd):
    ended = run(federation, rounds=1, private=False)
    assert capfd.readouterr().out == ""
    assert sorted(ended.summary["silos"]["anna"]["rounds"]) == [1]
    assert ended.summary["silos"]["anna"]["epsilon"] is None
    assert set(ended.summary["metrics"]) >= {"accuracy", "roc_auc", "log_loss"}
    history = ended.client.get_metric_history(ended.run_id, names.global_metric("roc_auc"))
    assert sorted({each.step for each in history}) == [0, 1]  # the curve begins untrained
    plots = {each.path for each in ended.client.list_artifacts(ended.run_id, "plots")}
    assert plots == {names.CURVES_PLOT, names.HEATMAP_PLOT}
    model = ended.summary["model"]
    found = ended.client.get_model_version(model["name"], model["version"])
    assert found.tags[names.TAG_EPSILON] == "no differential privacy"


def test_a_round_is_tried_again_after_an_outage(federation):
    federation.outages = 1
    ended = run(federation)
    assert ended.summary["status"] == "complete", ended.summary["reason"]
    assert ended.summary["silos"]["anna"]["rounds"] == [1, 2]


def test_an_outage_that_lasts_fails_the_run(federation):
    federation.outages = 2
    ended = run(federation, rounds=1)
    assert ended.state.is_failed()
    run_id = ended.summary["run_id"]
    assert ended.state.message == (
        "CoordinatorUnreachable: the SuperLink is away; the run is not over: "
        f"--resume {run_id} goes on with it"
    )
    assert ended.summary["model"] is None
    federation.outages = 0
    again = run(federation, rounds=1, resume=run_id)
    assert again.summary["status"] == "complete", again.summary["reason"]
    assert again.run_id == ended.run_id  # of MLflow
    assert flow_run_of(ended.flow_run_id).state.is_failed()


def test_a_resume_of_what_has_ended_closes_what_its_process_left_open(federation):
    # It was refused, and the MLflow run and the flow run stayed RUNNING for ever.
    first = run(federation)
    run_id = first.summary["run_id"]
    first.client.update_run(first.run_id, status="RUNNING")  # its process died before it told
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(first.flow_run_id, Running(), force=True)
    ended = run(federation, resume=run_id)
    assert ended.state.is_failed()
    assert "has ended (complete), its silos answer it no more" in ended.state.message
    found = first.client.get_run(first.run_id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name.endswith(" · complete")
    assert flow_run_of(first.flow_run_id).state.is_crashed()
    assert federation.finished[-1] == (False, "RunNotResumable")


def test_a_run_that_finds_no_tracker_closes_what_it_has_opened_and_is_not_over(
    federation, monkeypatch
):
    monkeypatch.setattr(patient, "PATIENCE_S", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri, federation.tracking_uri = federation.tracking_uri, f"http://127.0.0.1:{free_port()}"
    state = run(federation)
    assert state.state.is_failed()
    assert "MLflow at" in state.state.message
    assert federation.finished == [(False, "ServiceAway")]
    (place,) = (federation.home / "runs").iterdir()
    assert record.read(place / "record.jsonl")[-1]["kind"] == "interrupted"
    federation.tracking_uri = uri
    monkeypatch.undo()
    assert run(federation, resume=place.name).summary["status"] == "complete"


def test_a_run_is_extended_as_a_new_one_that_leads_back_to_it(federation):
    first = run(federation)
    assert first.summary["status"] == "complete", first.summary["reason"]
    run_id = first.summary["run_id"]
    ended = run(federation, extend=run_id, rounds=1, epsilon=10.0)
    assert ended.summary["status"] == "complete", ended.summary["reason"]
    assert ended.summary["run_id"] != run_id
    assert ended.run_id != first.run_id  # of MLflow
    assert ended.flow_run_id != first.flow_run_id
    assert ended.summary["silos"]["anna"]["rounds"] == [3]
    model = ended.summary["model"]
    found = ended.client.get_model_version(model["name"], model["version"])
    assert (
        found.tags[names.TAG_CONTINUES] == f"{run_id}, version {first.summary['model']['version']}"
    )
    assert 8.0 < float(found.tags[names.TAG_EPSILON]) <= 10.0
    traces = traces_of("anna", federation.home / "runs").models
    assert [each.rounds for each in traces] == [2, 3]
    history = ended.client.get_metric_history(ended.run_id, names.ROUND_SILOS)
    assert [each.step for each in history] == [3]
    beside = federation.home / "runs" / run_id / "job_file"
    assert beside.read_text() == str(federation.job.resolve())


def test_a_job_that_cannot_begin_fails_with_its_reason_and_no_traceback(federation, capfd):
    federation.job.write_text(federation.job.read_text().replace("rounds: 2", "round: 2"))
    ended = run(federation)
    assert ended.state.is_failed()
    assert "did you mean 'rounds'" in ended.state.message
    assert ended.summary["status"] == "failed"
    captured = capfd.readouterr()
    assert "Traceback" not in captured.err
    assert captured.out == ""


def flow_run_of(flow_run_id: str) -> Any:
    with get_client(sync_client=True) as client:
        return client.read_flow_run(flow_run_id)


@pytest.mark.parametrize("ending", ["complete", "degraded", "failed"])
def test_a_look_at_the_lists_tells_job_number_and_status(ending, request):
    # A degraded run was once green and called as any other of its job.
    ended = request.getfixturevalue(ending)
    job = f"{ending}-model"
    shown = flow_run_of(ended.flow_run_id)
    assert shown.name == f"{job} · 1 · {ending}"
    run = Path(ended.summary["record"]).parent.name
    assert set(shown.tags) == {f"job:{job}", "contract:toy@1", f"run:{run}", ending}
    found = ended.client.get_run(ended.run_id)
    assert found.info.run_name == shown.name
    tags = found.data.tags
    assert tags["mlflow.note.content"].startswith(f"**{ending}**")
    assert tags["mlflow.user"]
    assert tags["mlflow.source.name"] == f"horizontal job {job}"
    assert max(len(each) for each in tags if not each.startswith("mlflow.")) <= 15
    experiment = ended.client.get_experiment(found.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_check_that_failed_is_not_green(failed, degraded):
    for ended, bad in ((degraded, {"check-berta"}), (failed, {"check-berta", "check-clara"})):
        filters = FlowRunFilter(id=FlowRunFilterId(any_=[ended.flow_run_id]))
        with get_client(sync_client=True) as client:
            runs = client.read_task_runs(flow_run_filter=filters, limit=200)
        red = {e.name: e.state.message for e in runs if e.name.startswith("check-")
               and e.state.is_failed()}  # fmt: skip
        assert set(red) == bad
        assert "breaks toy@1: range (weight)" in red["check-berta"]


def test_a_degraded_model_is_no_candidate(complete, degraded):
    client = degraded.client
    with pytest.raises(MlflowException, match="not found"):
        client.get_model_version_by_alias("degraded-model", names.CANDIDATE)
    found = client.get_model_version_by_alias("degraded-model", names.DEGRADED_CANDIDATE)
    assert degraded.summary["model"]["uri"] == "models:/degraded-model@candidate-degraded"
    assert "What was wrong: berta left out: breaks toy@1" in found.description
    with pytest.raises(MlflowException, match="not found"):
        client.get_model_version_by_alias("complete-model", names.DEGRADED_CANDIDATE)


def test_what_reviewers_hold_a_model_to_stands_on_its_tags(federation):
    text = federation.job.read_text() + "promotion: {metric: roc_auc, approvals: 2}\n"
    federation.job.write_text(text)
    ended = run(federation, rounds=1, private=False)
    model = ended.summary["model"]
    tags = ended.client.get_model_version(model["name"], model["version"]).tags
    wanted = {"metric": "roc_auc", "per_silo_tolerance": 0.02, "approvals": 2}
    assert wanted.items() <= json.loads(tags[names.TAG_PROMOTION]).items()


def test_contract_verdicts_are_a_table_in_mlflow(degraded, tmp_path):
    place = degraded.client.download_artifacts(degraded.run_id, names.VERDICTS_FILE, str(tmp_path))
    table = json.loads(Path(place).read_text())
    rows = [dict(zip(table["columns"], each, strict=True)) for each in table["data"]]
    told = {each["silo"]: (each["verdict"], each["broken rules"]) for each in rows}
    assert told == {
        "anna": ("passed", ""),
        "berta": ("failed", "range (weight)"),
        "clara": ("passed", ""),
    }
    tags = degraded.client.get_run(degraded.run_id).data.tags
    shown = {each["path"] for each in json.loads(tags["mlflow.loggedArtifacts"])}
    assert {names.VERDICTS_FILE, names.PARTICIPATION_FILE} <= shown


def test_each_silos_part_in_each_round_is_a_table_a_picture_and_a_tag(complete, tmp_path):
    found = complete.client.get_run(complete.run_id)
    assert found.data.tags[names.TAG_PARTICIPATION] == "trained 6 of 6"
    told = "**complete** all 3 silos took part in each of 2 rounds"
    assert found.data.tags["mlflow.note.content"].startswith(told)
    tables = json.loads(found.data.tags["mlflow.loggedArtifacts"])
    assert {"path": names.ROUNDS_FILE, "type": "table"} in tables
    path = complete.client.download_artifacts(complete.run_id, names.ROUNDS_FILE, str(tmp_path))
    table = json.loads(Path(path).read_text())
    rows = [dict(zip(table["columns"], each, strict=True)) for each in table["data"]]
    assert [(each["round"], each["silo"]) for each in rows[:2]] == [(1, "anna"), (1, "berta")]
    assert all(each["epsilon"] and each["weight"] and each["bytes_up"] for each in rows)
    picked = ArtifactFilterFlowRunId(any_=[complete.flow_run_id])
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=picked))
    (by_round,) = [each for each in shown if each.key == names.ROUNDS_ARTIFACT]
    assert by_round.description == "Round by round: trained 6 of 6"
    assert "all 3 silos took part" in complete.summary["sentence"]


def test_each_silos_dataset_has_a_digest_of_its_own(complete):
    inputs = complete.client.get_run(complete.run_id).inputs.dataset_inputs
    digests = {each.dataset.digest for each in inputs}
    assert len(digests) == 3
    assert not any(each in complete.federation.job.read_text() for each in digests)


def test_the_flow_run_of_a_process_that_died_is_closed_by_who_goes_on(services):
    # It stood as running for ever beside the one that finished the run.
    @flow(name="pipeline")
    def goes_on() -> str:
        opens(flow_run(), "toy-1")
        close_died("toy-1")
        close_died("nobody knows this run")
        return str(flow_run())

    with get_client(sync_client=True) as client:
        died = client.create_flow_run(
            goes_on,
            name="toy · 1 · running",
            tags=["job:toy", "running", names.run_tag("toy-1")],
            state=Running(),
        )
        tags = [names.run_tag("toy-1")]
        done = client.create_flow_run(goes_on, name="toy · 2", tags=tags, state=Failed())
        waits = client.create_flow_run(goes_on, name="toy · 3", tags=tags, state=Scheduled())
        another = client.create_flow_run(
            goes_on, name="toy · 4", tags=[names.run_tag("toy-2")], state=Running()
        )
    again = goes_on()
    closed = flow_run_of(died.id)
    assert closed.state.is_crashed()
    assert again in closed.state.message
    assert closed.name == "toy · 1 · died"
    assert {"job:toy", "died"} <= set(closed.tags)
    assert "running" not in closed.tags
    assert flow_run_of(done.id).state.is_failed()
    assert flow_run_of(waits.id).state.is_scheduled()
    assert flow_run_of(another.id).state.is_running()
    assert flow_run_of(again).state.is_completed()
