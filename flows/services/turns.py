"""Runs that people start take turns: so many at once, so many waiting, in the order of asking.

Each has a ticket in ``HOME/turns``, a file that its process has locked: the kernel lets go of it
when the process ends, however, so that nobody waits for the dead. Runs of deployments take turns
by Prefect's work pool.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from consilo.errors import ServiceFailed
from consilo.machine.files import make_directory
from consilo.machine.leases import is_held
from consilo.machine.locks import file_lock
from consilo.membership.coordinator import Queue, Reachable
from flows.services.place import Say

TURNS = "turns"
_LOOK_S = 0.5
_TOLD_EVERY_S = 30.0


def tickets(home: Path) -> list[Path]:
    """Return the tickets of runs that go on or wait in ``home``, the first one first."""
    found = (each for each in (home / TURNS).glob("*.ticket") if each.stem.isdigit())
    return sorted((each for each in found if is_held(each)), key=lambda each: int(each.stem))


def queue_of(home: Path) -> Queue:
    """Return how many runs the coordinator in ``home`` takes."""
    place = Reachable.load(home)
    return Queue() if place is None else place.queue


@contextmanager
def turn(
    home: Path,
    say: Say,
    *,
    look: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[None]:
    """Wait until it is our turn, and have it for the block.

    Args:
        home: the coordinator's directory.
        say: told how many are before us, now and then.
        look: called twice a second while we wait.
        clock: seconds that only grow.

    Raises:
        ServiceFailed: where as many wait as may.
    """
    queue = queue_of(home)
    with _ticket(home, queue) as ours:
        told_at, told = 0.0, -1
        while (before := _before(home, ours)) >= queue.at_once:
            if before != told and (told < 0 or clock() - told_at >= _TOLD_EVERY_S):
                told_at, told = clock(), before
                say(f"waits for its turn: {before} runs are before it, {queue.at_once} go at once")
            look()
            time.sleep(_LOOK_S)
        if told >= 0:
            say("it is its turn")
        yield


def _before(home: Path, ours: Path) -> int:
    return sum(int(each.stem) < int(ours.stem) for each in tickets(home))


@contextmanager
def _ticket(home: Path, queue: Queue) -> Iterator[Path]:
    """Hold the next number for the block."""
    folder = home / TURNS
    make_directory(folder, mode=0o700)
    with file_lock(folder / "turns.lock"):
        held = tickets(home)
        if len(held) >= queue.at_once + queue.waiting:
            raise ServiceFailed(_full(home, queue, held))
        for each in set(folder.glob("*.ticket")) - set(held):
            each.unlink(missing_ok=True)
        ours = folder / f"{int(held[-1].stem) + 1 if held else 1}.ticket"
        file = os.open(ours, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)  # whoever looks at it lets go at once
    try:
        yield ours
    finally:
        with contextlib.suppress(FileNotFoundError):
            ours.unlink()
        os.close(file)


def _full(home: Path, queue: Queue, held: list[Path]) -> str:
    first = datetime.fromtimestamp(held[0].stat().st_mtime, UTC).isoformat(timespec="seconds")
    return (
        f"the queue is full: {len(held)} runs go on or wait in {home}, the first since {first}; "
        f"{queue.at_once} go at once and {queue.waiting} may wait ('queue' in coordinator.yaml); "
        "ask again when some have ended, which 'consilo status' shows"
    )
