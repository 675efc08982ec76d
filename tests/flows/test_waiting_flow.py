"""A run that waits for silos says so in Prefect and MLflow, and goes on when they are back."""

from __future__ import annotations

import contextvars
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterName,
)

from consilo.record.run_record import read
from flows.endings import summary_of
from flows.pipeline import pipeline
from flows.registry import names
from flows.services.connection import connecting

pytestmark = pytest.mark.flow


def test_people_see_that_it_waits_and_it_goes_on(federation):
    waits = federation.job.read_text().replace(
        "min_silos: 2,", "min_silos: 3, on_loss: wait, for: 5m,"
    )
    federation.job.write_text(waits)
    federation.absent = ("clara",)
    seen: dict[str, str] = {}

    def look() -> None:
        wanted = FlowRunFilter(name=FlowRunFilterName(like_="· waiting"))
        try:
            with get_client(sync_client=True) as client:
                end = time.monotonic() + 200
                while not client.read_flow_runs(flow_run_filter=wanted) and time.monotonic() < end:
                    time.sleep(0.1)
            mlflow = MlflowClient(federation.tracking_uri)
            experiment = mlflow.get_experiment_by_name("toy-model")
            run = mlflow.search_runs([experiment.experiment_id])[0]  # the newest
            seen["name"] = run.info.run_name
            seen["tag"] = run.data.tags.get(names.TAG_WAITING, "")
        finally:
            federation.absent = ()

    watcher = threading.Thread(target=contextvars.copy_context().run, args=(look,), daemon=True)
    watcher.start()
    with connecting(federation.connect()):
        state = pipeline(str(federation.job), home=str(federation.home), wait_s=0,
                         return_state=True)  # fmt: skip
    watcher.join(timeout=5)
    summary = summary_of(state)
    assert summary["status"] == "complete", summary["reason"]
    assert seen["name"].endswith(" · waiting")
    assert seen["tag"].startswith("waiting for clara until ")
    kinds = [each["kind"] for each in read(Path(summary["record"]))]
    assert kinds.index("waiting") < kinds.index("went_on") < kinds.index("standardized")
    run = MlflowClient(federation.tracking_uri).get_run(summary["mlflow"]["run_id"])
    assert run.data.tags[names.TAG_WAITING] == ""
    flow_run_id = summary["prefect"]["flow_run_id"]
    with get_client(sync_client=True) as client:
        shown = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run_id]))
        )
        assert client.read_flow_run(flow_run_id).name.endswith(" · complete")
    told = [str(each.data) for each in shown if each.key == names.WAITING_ARTIFACT]
    assert len(told) == 2
    assert any("clara: unreachable" in each for each in told)
