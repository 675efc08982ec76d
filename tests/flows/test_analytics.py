"""The weekly report over silos in memory."""

from __future__ import annotations

import json

import mlflow
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows.analytics import analytics
from flows.endings import summary_of
from flows.registry import names
from flows.services.connection import connecting

pytestmark = pytest.mark.flow


def run(federation):
    with connecting(federation.connect()):
        return analytics(
            str(federation.job), home=str(federation.home), wait_s=0, return_state=True
        )


def test_the_report_holds_statistics_histograms_and_drift_and_trains_nothing(federation, sentinel):
    state = run(federation)
    summary = summary_of(state)
    assert state.name == "Completed", state.message
    assert summary["status"] == "complete"
    assert summary["model"] is None
    mlflow.set_tracking_uri(federation.tracking_uri)
    where = f"runs:/{summary['mlflow']['run_id']}/{names.STATISTICS_FILE}"
    told = mlflow.artifacts.load_dict(where)
    assert [each["column"] for each in told["columns"]] == ["weight", "visits", "smoker"]
    assert set(told["columns"][0]) >= {"count", "mean", "deviation", "drift anna"}
    assert len(told["histograms"]["visits"]["counts"]) == 20
    assert sum(told["histograms"]["visits"]["counts"]) == told["columns"][1]["count"]
    assert str(sentinel) not in json.dumps(told)
    with get_client(sync_client=True) as client:
        flow_run_id = ArtifactFilterFlowRunId(any_=[summary["prefect"]["flow_run_id"]])
        found = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=flow_run_id))
    keys = {each.key for each in found}
    assert keys >= {names.CONTRACTS_ARTIFACT, names.STATISTICS_ARTIFACT, names.SUMMARY_ARTIFACT}


def test_a_silo_that_breaks_the_contract_makes_the_report_degraded(federation):
    federation.break_contract("clara")
    state = run(federation)
    assert state.name == "Degraded"
    assert "clara left out" in state.message
