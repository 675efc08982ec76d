"""How a coordinator's directory stands, whether or not it is up: its runs, and what nobody owns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consilo.errors import CoordinatorUnreachable
from flows.registry import names
from flows.services.federation import Addresses
from flows.services.turns import queue_of, tickets
from flows.tending.findings import Finding
from flows.tending.reconcile import RunState, reconcile, runs_in
from flows.tending.servers import ask
from flows.tending.tender import TENDED

_WAITING = ["Late", "AwaitingConcurrencySlot", "Pending"]


@dataclass(frozen=True)
class Outlook:
    """A directory's runs, and what is the matter with them.

    Args:
        running: runs that a process goes on with.
        waiting: how many flow runs wait for their turn; None where Prefect is away.
        queued: how many runs that people started wait for theirs.
        last: the run that was written to last; None where there is none.
        findings: what nobody owns.
        since: service → since when it is up, by ``consilo up``.
        tended_at: when ``consilo up`` looked last, UTC, ISO 8601; empty where it never did.
        settled: what it had settled then.
    """

    running: tuple[str, ...]
    waiting: int | None
    queued: int
    last: RunState | None
    findings: tuple[Finding, ...]
    since: Mapping[str, str]
    tended_at: str
    settled: tuple[str, ...]

    @property
    def wrong(self) -> tuple[str, ...]:
        """What needs a person."""
        return tuple(str(each) for each in self.findings if each.todo)

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        last = self.last
        return {
            "runs": {
                "running": list(self.running),
                "waiting": self.waiting,
                "queued": self.queued,
                "last": None if last is None else {k: v for k, v in asdict(last).items() if v},
            },
            "findings": [each.to_json() for each in self.findings],
            "tended": {"at": self.tended_at, "settled": list(self.settled)},
        }


def outlook(home: Path) -> Outlook:
    """Return how the runs in ``home`` stand; nothing is changed."""
    try:
        addresses = Addresses.load(home)
        prefect, mlflow = addresses.prefect_api, addresses.tracking_uri
    except CoordinatorUnreachable:
        prefect = mlflow = ""
    runs = list(runs_in(home))
    tended = _tended(home)
    return Outlook(
        running=tuple(each.name for each in runs if each.is_owned),
        waiting=_waiting(prefect),
        queued=max(0, len(tickets(home)) - queue_of(home).at_once),
        last=runs[-1] if runs else None,
        findings=tuple(reconcile(home, prefect_api=prefect, tracking_uri=mlflow, act=False)),
        since=tended.get("services", {}) if prefect else {},
        tended_at=str(tended.get("at", "")),
        settled=tuple(str(Finding(**each)) for each in tended.get("settled", [])),
    )


def _tended(home: Path) -> dict[str, Any]:
    try:
        told: dict[str, Any] = json.loads((home / TENDED).read_text())
        return told
    except (OSError, ValueError):
        return {}


def _waiting(api: str) -> int | None:
    if not api:
        return None
    asked = {
        "flow_runs": {"state": {"name": {"any_": _WAITING}}},
        "work_pools": {"name": {"any_": [names.POOL]}},
    }
    try:
        return int(ask(f"{api}/flow_runs/count", asked))
    except OSError:
        return None
