"""How long each silo's answers took, by kind of step, kept over runs: deadlines are learnt from it.

A disposable file: without it deadlines are wide again until they are learnt. It tells of times
only, and nothing of a row.
"""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path
from typing import Any

from consilo.jobs.job import Job
from consilo.machine.files import write_atomic
from consilo.machine.locks import file_lock
from consilo.wire.payload import digest

FILE = "pace.json"
_MOST_TIMES = 64
_MOST_KINDS = 4096


class Pace:
    """Seconds from sending to arrival, by silo and kind of step; the newest 64 of each.

    Args:
        path: the file; None keeps nothing over runs. Runs may share it at the same time.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._times: dict[str, list[float]] = {} if path is None else _read(path)
        self._new: dict[str, list[float]] = {}

    def times(self, kind: str) -> tuple[float, ...]:
        """Return how long answers of a kind took, the newest last."""
        return tuple(self._times.get(kind, ()))

    def note(self, kind: str, seconds: float) -> None:
        """Count one valid answer."""
        for kept in (self._times, self._new):
            kept[kind] = [*kept.get(kind, ()), round(seconds, 6)][-_MOST_TIMES:]

    def save(self) -> None:
        """Add to the file what came since the last time; the kinds longest unused go."""
        new, self._new = self._new, {}
        if self._path is None or not new:
            return
        # A full disk ends no run for it: what is not kept is learnt again.
        with contextlib.suppress(OSError), file_lock(self._path.with_suffix(".lock")):
            kept = _read(self._path)
            for kind, times in new.items():
                kept[kind] = [*kept.pop(kind, ()), *times][-_MOST_TIMES:]
            newest = dict(list(kept.items())[-_MOST_KINDS:])
            write_atomic(self._path, json.dumps(newest).encode())


def kind_of(job: Job) -> str:
    """Return what jobs have in common that take a silo equally long: all but their length.

    Twenty rounds of a job and two hundred, tonight's run and tomorrow's, are of one kind.
    """
    said = job.to_json()
    for key in ("name", "description", "seed", "quorum", "exclude"):
        said.pop(key, None)
    if isinstance(said.get("protocol"), dict):
        said["protocol"] = {k: v for k, v in said["protocol"].items() if k != "rounds"}
    return digest(said)[:16]


def _read(path: Path) -> dict[str, list[float]]:
    """Return what the file holds that can be used; times that are none are not learnt from."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    kinds = found.items() if isinstance(found, dict) else ()
    return {str(kind): times for kind, each in kinds if (times := _usable(each))}


def _usable(times: Any) -> list[float]:
    if not isinstance(times, list):
        return []
    found = [float(each) for each in times if isinstance(each, int | float)]
    return [each for each in found if math.isfinite(each) and each >= 0][-_MOST_TIMES:]
