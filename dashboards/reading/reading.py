"""All that pages read, behind one object: records, members, services, Prefect, MLflow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consilo.errors import ConsiloError, CoordinatorUnreachable
from consilo.machine.processes import listens
from consilo.transports.flower.superlink import Presence, Registry
from dashboards.reading.asked import Asked, freshen
from dashboards.reading.decided import Decided
from dashboards.reading.records import Records
from dashboards.reading.silos import MemberList, SiloCard, cards
from dashboards.reading.tracked import Tracking
from flows.services.federation import Addresses
from flows.services.health import Part, look_at_services
from flows.tending.servers import NOT_FINAL, ask
from flows.tending.tender import TENDED

WAIT_S = 0.1
"""For so long a page waits for servers; what comes later is on it a second later."""
_PRESENCE_S = 1.0
_SERVICES_S = 5.0
_PREFECT_S = 2.0
_WORKERS = 8
_MOST_FLOW_RUNS = 200


@dataclass(frozen=True)
class Services:
    """What runs a federation.

    Args:
        parts: SuperLink, Prefect, MLflow, the worker.
        wrong: what is wrong with them, each with what to do.
    """

    parts: tuple[Part, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True)
class FlowRun:
    """A flow run of Prefect's that is not over."""

    id: str
    name: str
    state: str
    tags: tuple[str, ...]
    expected: str


class Reading:
    """Reads one coordinator's directory and the servers that it names; changes nothing.

    Args:
        home: the coordinator's directory.
        now: the clock.
    """

    def __init__(
        self, home: Path, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.home = home
        self.now = now
        self.records = Records(home)
        self.decided = Decided(home)
        self.members = MemberList(home)
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="reading")
        self._registry: tuple[Addresses, Registry] | None = None
        self._registry_lock = threading.Lock()
        self.presences: Asked[Mapping[str, Presence]] = Asked(
            self._presences, fresh_s=_PRESENCE_S, pool=self._pool
        )
        self.services: Asked[Services] = Asked(self._services, fresh_s=_SERVICES_S, pool=self._pool)
        self.flow_runs: Asked[tuple[FlowRun, ...]] = Asked(
            self._flow_runs, fresh_s=_PREFECT_S, pool=self._pool
        )
        self._warming: Future[Any] | None = None
        self.tracking = Tracking(lambda: self._at("tracking_uri"), self._pool)

    def warm(self) -> None:
        """Read every record in the background, so that the first page does not wait for it."""
        self._warming = self._pool.submit(self.records.briefs)
        self.freshen(wait_s=0)

    def is_ready(self) -> str:
        """Return what pages wait for yet; empty where they can be drawn."""
        if self._warming is None or not self._warming.done():
            return "the records of the runs are being read"
        if not (self.home / "members.db").is_file():
            return f"no list of members in {self.home}"
        return ""

    @property
    def addresses(self) -> Addresses | None:
        """Where the federation answers; None where none is up."""
        try:
            return Addresses.load(self.home)
        except ConsiloError:
            return None

    def freshen(self, *more: Asked[Any], wait_s: float = WAIT_S) -> None:
        """Ask the servers for what is old, and wait a moment for it."""
        freshen([self.presences, self.services, self.flow_runs, *more], wait_s=wait_s)

    def silos(self) -> list[SiloCard]:
        """Return how every silo stands."""
        told = self.presences.told
        return cards(
            self.members.all(),
            None if told.error or not told.is_known else told.value,
            self.records.briefs(),
            self.members.calendar(),
            self.now(),
        )

    def tended_at(self) -> float:
        """Return when ``consilo up`` looked last, in seconds since 1970; 0 where it never did."""
        try:
            return (self.home / TENDED).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def close(self) -> None:
        """Let go of files and servers."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.members.close()
        with self._registry_lock:
            if self._registry is not None:
                self._registry[1].close()
                self._registry = None

    def _at(self, name: str) -> str:
        found = self.addresses
        return "" if found is None else str(getattr(found, name))

    def _required(self) -> Addresses:
        found = self.addresses
        if found is None:
            raise CoordinatorUnreachable(
                f"no federation is up; start it: consilo up --dir {self.home}"
            )
        return found

    def _presences(self) -> Mapping[str, Presence]:
        addresses = self._required()
        host, _, port = addresses.superlink.rpartition(":")
        if not listens(int(port), host):
            raise CoordinatorUnreachable(f"the SuperLink does not answer at {addresses.superlink}")
        with self._registry_lock:
            if self._registry is None or self._registry[0] != addresses:
                if self._registry is not None:
                    self._registry[1].close()
                link = Registry(addresses.superlink, Path(addresses.ca_certificate))
                self._registry = (addresses, link)
            return self._registry[1].presences()

    def _services(self) -> Services:
        addresses = self._required()
        host, _, port = addresses.superlink.rpartition(":")
        parts, _, wrong = look_at_services(
            self.home, addresses, listens(int(port), host), self.now()
        )
        return Services(parts, wrong)

    def _flow_runs(self) -> tuple[FlowRun, ...]:
        api = self._required().prefect_api
        asked = {
            "flow_runs": {"state": {"type": {"any_": list(NOT_FINAL)}}},
            "sort": "EXPECTED_START_TIME_DESC",
            "limit": _MOST_FLOW_RUNS,
        }
        return tuple(
            FlowRun(
                str(each["id"]),
                str(each["name"]),
                str((each.get("state") or {}).get("name", "")),
                tuple(each.get("tags") or ()),
                str(each.get("expected_start_time") or ""),
            )
            for each in ask(f"{api}/flow_runs/filter", asked)
        )
