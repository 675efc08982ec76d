"""A flow that another process has gone on beside writes nothing more: record, MLflow, registry."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from mlflow import MlflowClient
from prefect.logging import disable_run_logger

from consilo.errors import RunNotResumable
from consilo.record.run_record import RunRecord, read
from flows import session
from flows.endings import summary_of
from flows.pipeline import pipeline
from flows.services.connection import connecting
from tests.flows.conftest import KEY
from tests.flows.test_tracker_away import at_training

pytestmark = [pytest.mark.flow, pytest.mark.timeout(280)]


def test_a_flow_that_wakes_beside_its_successor_leaves_the_run_alone(make_federation) -> None:
    federation = make_federation("superseded")
    runs: Path = federation.home / "runs"
    seen: dict[str, list[str]] = {}

    def another_goes_on() -> None:
        (record,) = runs.glob("*/record.jsonl")
        successor, _ = RunRecord.reopen(record, KEY)
        successor.take_over(at=0.0)
        seen["lines"] = [each["kind"] for each in read(record)]

    at_training(federation, another_goes_on)
    with connecting(federation.connect()):
        state = pipeline(
            str(federation.job), home=str(federation.home), wait_s=0, return_state=True
        )
    summary = summary_of(state)
    assert summary["status"] == "failed"
    assert summary["reason"].startswith("RunSuperseded")
    (record,) = runs.glob("*/record.jsonl")
    assert [each["kind"] for each in read(record)] == seen["lines"]
    assert seen["lines"][-1] == "resumed"
    client = MlflowClient(federation.tracking_uri)
    experiment = client.get_experiment_by_name("superseded-model")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "RUNNING"
    assert run.data.tags["status"] == "running"
    assert client.search_model_versions("name = 'superseded-model'") == []


def test_why_a_run_cannot_go_on_is_told_where_its_end_cannot_be_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished: list[Any] = []

    def ended(*_: Any, **__: Any) -> NoReturn:
        raise RunNotResumable("study-1: the run had ended")

    def away(*_: Any) -> NoReturn:
        raise ConnectionError("MLflow is away")

    monkeypatch.setattr(session, "close_ended", away)
    monkeypatch.setattr(session, "with_model", lambda job, uri: job)
    known = dict.fromkeys(("transport", "silos", "signing_key", "parties", "absent", "standing"))
    connection: Any = SimpleNamespace(
        **known, home=tmp_path, tracking_uri="", bundle="", finish=lambda *it: finished.append(it)
    )
    order: Any = SimpleNamespace(
        job=None,
        contract=None,
        cancelled=threading.Event(),
        run_id="study-1",
        search_path=(),
        resume=True,
    )
    with disable_run_logger(), pytest.raises(RunNotResumable, match="had ended"):
        session._run(order, connection, ended, "study")
    assert finished == [(False, "RunNotResumable")]
