"""How long a coordinator keeps what nothing rests on, and how large its logs grow.

Kept for good: the record of each run, members, keys, audit log, and all that MLflow holds, which is
what a decision or a registered model rests on. The rest has a bound: checkpoints of runs that have
ended and logs and results of pipelines lapse by age, a log of a service is turned over by size.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from consilo.machine.files import remove, write_atomic
from consilo.membership.coordinator import Keep
from consilo.runs.checkpoint import CHECKPOINT
from flows.tending.reconcile import runs_in

MOST_LOG_BYTES = 16 << 20
"""A log that is larger is turned over: what it holds goes to ``NAME.1``."""
_DAY_S = 86_400.0


def let_lapse(home: Path, keep: Keep, *, now: float) -> list[Path]:
    """Delete what is older than it is kept; return what that was.

    Args:
        home: the coordinator's directory.
        keep: for how many days.
        now: seconds since 1970.
    """
    gone = [
        path
        for path, days in _lapsing(home, keep)
        if path.exists() and now - path.stat().st_mtime > days * _DAY_S
    ]
    for path in gone:
        remove(path)
    return gone


def _lapsing(home: Path, keep: Keep) -> Iterator[tuple[Path, int]]:
    for run in runs_in(home):
        if run.kind == "closed" and not run.is_owned:
            yield home / "runs" / run.name / CHECKPOINT, keep.checkpoints_days
    for path in (home / "logs").glob("pipeline-*.log"):
        yield path, keep.logs_days
    for path in (home / "results").glob("*.json"):
        yield path, keep.results_days


def turn_over(logs: Iterable[Path], *, most_bytes: int = MOST_LOG_BYTES) -> list[Path]:
    """Empty logs that have grown too large, which a process goes on writing to; return which.

    What a log held is beside it, as ``NAME.1``. The process has it open for appending, so that it
    goes on at the beginning; lines that it writes in the moment between are lost.
    """
    turned = []
    for log in logs:
        if log.is_file() and log.stat().st_size > most_bytes:
            write_atomic(log.with_name(f"{log.name}.1"), log.read_bytes())
            os.truncate(log, 0)
            turned.append(log)
    return turned
