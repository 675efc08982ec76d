"""How each fault is played, and how it is undone again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from flows.rehearsal.faults import Fault, What
from flows.rehearsal.links import FAIR, Weather
from flows.rehearsal.standing import Standing

Undo = Callable[[], None]
"""Ends the cause of a fault."""

_SLOW_RUNS_S, _SLOW_RESTS_S = 0.05, 0.45
"""A slow silo computes a tenth of the time."""


class NotPossible(Exception):
    """This fault cannot be played here; the message says why."""


def nothing() -> None:
    """Undo nothing: the fault has no end of its own."""


def act(fault: Fault, there: Standing, silo: str) -> Undo:
    """Let a fault strike, and return what undoes it.

    Args:
        fault: which.
        there: the federation.
        silo: whom it strikes, where it strikes a silo.

    Raises:
        NotPossible: where it cannot be played here.
    """
    return _ACTS[fault.what](fault, there, silo)


def _kill(fault: Fault, there: Standing, silo: str) -> Undo:
    service = there.service(fault.part, silo)
    held = service.lasting and fault.lasts != 0
    there.kill(service, held=held)

    def again() -> None:
        there.start_again(service)

    return again if held else nothing


def _stop(fault: Fault, there: Standing, silo: str) -> Undo:
    service = there.service(fault.part, silo)
    stopped = service.pids()
    _signal(stopped, signal.SIGSTOP)
    return lambda: _signal([*stopped, *service.pids()], signal.SIGCONT)


def _slow(fault: Fault, there: Standing, silo: str) -> Undo:
    service, over = there.service("silo", silo), threading.Event()

    def work() -> None:
        while not over.wait(_SLOW_RUNS_S):
            pids = service.pids()
            _signal(pids, signal.SIGSTOP)
            over.wait(_SLOW_RESTS_S)
            _signal(pids, signal.SIGCONT)

    thread = threading.Thread(target=work, name="slow", daemon=True)
    thread.start()

    def undo() -> None:
        over.set()
        thread.join(5.0)
        _signal(service.pids(), signal.SIGCONT)

    return undo


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def _bad_line(fault: Fault, there: Standing, silo: str) -> Undo:
    way = there.links[silo]
    way.weather = {
        "cut": Weather(is_cut=True),
        "lose packets": Weather(loss=min(fault.amount or 0.2, 0.9)),
        "narrow": Weather(bytes_per_s=fault.amount or 32_000.0),
    }[fault.what]

    def undo() -> None:
        way.weather = FAIR

    return undo


def _wipe(fault: Fault, there: Standing, silo: str) -> Undo:
    """Delete a silo's cache, or the SuperLink's database while it is dead."""
    if fault.part == "silo":
        shutil.rmtree(there.rehearsed.silos[silo] / "cache", ignore_errors=True)
        return nothing
    service = there.service("superlink")
    there.kill(service, held=True)
    service.process.wait(10.0)
    for file in (there.home / "superlink").glob("superlink.db*"):
        file.unlink()
    there.start_again(service)
    return nothing


def _later(fault: Fault, there: Standing, silo: str) -> Undo:
    raise NotPossible(f"'{fault.what}' cannot be played yet")


def _flip(path: Path) -> None:
    """Turn one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


_ACTS: Mapping[What, Callable[[Fault, Standing, str], Undo]] = {
    "kill": _kill,
    "stop": _stop,
    "slow": _slow,
    "cut": _bad_line,
    "lose packets": _bad_line,
    "narrow": _bad_line,
    "wipe": _wipe,
    "fill disk": _later,
    "shift clock": _later,
    "poison": _later,
    "corrupt checkpoint": _later,
    "break contract": _later,
    "exhaust budget": _later,
    "start twice": _later,
    "release before": _later,
    "lose machine": _later,
}
