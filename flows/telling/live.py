"""What a run is at in this moment: ``runs/RUN/live.json``, for who looks at its page.

The record has what is done; this has what is under way: the part, the round, who has answered in it
and who is at work. It is written once a second at most, when something is new, and taken away at
the end. Nothing rests on it: a full disk, or a torn file, costs a page a line.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from consilo.runs.stages import Stages

FILE = "live.json"
EVERY_S = 0.5


@contextmanager
def showing(
    run: Stages, *, every_s: float = EVERY_S, now: Callable[[], float] = time.time
) -> Iterator[None]:
    """Write down what a run is at while the block goes.

    Args:
        run: which; it is only looked at.
        every_s: how often.
        now: seconds since 1970.
    """
    file, over = run.directory / FILE, threading.Event()

    def go_on() -> None:
        look = Look(run, now)
        written = ""
        while not over.wait(every_s):
            told = json.dumps(look.told())
            if told != written:
                with contextlib.suppress(OSError):
                    _write(file, told)
                    written = told

    thread = threading.Thread(target=go_on, name="live", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


class Look:
    """Looks at a run again and again, and knows since when it is at what.

    Args:
        run: which.
        now: seconds since 1970.
    """

    def __init__(self, run: Stages, now: Callable[[], float]) -> None:
        self._run = run
        self._now = now
        self._at: tuple[str, int] = ("", 0)
        self._since = now()
        self._seen = 0

    def told(self) -> dict[str, Any]:
        """Return what the run is at, as plain JSON values: names, counts and times."""
        run = self._run
        stage, done, number = run.at_stage, len(run.exchanges), len(run.rounds) + 1
        at = (stage, number if stage == "train" else 0)
        if at != self._at:
            self._at, self._since = at, self._now()
            self._seen = _first_of(run, at[1], done) if at[1] else done
        silos: dict[str, dict[str, Any]] = {name: {"state": "at work"} for name in run.cohort}
        moved = 0
        for each in run.exchanges[self._seen : done]:
            moved += each.bytes_down + each.bytes_up
            state = "answered" if each.fault is None else each.fault.code
            silos[each.silo] = {"state": state, "verb": each.verb, "seconds": each.seconds}
        return {
            "stage": stage,
            "round": at[1],
            "since": round(self._since, 1),
            "silos": silos if stage else {},
            "bytes": moved,
        }


def _first_of(run: Stages, number: int, done: int) -> int:
    """Return the place of the first exchange of a round."""
    first = done
    while first and run.exchanges[first - 1].round == number:
        first -= 1
    return first


def _write(file: Path, told: str) -> None:
    part = file.with_suffix(".part")
    handle = os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as opened:
        opened.write(told)
    os.replace(part, file)
