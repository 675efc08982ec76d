"""How a silo's privacy accounts stand, as people and programs are told: command and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from consilo.errors import ConfigInvalid
from consilo.privacy.account import Limit
from consilo.privacy.accounting import adjacency
from consilo.record.chain import check_links
from silos.gate.policy import Policy
from silos.kept import statement
from silos.kept.budget import Budget, budget_of
from silos.kept.ledger import Ledger

DELTA = 1e-5
"""Of figures about a data set without a budget."""
_FORECAST_DAYS = 90
"""Of the past, from which the pace is taken."""
_WHY = {
    "source": "read the same file or table; what one spent counts for both",
    "rows": "hold the same rows; what one spent counts for both",
    "unknown": "could not be compared; what one spent counts for both, until people say otherwise "
    "('consilo silo ledger apart')",
}


def opened(directory: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Budget]]:
    """Return a ledger's entries, its ties, and the budgets of the silo's policy.

    Raises:
        ConfigInvalid: where there is no silo.
        RecordTampered: where a line of the ledger was edited.
        PolicyInvalid: where the policy is not valid.
    """
    if not (directory / "silo.yaml").is_file():
        raise ConfigInvalid(str(directory), ["no silo here: give its directory with --dir"])
    kept = Ledger(directory / "ledger.db")
    entries, ties = kept.entries(), kept.ties()
    check_links(entries, "ledger.db")
    check_links(ties["links"], "ledger.db, links")
    return entries, ties, Policy.load(directory / "policy.yaml").privacy.budgets


def told_of(directory: Path, *, now: datetime, delta: float = DELTA) -> dict[str, Any]:
    """Return how every account stands, as plain JSON values.

    Args:
        directory: the silo's.
        now: the time, in UTC.
        delta: for data sets without a budget; figures only.
    """
    entries, ties, budgets = opened(directory)
    at = now.isoformat(timespec="seconds")
    accounts = {}
    for name in statement.accounts(entries):
        budget = budget_of(budgets, name)
        account = statement.standing(entries, name, budget, at=at, ties=ties)
        first = Limit(float("inf"), None) if budget is None else budget.limits[0]
        account_delta = delta if budget is None else budget.delta
        unit = "record" if budget is None else budget.unit
        runs = statement.burn_down(entries, name, first, account_delta, ties, unit=unit)
        for each in runs if budget is None else ():
            each["left"] = None
        accounts[name] = {
            **account,
            "delta": account_delta,
            "unit": unit,
            "runs": runs,
            "forecast": forecast(runs, account["limits"], now=now),
        }
    return {
        "entries": len(entries),
        "accounts": accounts,
        "links": [
            {
                "time": each["time"],
                "kind": each["kind"],
                **each["body"],
                "words": _why(each["kind"], str(each["body"]["why"])),
            }
            for each in ties["links"]
        ],
        "adjacency": {each: adjacency(each) for each in statement.mechanisms(entries)},
    }


def forecast(
    runs: Sequence[Mapping[str, Any]], limits: Sequence[Mapping[str, Any]], *, now: datetime
) -> dict[str, Any] | None:
    """Return when the budget is used up at the pace of the last days; None without one to see.

    The pace is what the sum of ε grew by per day between the first and the last run of the last 90
    days, so there must be two at least. Of a limit over a period it is told as if nothing fell out
    of the period: an early day rather than a late one.

    Args:
        runs: of `silos.kept.statement.burn_down`.
        limits: of `silos.kept.statement.standing`; the one with the least left counts.
        now: the time.

    Returns:
        ``day`` on which it is used up (ISO 8601; empty where that is more than ten years off),
        ``per_day``, ``runs`` and ``days`` from which that was taken, ``limit``, ``words``.
    """
    since = (now - timedelta(days=_FORECAST_DAYS)).isoformat()
    recent = [each for each in runs if each["time"] >= since]
    if len(recent) < 2 or not limits:
        return None
    first, last = (datetime.fromisoformat(recent[at]["time"]) for at in (0, -1))
    days = (last - first).total_seconds() / 86_400
    grown = float(recent[-1]["spent"]) - float(recent[0]["spent"])
    if days <= 0 or grown <= 0:
        return None
    per_day = grown / days
    tightest = min(limits, key=lambda each: float(each["left"]))
    left_days = float(tightest["left"]) / per_day
    ends = "" if left_days > 3650 else (now + timedelta(days=left_days)).date().isoformat()
    when = f"on {ends}" if ends else "in more than ten years"
    return {
        "day": ends,
        "per_day": per_day,
        "runs": len(recent),
        "days": days,
        "limit": tightest["limit"],
        "words": f"at the pace of the last {len(recent)} runs (ε {per_day:.3g} a day) the budget "
        f"{tightest['limit']} is used up {when}",
    }


def _why(kind: str, why: str) -> str:
    return _WHY.get(why, why) if kind == "linked" else f"apart: {why}"
