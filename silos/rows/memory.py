"""How much memory this process may still take: the least of what the machine and its limits say."""

from __future__ import annotations

import os
import resource
from pathlib import Path

LIMIT_MIB = "CONSILO_MEMORY_LIMIT_MIB"
"""Environment variable by which the node tells a message's process what it may add."""
_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Return the bytes that this process can still take without being refused, or swapped out."""
    import psutil

    left = [int(psutil.virtual_memory().available)]
    if given := os.environ.get(LIMIT_MIB):
        left.append(int(given) << 20)
    used = _status()
    for limit, key in ((resource.RLIMIT_DATA, "VmData"), (resource.RLIMIT_AS, "VmSize")):
        soft, _ = resource.getrlimit(limit)
        if soft != resource.RLIM_INFINITY:
            left.append(soft - used.get(key, 0))
    most, now = _number(_CGROUP / "memory.max"), _number(_CGROUP / "memory.current")
    if most is not None and now is not None:
        left.append(most - now)
    return max(0, min(left))


def _status() -> dict[str, int]:
    lines = Path("/proc/self/status").read_text().splitlines()
    fields = (line.split() for line in lines if line.startswith("Vm"))
    return {each[0].rstrip(":"): int(each[1]) * 1024 for each in fields}


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such group, or "max"
        return None
