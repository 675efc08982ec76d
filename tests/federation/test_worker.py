"""What prefect.yaml deploys runs on the federation that is up, by a process worker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from consilo.contracts.contract import SHIPPED
from consilo.machine.environment import child_environment
from consilo.machine.processes import Supervisor
from consilo.record.run_record import verify
from flows.registry import names
from flows.services.launch import can_go_on
from flows.services.services import prefect_environment, start_worker
from tests.federation.conftest import CONSILO, KeptDemo
from tests.federation.test_killed_flow import _rounds, _wait_for_round

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]


_IN_PLACE = "prefect.deployments.steps.set_working_directory"


def ask(url: str, body: Any = None, method: str | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers, method=method)
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.loads(answer.read() or b"null")


def test_a_scheduled_run_comes_by_itself_trains_and_registers(demo: KeptDemo) -> None:
    """With SQLAlchemy 2.1 Prefect 3.7.7's scheduler failed, and no scheduled run ever came."""
    api = demo.summary["prefect"]["api_url"]
    environment = child_environment(**prefect_environment(demo.home, api))
    done = subprocess.run(
        [str(Path(sys.executable).with_name("prefect")), "--no-prompt", "deploy", "--all"],
        cwd=SHIPPED.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    nightly = ask(f"{api}/deployments/name/pipeline/nightly")
    properties = nightly["parameter_openapi_schema"]["properties"]
    assert {"job", "rounds", "epsilon", "seed"} <= set(properties)
    code, told = status(demo.home)
    assert code == 1
    worker = told["services"][3]
    assert (worker["name"], worker["state"], worker.get("since")) == ("worker", "none", None)
    assert "no worker of the pool 'consilo' is online" in told["wrong"][0]

    before = versions(demo)
    with Supervisor() as supervisor:
        start_worker(supervisor, demo.home, api)
        # The night comes a few seconds from now; the rest is as prefect.yaml says. A loaded machine
        # may plan the first one too late, so there are more; as soon as one starts, no other comes.
        soon = datetime.now(UTC) + timedelta(seconds=10)
        rule = f"DTSTART:{soon:%Y%m%dT%H%M%SZ}\nRRULE:FREQ=SECONDLY;INTERVAL=15;COUNT=12"
        parameters = {"rounds": 2, "private": False}
        tonight = {"schedule": {"rrule": rule}, "active": True, "parameters": parameters}
        place = f"{api}/deployments/{nightly['id']}"
        ask(place, {"schedules": [tonight]}, "PATCH")
        begun = first(api, nightly["id"], ["PENDING", "RUNNING", *FINAL])
        (schedule,) = ask(f"{place}/schedules")
        ask(f"{place}/schedules/{schedule['id']}", method="DELETE")
        run = first(api, nightly["id"], FINAL)
        code, told = status(demo.home)
    assert run["id"] == begun["id"]
    assert run["auto_scheduled"], run
    assert run["parameters"]["job"] == "breast_cancer"
    assert run["state"]["name"] == "Degraded", run["state"]  # one hospital is broken
    assert run["name"].endswith(" · degraded")
    runs = ask(f"{api}/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})
    assert {"round-1", "round-2", "check-north", "check-west"} <= {each["name"] for each in runs}
    assert {each["name"] for each in runs if each["state"]["type"] == "FAILED"} == {"check-west"}
    assert len(versions(demo)) == len(before) + 1

    assert (code, told["wrong"], told["prefect_errors"]) == (0, [], [])
    assert {each["name"]: each["state"] for each in told["services"]} == dict.fromkeys(
        ("SuperLink", "Prefect", "MLflow", "worker"), "up"
    )
    assert {each["name"]: each["state"] for each in told["silos"]} == dict.fromkeys(
        ("east", "north", "south", "west"), "online"
    )


@pytest.mark.slow
def test_a_run_whose_flow_was_killed_is_gone_on_with_by_its_deployment(demo: KeptDemo) -> None:
    """Nobody says a command: the coordinator that is up finds the run, the worker goes on."""
    api = demo.summary["prefect"]["api_url"]
    runs = demo.home / "runs"
    known = {each.name for each in runs.iterdir()}
    flow = ask(f"{api}/flows/", {"name": "pipeline"})["id"]
    deployment = {
        "name": "adopted",
        "flow_id": flow,
        "entrypoint": "flows/pipeline.py:pipeline",
        "pull_steps": [{_IN_PLACE: {"directory": str(SHIPPED.parent)}}],
        "work_pool_name": names.POOL,
        "work_queue_name": "default",
        "enforce_parameter_schema": False,
    }
    made = ask(f"{api}/deployments/", deployment)["id"]
    parameters = {"job": str(demo.home / "jobs" / "breast-cancer.yaml"), "rounds": 6}
    asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    with Supervisor() as supervisor:
        start_worker(supervisor, demo.home, api)
        died = ask(f"{api}/deployments/{made}/create_flow_run", asked)["id"]
        run = _wait_for_round(runs, known, 2)
        told = ask(f"{api}/flow_runs/{died}")["infrastructure_pid"]
        os.kill(int(told.rpartition(":")[2]), signal.SIGKILL)
        record = runs / run / "record.jsonl"
        deadline = time.monotonic() + 150
        while can_go_on(record) and time.monotonic() < deadline:
            time.sleep(0.5)
        ended = first(api, made, ["COMPLETED"])
    assert verify(record)["status"] == "degraded"  # one hospital is broken
    assert {each["round"] for each in _rounds(runs / run)} == {1, 2, 3, 4, 5, 6}
    assert ended["id"] != died
    assert ended["parameters"]["resume"] == run
    assert ask(f"{api}/flow_runs/{died}")["state"]["type"] == "CRASHED"


FINAL = ["COMPLETED", "FAILED", "CRASHED", "CANCELLED"]


def first(api: str, deployment: str, states: list[str]) -> Any:
    """Return the first run of a deployment that comes to one of these states."""
    asked = {
        "deployments": {"id": {"any_": [deployment]}},
        "flow_runs": {"state": {"type": {"any_": states}}},
        "sort": "EXPECTED_START_TIME_ASC",
    }
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        if found := ask(f"{api}/flow_runs/filter", asked):
            return found[0]
        time.sleep(0.5)
    pytest.fail(f"no scheduled run was {', '.join(states)} within 200 s")


def versions(demo: KeptDemo) -> list[Any]:
    """Return the versions of the job's model in the registry."""
    uri = demo.summary["mlflow"]["tracking_uri"]
    found = MlflowClient(uri, uri).search_model_versions("name='breast-cancer'")
    return list(found)


def status(home: Path) -> tuple[int, Any]:
    """Return the exit code and the answer of ``consilo status --json``."""
    command = [str(CONSILO), "status", "--dir", str(home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)
