"""Flow runs that a worker of this machine started, and whose processes have died: ends them.

A killed worker leaves its flow run Running, and a limit of one run at a time then cancels every
later one. Prefect knows the process of a run that a process worker started; whoever looks from the
same machine sees whether it lives. One that a worker took five minutes ago, and that has no process
yet, was taken by a worker that died before it started it: no other worker would.
"""

from __future__ import annotations

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


def end_dead(api: str, *, pool: str = names.POOL, now: float | None = None) -> list[str]:
    """End the pool's flow runs whose processes on this machine have died; return their names.

    Args:
        api: of the Prefect server.
        pool: the work pool.
        now: seconds since 1970; None looks at the clock.

    Raises:
        OSError: where the server does not answer.
    """
    asked = {
        "flow_runs": {"state": {"type": {"any_": _ALIVE}}},
        "work_pools": {"name": {"any_": [pool]}},
    }
    ended = []
    for each in ask(f"{api}/flow_runs/filter", asked):
        if why := _death(each, time.time() if now is None else now):
            end_died(api, each, why)
            ended.append(str(each["name"]))
    return ended


def _death(flow_run: Mapping[str, Any], now: float) -> str:
    """Return how a flow run died; empty where it may live."""
    host, _, pid = str(flow_run["infrastructure_pid"] or "").rpartition(":")
    if pid:
        is_dead = host == socket.gethostname() and pid.isdigit() and not _lives(int(pid))
        return f"its process ({pid}) died, with its worker" if is_dead else ""
    state = flow_run["state"]
    taken_s = now - datetime.fromisoformat(str(state["timestamp"])).timestamp()
    if state["type"] != "PENDING" or taken_s < STARTED_WITHIN_S:
        return ""
    return f"its worker died before it started it: no process for {taken_s:.0f} s"


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] != b"Z"
