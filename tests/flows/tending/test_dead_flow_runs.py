"""A flow run whose worker was killed does not hold up the next one."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Pending, Running

from consilo.contracts.contract import SHIPPED
from consilo.machine.environment import child_environment
from flows.registry import names
from flows.services.services import prefect_environment
from flows.tending.dead_flow_runs import STARTED_WITHIN_S, _lives, end_dead
from flows.tending.servers import ask

pytestmark = pytest.mark.flow


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-S", "-c", "pass"])
    process.wait(30)
    return process.pid


def test_runs_of_dead_processes_are_ended_and_no_others(services):
    # Every later nightly was Cancelled "concurrency limit reached" until the run was deleted.
    here = socket.gethostname()
    pids = {
        "dead": f"{here}:{dead_pid()}",
        "alive": f"{here}:{os.getpid()}",
        "elsewhere": f"other-machine:{dead_pid()}",
        "not begun": None,
    }
    runs: dict[str, Any] = {}
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("nightly-of-a-killed-worker")
        deployment = client.create_deployment(
            flow_id, "nightly", work_pool_name=names.POOL, concurrency_limit=1
        )
        for name, pid in pids.items():
            run = client.create_flow_run_from_deployment(deployment, name=name)
            client.update_flow_run(run.id, infrastructure_pid=pid)
            client.set_flow_run_state(run.id, Running(), force=True)
            runs[name] = run.id
        assert end_dead(services.prefect_api) == ["dead"]
        states = {name: client.read_flow_run(each).state for name, each in runs.items()}
        assert {name: each.type.value for name, each in states.items()} == {
            "dead": "CRASHED",
            "alive": "RUNNING",
            "elsewhere": "RUNNING",
            "not begun": "RUNNING",
        }
        assert "died, with its worker" in states["dead"].message
        assert end_dead(services.prefect_api) == []
        # A worker of Prefect 3.7 tells a number and no machine: it is this one if no other works.
        client.update_flow_run(runs["elsewhere"], infrastructure_pid=str(dead_pid()))
        client.update_flow_run(runs["alive"], infrastructure_pid=str(os.getpid()))
        beats = f"{services.prefect_api}/work_pools/{names.POOL}/workers/heartbeat"
        ask(beats, {"name": names.WORKER})
        assert end_dead(services.prefect_api) == ["elsewhere"]
        ask(beats, {"name": "of another machine"})
        client.update_flow_run(runs["alive"], infrastructure_pid=str(dead_pid()))
        assert end_dead(services.prefect_api) == []
        workers = f"{services.prefect_api}/work_pools/{names.POOL}/workers"
        ask(f"{workers}/of%20another%20machine", method="DELETE")
        for each in runs.values():
            client.delete_flow_run(each)
        client.delete_deployment(deployment)


_KILLED = """
import os, sys
sys.path.insert(0, sys.argv[1])
from flows.pipeline import run_pipeline
from flows.services.connection import connecting

def dies(order):
    os.kill(os.getpid(), 9)

with connecting(dies):
    run_pipeline(home=sys.argv[2], job="heart")
"""


def test_a_flow_run_of_a_person_that_was_killed_before_it_had_a_run_is_ended(services, tmp_path):
    """Nobody knew of its process, and Prefect showed it as running for good."""
    environment = prefect_environment(services.home, services.prefect_api)
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(SHIPPED.parent), str(tmp_path)],
        env=child_environment(**environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with get_client(sync_client=True) as client:
        (died,) = [each for each in client.read_flow_runs() if each.name == "heart"]
        assert died.state.type.value == "RUNNING"
        assert len(end_dead(services.prefect_api)) == 1
        state = client.read_flow_run(died.id).state
        assert (state.type.value, "died" in state.message) == ("CRASHED", True)
        assert end_dead(services.prefect_api) == []
        client.delete_flow_run(died.id)


def test_another_process_that_has_got_the_number_since_then_is_not_the_flow_runs():
    assert _lives(os.getpid(), time.time())
    assert _lives(os.getpid(), math.inf)
    assert not _lives(os.getpid(), time.time() - 10**6)
    assert not _lives(dead_pid(), math.inf)


def test_the_next_run_gets_the_place_of_a_dead_one(services):
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("one-at-a-time")
        deployment = client.create_deployment(
            flow_id, "nightly", work_pool_name=names.POOL, concurrency_limit=1
        )
        first, second = (client.create_flow_run_from_deployment(deployment) for _ in range(2))
        assert client.set_flow_run_state(first.id, Pending()).status.value == "ACCEPT"
        client.set_flow_run_state(first.id, Running())
        dead = f"{socket.gethostname()}:{dead_pid()}"
        client.update_flow_run(first.id, infrastructure_pid=dead)
        assert client.set_flow_run_state(second.id, Pending()).status.value != "ACCEPT"
        assert end_dead(services.prefect_api) == [first.name]
        assert client.set_flow_run_state(second.id, Pending()).status.value == "ACCEPT"
        for each in (first, second):
            client.delete_flow_run(each.id)
        client.delete_deployment(deployment)


@pytest.mark.parametrize("known", ["nothing", "a number"])
def test_one_that_a_worker_took_and_never_started_is_ended(services, known):
    """Its worker was killed between the two: no worker takes one that is Pending.

    A worker tells Prefect the number of the process that it made, and no machine: only what runs
    in that process adds it. So of one that was killed there a number is known that lives nowhere,
    or, by now, is another's.
    """
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("never-started")
        deployment = client.create_deployment(flow_id, "nightly", work_pool_name=names.POOL)
        taken, waits = (client.create_flow_run_from_deployment(deployment) for _ in range(2))
        client.set_flow_run_state(taken.id, Pending(), force=True)
        if known == "a number":
            client.update_flow_run(taken.id, infrastructure_pid=str(os.getpid()))
        assert end_dead(services.prefect_api, now=time.time() + STARTED_WITHIN_S - 60) == []
        assert end_dead(services.prefect_api, now=time.time() + STARTED_WITHIN_S) == [taken.name]
        state = client.read_flow_run(taken.id).state
        assert state.is_crashed()
        assert "its worker died before it started it" in state.message
        assert client.read_flow_run(waits.id).state.is_scheduled()
        for each in (taken, waits):
            client.delete_flow_run(each.id)
        client.delete_deployment(deployment)
