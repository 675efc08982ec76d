"""MLflow's server is killed and comes back: what was to be written is there, once."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from consilo.errors import ServiceFailed
from consilo.machine.processes import Service, Supervisor, free_port
from flows.registry import names
from flows.registry.patient import Patient
from flows.registry.tracking import Tracker
from flows.services.services import start_mlflow

pytestmark = [pytest.mark.flow, pytest.mark.timeout(240)]


def kill(service: Service) -> None:
    service.process.kill()
    service.process.wait(30)


def test_what_was_to_be_written_while_the_server_was_away_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    port, said = free_port(), []
    with Supervisor() as supervisor:
        first = start_mlflow(supervisor, tmp_path, port=port)
        uri = first.wait()
        tracker = Tracker.open(uri, experiment="away", name="run 1", tags={names.TAG_RUN: "run-1"})
        tracker.client._say = said.append
        tracker._log([("global/loss", 1.0, 1)])
        kill(first.service)
        done: list[float] = []

        def work() -> None:
            tracker._log([("global/loss", 0.5, 2)])
            done.append(time.monotonic())
            tracker.end("FINISHED")

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(1.5)
        assert not done
        assert said == [f"MLflow at {uri} is away; the run waits for it"]
        start_mlflow(supervisor, tmp_path, port=port).wait()
        thread.join(60)
        assert done
        assert said[1].startswith("MLflow is back after ")
        client = MlflowClient(uri)
        points = client.get_metric_history(tracker.run_id, "global/loss")
        assert sorted((each.step, each.value) for each in points) == [(1, 1.0), (2, 0.5)]
        assert client.get_run(tracker.run_id).info.status == "FINISHED"


class Losing:
    """A client whose server does what it is asked, and whose answer is lost the first time."""

    def __init__(self, client: MlflowClient) -> None:
        self.client, self.lost = client, 0

    def __getattr__(self, name: str):
        def asked(*args, **settings):
            answer = getattr(self.client, name)(*args, **settings)
            if not self.lost and not name.startswith("search"):
                self.lost += 1
                raise ConnectionResetError("the answer was lost")
            return answer

        return asked


def test_what_was_made_before_its_answer_was_lost_is_not_made_twice(services, tmp_path) -> None:
    client = MlflowClient(services.tracking_uri)
    experiment = client.create_experiment("lost answers")
    losing = Losing(client)
    run = Patient(losing, services.tracking_uri).create_run(
        experiment, run_name="run 2", tags={names.TAG_RUN: "run-2"}
    )
    assert losing.lost == 1
    assert [each.info.run_id for each in client.search_runs([experiment])] == [run.info.run_id]
    client.create_registered_model("lost")
    source = f"{run.info.artifact_uri}/model"
    made = Patient(Losing(client), services.tracking_uri).create_model_version(
        "lost", source=source, run_id=run.info.run_id
    )
    versions = client.search_model_versions("name = 'lost'")
    assert [each.version for each in versions] == [made.version]


def test_an_error_that_the_server_answers_is_not_waited_for(services) -> None:
    client = Patient(MlflowClient(services.tracking_uri), services.tracking_uri)
    with pytest.raises(MlflowException, match="not found"):
        client.get_run("0" * 32)


def test_who_is_stopped_or_has_waited_long_says_that_the_server_is_away(monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://127.0.0.1:{free_port()}"
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(ServiceFailed, match="away, and the run ends"):
        Patient(MlflowClient(uri), uri, stopped=stopped).get_run("0" * 32)
    with pytest.raises(ServiceFailed, match="--resume"):
        Patient(MlflowClient(uri), uri, patience_s=0.1).get_run("0" * 32)
