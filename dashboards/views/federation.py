"""The first page: how the federation is, who is there, what goes on."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from consilo.metrics.words import in_short
from consilo.pages.site import Shown
from dashboards.reading.reading import Reading
from dashboards.reading.silos import SiloCard
from dashboards.reading.story import Brief
from dashboards.views.health import WORDS, parts_of, stamp, worst

_MOST_RUNS = 8
_MOST_DATES = 12
STATUS = {
    "complete": "good",
    "degraded": "warn",
    "failed": "bad",
    "unreadable": "bad",
}
"""How a run ended → the kind of its badge."""


class FederationPage:
    """Draws it.

    Args:
        reading: what is read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __call__(self, request: Request) -> Shown:
        """Return the page."""
        reading = self._reading
        reading.freshen()
        silos = reading.silos()
        parts = parts_of(reading, silos)
        health = worst(parts)
        briefs = reading.records.briefs()
        presences = reading.presences.told
        addresses = reading.addresses
        return Shown(
            "federation.html",
            {
                "title": "Federation",
                "word": WORDS[health.kind],
                "kind": health.kind,
                "reason": "" if health.kind == "good" else f"{health.name}: {health.reason}",
                "parts": parts,
                "silos": [silo_row(each) for each in silos],
                "silos_of": _of(presences.at, presences.error),
                "running": [running_row(reading, each) for each in briefs if not each.status],
                "waiting": _waiting(reading),
                "runs": [run_row(reading, each) for each in briefs if each.status][:_MOST_RUNS],
                "calendar": reading.members.calendar()[:_MOST_DATES],
                "home": str(reading.home),
                "prefect": "" if addresses is None else addresses.prefect_ui,
                "mlflow": "" if addresses is None else addresses.tracking_uri,
            },
        )


def _of(at: float, error: str) -> str:
    """Return what is to be said of an answer's age; nothing where it is of now."""
    if not error:
        return ""
    return f"The SuperLink does not say who is there ({error})." + (
        f" It said so last at {stamp(at)}." if at else ""
    )


def silo_row(card: SiloCard) -> dict[str, Any]:
    """Return what a table shows of a silo."""
    kind = {"online": "good", "gone": "bad", "never online": "off"}.get(card.connected, "wait")
    if not card.takes_part:
        kind = "wait" if card.state in ("invited", "pending") else "off"
    last = card.verdicts[0] if card.verdicts else None
    return {
        "card": card,
        "name": card.name,
        "kind": kind,
        "words": card.connected if card.takes_part else card.state,
        "verdict": last,
        "verdict_kind": ""
        if last is None
        else "good"
        if last.verdict.verdict == "passed"
        else "bad",
        "history": [each.verdict.verdict == "passed" for each in reversed(card.verdicts)],
    }


def run_row(reading: Reading, brief: Brief) -> dict[str, Any]:
    """Return what a table shows of a run; whether its record is whole, where that was asked."""
    check = reading.records.known_check(brief.name)
    return {
        "brief": brief,
        "kind": STATUS.get(brief.status, "wait"),
        "figures": in_short(brief.metrics, most=2),
        "epsilon": max(brief.epsilon.values(), default=None),
        "checked": check,
    }


def running_row(reading: Reading, brief: Brief) -> dict[str, Any]:
    """Return what a table shows of a run that is not over."""
    owned = reading.records.is_owned(brief.name)
    words = "waits" if owned and brief.waiting else "runs" if owned else "nobody goes on with it"
    return {
        "brief": brief,
        "kind": "wait" if owned else "warn",
        "words": words,
        "share": f"round {brief.done} of {brief.planned}" if brief.planned else brief.last_kind,
    }


def _waiting(reading: Reading) -> list[dict[str, Any]]:
    """Return the flow runs that have not begun."""
    told = reading.flow_runs.told.value or ()
    states = ("Scheduled", "Late", "Pending", "AwaitingConcurrencySlot", "Paused", "Suspended")
    return [
        {"name": each.name, "state": each.state, "expected": each.expected}
        for each in told
        if each.state in states
    ][:10]
