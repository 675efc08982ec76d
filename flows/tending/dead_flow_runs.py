"""Flow runs that a worker of this machine started, and whose processes have died: ends them.

A killed worker leaves its flow run Running, and a limit of one run at a time then cancels every
later one. Prefect knows the process of a run that a process worker started; whoever looks from the
same machine sees whether it lives.
"""

from __future__ import annotations

import socket
from pathlib import Path

from flows.registry import names
from flows.tending.servers import ask, end_died

_ALIVE = ["RUNNING", "PENDING", "CANCELLING"]


def end_dead(api: str, *, pool: str = names.POOL) -> list[str]:
    """End the pool's flow runs whose processes on this machine have died; return their names.

    Args:
        api: of the Prefect server.
        pool: the work pool.

    Raises:
        OSError: where the server does not answer.
    """
    asked = {
        "flow_runs": {"state": {"type": {"any_": _ALIVE}}},
        "work_pools": {"name": {"any_": [pool]}},
    }
    ended = []
    for each in ask(f"{api}/flow_runs/filter", asked):
        host, _, pid = str(each["infrastructure_pid"] or "").rpartition(":")
        if host != socket.gethostname() or not pid.isdigit() or _lives(int(pid)):
            continue
        end_died(api, each, f"its process ({pid}) died, with its worker")
        ended.append(str(each["name"]))
    return ended


def _lives(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].split()[0] != b"Z"
