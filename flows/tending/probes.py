"""Notices a part that lives and does nothing: it was stopped, or answers nobody; and ends it.

Whoever watches (`flows.services.watch`) starts it again, as one that died.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consilo.machine.processes import Service
from flows.services.place import Say

STOPPED_S = 15.0
"""A process that stands at a signal for so long is ended."""
SILENT_S = 90.0
"""So is one that answered before, and has not for so long: a loaded machine may take a minute."""


@dataclass
class _Silence:
    """A part that does nothing.

    Args:
        since: when it was noticed.
        process: whose number it is: one that was started again is another one.
    """

    since: float
    process: int


class Probes:
    """Looks whether parts do their work.

    Args:
        say: told what is found.
        clock: seconds that only grow.
    """

    def __init__(self, say: Say, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._silent: dict[str, _Silence] = {}
        self._answered: set[int] = set()

    def look(self, services: Sequence[Service]) -> None:
        """Ask each lasting service; say what is new, and end what has been silent for too long."""
        for service in services:
            if service.lasting and service.returncode is None:
                self._look_at(service)

    def _look_at(self, service: Service) -> None:
        why, most_s = self._trouble(service)
        known = self._silent.get(service.name)
        if not why:
            if known is not None and known.process == service.pid:
                self._say(f"{service.name} does its work again")
            self._silent.pop(service.name, None)
            return
        now = self._clock()
        if known is None or known.process != service.pid:
            self._silent[service.name] = _Silence(now, service.pid)
            self._say(f"{service.name} {why}; if it goes on for {most_s:.0f} s it is started again")
        elif now - known.since >= most_s:
            self._say(f"{service.name} {why} for {now - known.since:.0f} s: it is ended")
            del self._silent[service.name]
            service.kill()

    def _trouble(self, service: Service) -> tuple[str, float]:
        """Return what is the matter, and for how long it may be; empty where nothing is."""
        if service.is_stopped():
            return "stands still, stopped by a signal", STOPPED_S
        if service.answers is None:
            return "", 0.0
        try:
            answers = service.answers()
        except OSError:
            answers = False
        if answers:
            self._answered.add(service.pid)
            return "", 0.0
        # One that has never answered is on its way up.
        return ("does not answer", SILENT_S) if service.pid in self._answered else ("", 0.0)
