"""Runs that Prefect's worker starts, as a schedule would have it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from consilo.contracts.contract import SHIPPED
from flows.registry import names
from flows.rehearsal.faults import Fault
from flows.rehearsal.replay import ended
from flows.rehearsal.standing import Standing
from flows.services.federation import Addresses
from flows.services.launch import can_go_on
from flows.tending.servers import ask

_BEGINS_WITHIN_S, _ENDS_WITHIN_S = 120.0, 300.0
_FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_NAME = "rehearsal"
_IN_PLACE = "prefect.deployments.steps.set_working_directory"
_ANSWERS_S = 20.0  # on a machine that runs a whole federation


def by_worker(fault: Fault) -> bool:
    """Return whether a fault is one of runs that a worker starts."""
    return fault.part == "worker" or fault.what == "start twice"


def run_deployed(
    there: Standing, look: Callable[[], None], follow: Callable[[Path], None]
) -> dict[str, Any]:
    """Let the worker run the job and return its summary, with what a person says to go on with it.

    Args:
        there: the federation.
        look: called several times a second.
        follow: told where the run's record is.
    """
    flow_run, record = begin(there)
    follow(record)
    summary = {"run_id": record.parent.name, "record": str(record)}
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while can_go_on(record):  # by this flow run, or by the one that goes on after its death
        there.watch.look()
        look()
        if time.monotonic() > deadline:
            told = f"nobody went on with it within {_ENDS_WITHIN_S:.0f} s"
            return {**summary, "status": "failed", "reason": told, "resume": "--resume"}
        time.sleep(0.2)
    await_end(there, flow_run, look)
    found = ended(record, there.rehearsed.silos)
    return {**summary, "status": found.status, "reason": found.reason}


def begin(there: Standing) -> tuple[str, Path]:
    """Start a run by the worker; return its flow run's id and where its record is.

    Raises:
        TimeoutError: where none has begun within two minutes.
    """
    runs = there.home / "runs"
    known = {each.name for each in runs.iterdir()}
    flow_run = submit(there)
    deadline = time.monotonic() + _BEGINS_WITHIN_S
    while time.monotonic() < deadline:
        there.watch.look()
        for each in sorted(runs.iterdir()):
            if each.name not in known and (each / "record.jsonl").exists():
                return flow_run, each / "record.jsonl"
        time.sleep(0.1)
    raise TimeoutError(f"the worker began no run within {_BEGINS_WITHIN_S:.0f} s")


def submit(there: Standing, *, wait_s: float | None = None) -> str:
    """Ask Prefect for a run of the job by the worker; return the flow run's id.

    Args:
        there: the federation.
        wait_s: for how long the run waits for silos at its start; None for as long as it does.
    """
    api = Addresses.load(there.home).prefect_api
    flow = ask(f"{api}/flows/", {"name": "pipeline"}, within_s=_ANSWERS_S)["id"]
    deployment = {
        "name": _NAME,
        "flow_id": flow,
        "entrypoint": "flows/pipeline.py:pipeline",
        # As `prefect deploy` says it: else the worker copies the directory for each run, with its
        # environment, and stands still while it deletes the copy.
        "pull_steps": [{_IN_PLACE: {"directory": str(SHIPPED.parent)}}],
        "work_pool_name": names.POOL,
        "work_queue_name": "default",
        "enforce_parameter_schema": False,
    }
    made = ask(f"{api}/deployments/", deployment, within_s=_ANSWERS_S)["id"]
    parameters: dict[str, Any] = {"job": str(there.rehearsed.file)}
    parameters |= {} if wait_s is None else {"wait_s": wait_s}
    asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return str(ask(f"{api}/deployments/{made}/create_flow_run", asked, within_s=_ANSWERS_S)["id"])


def await_end(there: Standing, flow_run: str, look: Callable[[], None]) -> Mapping[str, Any]:
    """Return the state in which a flow run ended."""
    api = Addresses.load(there.home).prefect_api
    deadline = time.monotonic() + _ENDS_WITHIN_S
    while time.monotonic() < deadline:
        there.watch.look()
        look()
        state: Mapping[str, Any] = ask(f"{api}/flow_runs/{flow_run}", within_s=_ANSWERS_S)["state"]
        if state["type"] in _FINAL:
            return state
        time.sleep(0.2)
    told = f"the flow run had not ended after {_ENDS_WITHIN_S:.0f} s"
    return {"type": "STUCK", "name": "Stuck", "message": told}
