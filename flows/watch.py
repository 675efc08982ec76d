"""Looks after a federation that is up: says once what fails, while 'consilo up' waits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from consilo.processes import Service
from flows.federation import Say
from flows.prefect_log import faults
from flows.services import prefect_log

EVERY_S = 5.0
"""How often to look."""

_TAIL_BYTES = 256 << 10


class Watch:
    """Tells a person of each error of Prefect's services, and of each service that ends, once.

    Args:
        home: the coordinator's directory.
        services: what was started there.
        say: told what is wrong.
    """

    def __init__(self, home: Path, services: Sequence[Service], say: Say) -> None:
        self._home = home
        self._services = services
        self._say = say
        self._told: set[tuple[str, str]] = set()

    def look(self) -> None:
        """Say what is new since the last look."""
        for service in self._services:
            code = service.returncode
            if code is not None and self._new(service.name, "ended"):
                self._say(f"{service.name} ended with exit code {code}; log: {service.log}")
        for fault in faults(prefect_log(self._home), tail_bytes=_TAIL_BYTES):
            if self._new(fault.service, fault.what):
                self._say(
                    f"Prefect fails in {fault.service}: {fault.what}; what it schedules may not "
                    f"run; 'consilo status --dir {self._home}' says how often and what to do"
                )

    def _new(self, who: str, what: str) -> bool:
        new = (who, what) not in self._told
        self._told.add((who, what))
        return new
