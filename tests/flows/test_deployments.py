"""prefect.yaml: what it names exists, deploys to a fresh server, and is run by a worker."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.flows import Flow

from consilo.contracts.contract import SHIPPED
from consilo.machine.environment import child_environment
from consilo.machine.processes import Supervisor
from flows.registry import names
from flows.services.prefect_log import faults
from flows.services.services import prefect_environment, prefect_log, prepare_prefect, start_worker

pytestmark = pytest.mark.flow

ROOT = SHIPPED.parent
FILE = ROOT / "prefect.yaml"


def deployments() -> list[dict]:
    return yaml.safe_load(FILE.read_text())["deployments"]


@pytest.fixture(scope="module")
def deployed(services) -> str:
    """The API of a server that has all deployments."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("prefect")), "--no-prompt", "deploy", "--all"],
        cwd=ROOT,
        env=child_environment(**prefect_environment(services.home, services.prefect_api)),
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return services.prefect_api


@pytest.mark.parametrize("deployment", deployments(), ids=lambda each: each["name"])
def test_entry_points_import_and_accept_the_parameters(deployment):
    file, _, name = deployment["entrypoint"].partition(":")
    flow = getattr(importlib.import_module(file.removesuffix(".py").replace("/", ".")), name)
    assert isinstance(flow, Flow)
    assert flow.validate_parameters(deployment["parameters"])
    job = deployment["parameters"].get("job")
    assert job is None or (SHIPPED / "jobs" / f"{job}.yaml").is_file()
    assert deployment["concurrency_limit"]["limit"] == 1
    assert deployment["work_pool"]["name"] == names.POOL


def test_what_a_worker_imports_of_the_flows_is_light():
    """A worker imported torch and MLflow to look for hooks of a flow that was killed: +270 MiB."""
    files = sorted({each["entrypoint"].partition(":")[0] for each in deployments()})
    modules = [each.removesuffix(".py").replace("/", ".") for each in files]
    heavy = ("torch", "mlflow", "great_expectations", "opacus", "flwr", "cryptography", "consilo")
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED, *modules, "--", *heavy],
        cwd=ROOT,
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == sorted(modules)


_IMPORTED = """
import importlib, sys
split = sys.argv.index("--")
for each in sys.argv[1:split]:
    importlib.import_module(each)
print(*sorted(each for each in sys.argv[1:] if each in sys.modules))
"""
"""Prints which of the modules that it is told of are imported after those before ``--``."""


def test_all_deployments_arrive_with_their_schedules_limits_and_forms(deployed):
    with get_client(sync_client=True) as client:
        nightly = client.read_deployment_by_name("pipeline/nightly")
        weekly = client.read_deployment_by_name("analytics/weekly")
        on_demand = client.read_deployment_by_name("pipeline/on-demand")
        people = client.read_deployment_by_name("match/people")
        daily = client.read_deployment_by_name("housekeeping/daily")
    assert people.schedules[0].schedule.cron == "0 4 1 * *"
    assert daily.schedules[0].schedule.cron == "0 5 * * *"
    assert daily.global_concurrency_limit.limit == 1
    assert set(people.parameter_openapi_schema["properties"]) == {"job", "wait_s", "home", "bundle"}
    assert nightly.schedules[0].schedule.cron == "30 2 * * *"
    assert nightly.schedules[0].schedule.timezone == "Europe/Berlin"
    assert nightly.global_concurrency_limit.limit == 1
    assert weekly.schedules[0].schedule.cron == "0 6 * * 1"
    assert on_demand.schedules == []
    form = on_demand.parameter_openapi_schema["properties"]
    assert form["rounds"]["description"] == "in place of the job's number of rounds."
    assert on_demand.parameter_openapi_schema["required"] == ["job"]
    for each in form.values():
        assert each["description"]


def test_a_parameter_out_of_range_is_refused_before_anything_runs(deployed):
    with get_client(sync_client=True) as client:
        found = client.read_deployment_by_name("pipeline/on-demand")
    answer = httpx.post(
        f"{deployed}/deployments/{found.id}/create_flow_run",
        json={"parameters": {"job": "breast_cancer", "rounds": 0}},
        timeout=30,
    )
    assert answer.status_code == 409
    assert "0 is less than the minimum of 1" in answer.text


def test_a_worker_runs_a_deployment_with_the_home_of_its_environment(deployed, services, tmp_path):
    with Supervisor() as supervisor:
        worker = start_worker(supervisor, tmp_path, deployed)
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name("pipeline/on-demand")
            run = client.create_flow_run_from_deployment(found.id)
            for _ in range(600):
                run = client.read_flow_run(run.id)
                if run.state.is_final():
                    break
                time.sleep(0.2)
        for _ in range(600):  # its process ends after its state
            told = worker.last_lines(40)
            if "exited with status code" in told:
                break
            time.sleep(0.2)
    # Nobody has put a federation there: that is how far the flow can get, in the worker's home.
    assert run.state.is_failed(), told
    assert f"no federation is up in {tmp_path}" in run.state.message, told
    # Prefect raises what a failed state holds: it said that a dict "cannot be resolved into an
    # exception", with its stack, where the reason should have been.
    assert "TypeError" not in told
    assert "Traceback" not in told
    assert "exited with unexpected exception: CoordinatorUnreachable: no federation is up" in told
    # Two tasks of the server write at each poll of a worker; one of them found the file locked.
    assert faults(prefect_log(services.home)) == ()


def test_preparing_a_server_twice_changes_nothing(services):
    prepare_prefect(services.prefect_api)
    with get_client(sync_client=True) as client:
        pool = client.read_work_pool(names.POOL)
    assert pool.type == "process"
    assert pool.concurrency_limit == 1
