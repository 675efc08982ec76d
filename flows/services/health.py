"""What is up of the federation in a coordinator's directory, and what is wrong with it.

Everything is asked from outside, as another program would: whether it answers, and what it says.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.errors import CoordinatorUnreachable, TransportError
from consilo.machine.processes import listens
from consilo.membership.coordinator import Coordinator
from consilo.membership.members import Member
from flows.registry import names
from flows.services.federation import Addresses
from flows.services.prefect_log import Fault, faults
from flows.services.services import prefect_log

if TYPE_CHECKING:
    from consilo.transports.flower.superlink import Presence

_ANSWERS_WITHIN_S = 10.0
_PLANNED_WITHIN = timedelta(minutes=2)
"""Prefect's scheduler looks at every deployment once a minute."""


@dataclass(frozen=True)
class Part:
    """A service or a silo.

    Args:
        kind: ``service`` or ``silo``.
        name: its own.
        state: ``up``, ``down`` or ``none``; of a silo ``online``, ``offline`` or why it is not
            asked.
        detail: where it answers, when it was seen last.
    """

    kind: str
    name: str
    state: str
    detail: str


@dataclass(frozen=True)
class Health:
    """A federation as it is found.

    Args:
        parts: services, then silos.
        faults: errors of Prefect's own services since it started.
        wrong: what is wrong now, each with what to do; empty where all is well.
    """

    parts: tuple[Part, ...]
    faults: tuple[Fault, ...]
    wrong: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        services = [asdict(each) for each in self.parts if each.kind == "service"]
        silos = [asdict(each) for each in self.parts if each.kind == "silo"]
        for each in (*services, *silos):
            del each["kind"]
        log = [{**asdict(each), "last": each.last.isoformat()} for each in self.faults]
        return {
            "healthy": not self.wrong,
            "wrong": list(self.wrong),
            "services": services,
            "silos": silos,
            "prefect_errors": log,
        }


def look(home: Path, now: datetime) -> Health:
    """Return what is up in ``home``.

    Raises:
        CoordinatorUnreachable: where none is up, and the directory is no coordinator's.
    """
    try:
        addresses = Addresses.load(home)
    except CoordinatorUnreachable as cause:
        if not (home / "members.db").is_file():
            raise
        parts = [Part("service", name, "down", "") for name in ("SuperLink", "Prefect", "MLflow")]
        silos, _ = _silos(home, {}, now)
        return Health((*parts, *silos), (), (str(cause),))
    online = presences(addresses)
    services, errors, wrong = look_at_services(home, addresses, online is not None, now)
    silos, missing = _silos(home, online or {}, now)
    return Health((*services, *silos), errors, (*wrong, *missing))


def look_at_services(
    home: Path, addresses: Addresses, is_linked: bool, now: datetime
) -> tuple[tuple[Part, ...], tuple[Fault, ...], tuple[str, ...]]:
    """Return the services, errors of Prefect's own, and what is wrong with either.

    Args:
        home: the coordinator's directory.
        addresses: where everything answers.
        is_linked: whether the SuperLink answers, as `presences` found.
        now: the time.
    """
    wrong: list[str] = []
    services = [
        _service("Prefect", addresses.prefect_ui, _answers(f"{addresses.prefect_api}/health")),
        _service("MLflow", addresses.tracking_uri, _answers(f"{addresses.tracking_uri}/health")),
    ]
    services.insert(0, _service("SuperLink", addresses.superlink, is_linked))
    again = f"look into {home / 'logs'}, then stop 'consilo up' and start it again"
    wrong += [f"{each.name} does not answer: {again}" for each in services if each.state == "down"]
    if services[1].state == "up":
        try:
            worker, planned = _worker(addresses.prefect_api, home, now)
        except OSError as error:
            worker = Part("service", "worker", "unknown", str(error))
            planned = [f"Prefect does not say what is scheduled ({error}): {again}"]
        services.append(worker)
        wrong += planned
    errors = faults(prefect_log(home))
    wrong += [_advice(each, home) for each in errors if each.lasts(now)]
    return tuple(services), errors, tuple(wrong)


def _service(name: str, address: str, up: bool) -> Part:
    return Part("service", name, "up" if up else "down", address)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=_ANSWERS_WITHIN_S) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def presences(addresses: Addresses) -> Mapping[str, Presence] | None:
    """Return silo → whether it is connected, and since when; None where no SuperLink answers."""
    from consilo.transports.flower.superlink import Registry

    host, _, port = addresses.superlink.rpartition(":")
    if not listens(int(port), host):
        return None
    try:
        with Registry(addresses.superlink, Path(addresses.ca_certificate)) as registry:
            return registry.presences()
    except TransportError:
        return None


def _worker(api: str, home: Path, now: datetime) -> tuple[Part, list[str]]:
    """Return the worker, and what is wrong with what is scheduled for it."""
    workers = _ask(f"{api}/work_pools/{names.POOL}/workers/filter", {})
    online = [each["name"] for each in workers if each["status"] == "ONLINE"]
    scheduled, unplanned, first = _scheduled(api, now)
    waiting = _ask(
        f"{api}/flow_runs/count",
        {
            "flow_runs": {"state": {"name": {"any_": ["Late"]}}},
            "work_pools": {"name": {"any_": [names.POOL]}},
        },
    )
    told = [f"{len(scheduled)} on a schedule" if scheduled else "nothing on a schedule"]
    told += [f"next run {first}"] if first else []
    told += [f"{waiting} late"] if waiting else []
    part = Part("service", "worker", "up" if online else "none", ", ".join(told))
    wrong = [
        f"the scheduler plans no run of {name}, which has a schedule: see Prefect's errors in "
        f"{prefect_log(home)}"
        for name in unplanned
    ]
    if (scheduled or waiting) and not online:
        what = f"{', '.join(scheduled)} on a schedule" if scheduled else f"{waiting} late runs"
        wrong.append(
            f"nobody runs what Prefect starts ({what}): no worker of the pool '{names.POOL}' is "
            f"online; start 'consilo up --dir {home} --worker', or 'prefect worker start --pool "
            f"{names.POOL}' with {names.HOME_VARIABLE}={home}"
        )
    return part, wrong


def _scheduled(api: str, now: datetime) -> tuple[list[str], list[str], str]:
    """Return the deployments that have a schedule, those without a planned run, and the next."""
    scheduled, unplanned, times = [], [], []
    for each in _ask(f"{api}/deployments/filter", {}):
        if each["paused"] or not any(one["active"] for one in each["schedules"]):
            continue
        scheduled.append(each["name"])
        asked = {
            "deployments": {"id": {"any_": [each["id"]]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "sort": "NEXT_SCHEDULED_START_TIME_ASC",
            "limit": 1,
        }
        planned = _ask(f"{api}/flow_runs/filter", asked)
        if planned:
            times.append(str(planned[0]["next_scheduled_start_time"]))
        elif now - datetime.fromisoformat(each["updated"]) > _PLANNED_WITHIN:
            unplanned.append(each["name"])
    first = datetime.fromisoformat(min(times)) if times else None
    return scheduled, unplanned, f"{first.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if first else ""


def _ask(url: str, body: Mapping[str, Any]) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=_ANSWERS_WITHIN_S) as answer:
        return json.load(answer)


def _advice(fault: Fault, home: Path) -> str:
    return (
        f"Prefect fails in {fault}; what it schedules may not run: its traceback is in "
        f"{prefect_log(home)}, and 'pip check' and requirements.lock tell whether the versions "
        "are the tested ones"
    )


def _silos(
    home: Path, online: Mapping[str, Presence], now: datetime
) -> tuple[Sequence[Part], Sequence[str]]:
    with Coordinator(home) as coordinator:
        members = coordinator.members.all()
    parts: list[Part] = []
    wrong: list[str] = []
    for name, member in sorted(members.items()):
        if member.state == "removed":
            continue
        here = online.get(name)
        is_online = here is not None and here.state == "online"
        state = member.standing(now) or ("online" if is_online else "offline")
        told = f"{here.state} since {here.since}, " if here is not None and here.since else ""
        parts.append(Part("silo", name, state, f"{told}last seen {member.last_seen or 'never'}"))
        wrong += _of_silo(member, state, home)
    return parts, wrong


def _of_silo(member: Member, state: str, home: Path) -> Sequence[str]:
    name = member.name
    if state == "offline":
        return (f"silo {name} is offline: its operator starts it with 'consilo silo join'",)
    if state == "certificate expired":
        return (f"silo {name}: {state}; give it one: 'consilo silos renew {name} --dir {home}'",)
    return ()
