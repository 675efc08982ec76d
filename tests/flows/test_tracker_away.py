"""MLflow or Prefect is killed in the middle of a run, and comes back: the run goes on by itself."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from consilo.machine.processes import Supervisor, free_port
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import verify
from flows.endings import summary_of
from flows.pipeline import pipeline
from flows.services.connection import connecting
from flows.services.services import start_mlflow, start_prefect

pytestmark = [pytest.mark.flow, pytest.mark.timeout(280)]


def at_training(federation, happens):
    """Let something happen once, when a silo is first asked to train."""
    once = threading.Lock()

    def watching(name, silo):
        answer = answerer(silo)

        def asked(parcel):
            if b'"verb":"train"' in parcel.header and once.acquire(blocking=False):
                happens()
            return answer(parcel)

        return asked

    federation._answers = lambda: {n: watching(n, s) for n, s in federation.silos.items()}


def test_a_run_outlives_its_tracker(federation, services, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port = free_port()
    with Supervisor() as supervisor:
        first = start_mlflow(supervisor, tmp_path, port=port)
        federation.tracking_uri = first.wait()

        def dies() -> None:
            first.service.process.kill()
            first.service.process.wait(30)
            threading.Timer(2.0, lambda: start_mlflow(supervisor, tmp_path, port=port)).start()

        at_training(federation, dies)
        with connecting(federation.connect()):
            state = pipeline(
                str(federation.job), home=str(federation.home), wait_s=0, return_state=True
            )
        summary = summary_of(state)
        assert summary["status"] == "complete", summary["reason"]
        assert verify(Path(summary["record"]))["status"] == "complete"
        client = MlflowClient(federation.tracking_uri)
        run = client.get_run(summary["mlflow"]["run_id"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["status"] == "complete"
        for key in run.data.metrics:
            steps = [each.step for each in client.get_metric_history(run.info.run_id, key)]
            assert len(steps) == len(set(steps)), key
        rounds = {
            each.step
            for key in run.data.metrics
            if key.endswith("/num_examples")
            for each in client.get_metric_history(run.info.run_id, key)
        }
        assert rounds >= {1, 2}
        assert len(client.search_model_versions(f"name = '{summary['model']['name']}'")) == 1


@pytest.mark.slow
def test_a_run_outlives_prefects_server(make_federation, tmp_path, services) -> None:
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

    federation = make_federation("prefect-away")
    port = free_port()
    with Supervisor() as supervisor:
        first = start_prefect(supervisor, tmp_path, port=port)
        api = first.wait()

        def dies() -> None:
            first.service.process.kill()
            first.service.process.wait(30)
            threading.Timer(2.0, lambda: start_prefect(supervisor, tmp_path, port=port)).start()

        at_training(federation, dies)
        with (
            temporary_settings({PREFECT_API_URL: api, PREFECT_CLIENT_MAX_RETRIES: 7}),
            connecting(federation.connect()),
        ):
            state = pipeline(
                str(federation.job), home=str(federation.home), wait_s=0, return_state=True
            )
            summary = summary_of(state)
            assert summary["status"] == "complete", summary["reason"]
            with get_client(sync_client=True) as client:
                shown = client.read_flow_run(summary["prefect"]["flow_run_id"])
            assert shown.state.is_completed()
