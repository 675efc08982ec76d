"""Looks after a federation that is up: starts again what ended, and says what is wrong, once.

Whoever waits calls `Watch.look` again and again: ``consilo up`` until Ctrl-C, a run with its own
federation until it has ended.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from consilo.errors import ServiceFailed
from consilo.machine.processes import Service, Supervisor, listens
from flows.services.federation import Addresses
from flows.services.place import Say
from flows.services.prefect_log import faults
from flows.services.services import prefect_log

EVERY_S = 0.5
"""How often to look."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
"""Before a part is started again; each pause is twice the one before."""
STEADY_S = 60.0
"""A part that has lived so long is counted as whole: its next end is its first."""

_ABSENCE_EVERY_S = 1.0
_LOG_EVERY_S = 5.0
_NOW_AND_THEN_S = 15.0
_TAIL_BYTES = 256 << 10


@dataclass
class _Trouble:
    """What became of a part that ended.

    Args:
        ended: when it ended first, since it was whole.
        times: how often it was started again since.
        again_at: when it is started again; None while it runs.
        is_told: the last thing to say of it has been said.
    """

    ended: float
    times: int = 0
    again_at: float | None = None
    started: float = 0.0
    is_told: bool = False


class Watch:
    """Starts lasting services again that ended, on the same ports, and tells a person.

    Between two tries the pause grows up to a minute; it never gives up, and says that it goes on.

    Args:
        home: the coordinator's directory.
        supervisor: of what was started there.
        say: told what happens.
        now_and_then: also done, every quarter of a minute.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        home: Path,
        supervisor: Supervisor,
        say: Say,
        *,
        now_and_then: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._supervisor = supervisor
        self._say = say
        self._clock = clock
        self._troubles: dict[str, _Trouble] = {}
        self._told: set[tuple[str, str]] = set()
        self._log_at = clock()
        self._now_and_then = now_and_then
        self._then_at = clock()

    def look(self) -> None:
        """Start again what has ended, as far as its pause is over; say what is new."""
        for service in self._supervisor.services:
            if service.lasting:
                self._look_after(service)
        if self._clock() >= self._log_at:
            self._log_at = self._clock() + _LOG_EVERY_S
            self._look_into_log()
        if self._clock() >= self._then_at:
            self._then_at = self._clock() + _NOW_AND_THEN_S
            self._now_and_then()

    def _look_after(self, service: Service) -> None:
        code, now = service.returncode, self._clock()
        trouble = self._troubles.get(service.name)
        if code is None:
            if trouble is not None:
                self._see_whole(service, trouble, now)
        elif code in service.for_good:
            if self._is_new(service.name, "for good"):
                self._say(f"{service.name} ended for good: {service.ending}; log: {service.log}")
        elif trouble is None or trouble.again_at is None:
            self._tell_end(service, trouble or _Trouble(now), now)
        elif now >= trouble.again_at:
            self._start_again(service, trouble, now)

    def _tell_end(self, service: Service, trouble: _Trouble, now: float) -> None:
        pause_s = min(FIRST_PAUSE_S * 2**trouble.times, LONGEST_PAUSE_S)
        trouble.again_at, trouble.is_told = now + pause_s, False
        self._troubles[service.name] = trouble
        times = trouble.times + 1
        often = f" {times} times in {now - trouble.ended:.0f} s" if trouble.times else ""
        self._say(
            f"{service.name} ended{often}: {service.ending}; it is started again in {pause_s:g} s; "
            f"log: {service.log}"
        )

    def _start_again(self, service: Service, trouble: _Trouble, now: float) -> None:
        trouble.times += 1
        try:
            self._supervisor.restart(service)
        except ServiceFailed as cause:
            pause_s = min(FIRST_PAUSE_S * 2**trouble.times, LONGEST_PAUSE_S)
            trouble.again_at = now + pause_s
            self._say(f"{cause}; tried again in {pause_s:g} s, and on until it can")
        else:
            trouble.again_at, trouble.started = None, now

    def _see_whole(self, service: Service, trouble: _Trouble, now: float) -> None:
        if not trouble.is_told and (service.address is None or _answers(service)):
            trouble.is_told = True
            self._say(f"{service.name} is up again, {now - trouble.ended:.1f} s after it ended")
        if trouble.is_told and now - trouble.started >= STEADY_S:
            del self._troubles[service.name]

    def _look_into_log(self) -> None:
        for fault in faults(prefect_log(self._home), tail_bytes=_TAIL_BYTES):
            if self._is_new(fault.service, fault.what):
                self._say(
                    f"Prefect fails in {fault.service}: {fault.what}; what it schedules may not "
                    f"run; 'consilo status --dir {self._home}' says how often and what to do"
                )

    def _is_new(self, who: str, what: str) -> bool:
        new = (who, what) not in self._told
        self._told.add((who, what))
        return new


class Absence:
    """Tells a person who waits for a run that its SuperLink is away, and that it is back.

    Args:
        home: the coordinator's directory; another process looks after what is up there.
        say: told what happens.
        clock: seconds that only grow.
    """

    def __init__(
        self, home: Path, say: Say, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._address = Addresses.load(home).superlink
        self._home = home
        self._say = say
        self._clock = clock
        self._away_since: float | None = None
        self._looked_at = clock()

    def look(self) -> None:
        """Say what is new since the last look; at most one a second goes out."""
        now = self._clock()
        if now < self._looked_at + _ABSENCE_EVERY_S:
            return
        self._looked_at = now
        host, _, port = self._address.rpartition(":")
        if listens(int(port), host):
            if self._away_since is not None:
                self._say(f"the SuperLink is back after {now - self._away_since:.0f} s")
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
            self._say(
                f"nobody answers at {self._address}, the SuperLink: the run waits for it; is "
                f"'consilo up --dir {self._home}' still running?"
            )


def _answers(service: Service) -> bool:
    host, port = service.address or ("", 0)
    return listens(port, host)
