"""What prefect.yaml deploys runs on the federation that is up, by a process worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from consilo.contracts.contract import SHIPPED
from consilo.machine.environment import child_environment
from consilo.machine.processes import Supervisor
from flows.services.services import prefect_environment, start_worker
from tests.federation.conftest import KeptDemo

pytestmark = [pytest.mark.federation, pytest.mark.timeout(400)]


def ask(url: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=20) as answer:
        return json.load(answer)


def test_a_worker_runs_the_on_demand_deployment(demo: KeptDemo) -> None:
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
    deployment = ask(f"{api}/deployments/name/pipeline/on-demand")
    properties = deployment["parameter_openapi_schema"]["properties"]
    assert {"job", "rounds", "epsilon", "seed"} <= set(properties)
    with Supervisor() as supervisor:
        start_worker(supervisor, demo.home, api, name=f"test-{os.getpid()}")
        created = ask(
            f"{api}/deployments/{deployment['id']}/create_flow_run",
            {"parameters": {"job": "breast_cancer", "rounds": 2, "private": False}},
        )
        deadline = time.monotonic() + 200
        while time.monotonic() < deadline:
            state = ask(f"{api}/flow_runs/{created['id']}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                break
            time.sleep(1)
    assert state["name"] == "Degraded", state
    runs = ask(f"{api}/task_runs/filter", {"flow_runs": {"id": {"any_": [created["id"]]}}})
    assert {"round-1", "round-2", "check-north", "check-west"} <= {run["name"] for run in runs}
