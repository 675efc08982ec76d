"""What processes cost: CPU and memory of whole process trees, read from /proc."""

from __future__ import annotations

import os
from collections.abc import Iterable

from consilo.machine.reaper import descendants

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return the CPU-seconds of the trees below ``roots``, roots and ended children included.

    A process's own figure counts while it lives or waits to be collected; then its parent's
    figure for collected children holds it. So nothing counts twice, and the sum never shrinks
    while the roots live.
    """
    total = 0
    for root in roots:
        for pid in (root, *descendants(root)):
            try:
                with open(f"/proc/{pid}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            total += sum(int(each) for each in fields[11:15])
    return total / _TICKS


def reset_peak() -> int:
    """Let this process's peak memory start anew; return what it holds now, in bytes."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return resident_bytes()


def resident_bytes() -> int:
    """Return what this process holds in memory."""
    return _status("VmRSS")


def peak_bytes() -> int:
    """Return the most that this process has held since `reset_peak`."""
    return _status("VmHWM")


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")
