"""Flow runs of this machine whose processes have died: ends them.

A killed worker leaves its flow run Running, or Pending, and a limit of one run at a time then holds
every later one up. Prefect knows the number of the process of a run that a process worker started,
and no machine beside it (3.7; others wrote both). Where all workers of the pool are the one that
`consilo up` starts, that is this machine, and whoever looks from it sees whether the process lives.
Whatever the machine: one that was taken five minutes ago and that has not begun was taken by a
worker that died before it started it, and no other one would begin it.

A flow run that a person has started says itself whose it is (`flows.beginning`).
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.registry import names
from flows.tending.servers import ask, end_died

_ALIVE = ["RUNNING", "PENDING", "CANCELLING"]
STARTED_WITHIN_S = 300.0
_CLOCKS_S = 10.0
"""By which Prefect's clock may be behind: a process that began later has the number of another."""


def end_dead(api: str, *, pool: str = names.POOL, now: float | None = None) -> list[str]:
    """End flow runs whose processes on this machine have died; return their names.

    They are those of the pool, and those that no deployment has started.

    Args:
        api: of the Prefect server.
        pool: the work pool.
        now: seconds since 1970; None looks at the clock.

    Raises:
        OSError: where the server does not answer.
    """
    alive = {"state": {"type": {"any_": _ALIVE}}}
    asked = {"flow_runs": alive, "work_pools": {"name": {"any_": [pool]}}}
    of_pool = ask(f"{api}/flow_runs/filter", asked)
    of_people = {"flow_runs": {**alive, "deployment_id": {"is_null_": True}}}
    alone = ask(f"{api}/flow_runs/filter", of_people)
    is_here = bool(of_pool) and _has_no_other_worker(api, pool)
    now = time.time() if now is None else now
    dead = [(each, _death(each, now, is_here=is_here)) for each in of_pool]
    dead += [(each, _death_alone(each)) for each in alone]
    ended = []
    for each, why in dead:
        if why:
            end_died(api, each, why)
            ended.append(str(each["name"]))
    return ended


def _has_no_other_worker(api: str, pool: str) -> bool:
    """Return whether a pool's flow runs are all started by the worker of this machine."""
    workers = ask(f"{api}/work_pools/{pool}/workers/filter", {})
    return {str(each["name"]) for each in workers} == {names.WORKER}


def _death(flow_run: Mapping[str, Any], now: float, *, is_here: bool) -> str:
    """Return how a flow run died; empty where it may live.

    Args:
        flow_run: as Prefect tells it.
        now: seconds since 1970.
        is_here: whether a process whose machine is not told is one of this machine.
    """
    host, pid, latest = _process(flow_run)
    is_here = host == socket.gethostname() or (not host and is_here)
    if is_here and pid.isdigit() and not _lives(int(pid), latest):
        return f"its process ({pid}) died, with its worker"
    since = datetime.fromisoformat(str(flow_run["state"]["timestamp"])).timestamp()
    if flow_run["state"]["type"] == "PENDING" and now - since >= STARTED_WITHIN_S:
        return f"its worker died before it started it: not begun for {now - since:.0f} s"
    return ""


def _death_alone(flow_run: Mapping[str, Any]) -> str:
    """Return how a flow run died that no deployment has started; empty where it may live."""
    host, pid, latest = _process(flow_run)
    if host == socket.gethostname() and pid.isdigit() and not _lives(int(pid), latest):
        return f"its process ({pid}) died"
    return ""


def _process(flow_run: Mapping[str, Any]) -> tuple[str, str, float]:
    """Return machine and number of a flow run's process, and when it began at the latest."""
    host, _, pid = str(flow_run["infrastructure_pid"] or "").rpartition(":")
    state = flow_run["state"]
    is_running = state["type"] == "RUNNING"
    since = datetime.fromisoformat(str(state["timestamp"])).timestamp() if is_running else math.inf
    return host, pid, since


def _lives(pid: int, latest: float) -> bool:
    """Return whether there is a process of this number that began before ``latest``."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        uptime = float(Path("/proc/uptime").read_bytes().split()[0])
    except OSError:
        return False
    fields = stat.rpartition(b")")[2].split()
    age = uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return fields[0] != b"Z" and time.time() - age < latest + _CLOCKS_S
