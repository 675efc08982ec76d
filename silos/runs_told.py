"""A silo's runs as its own log and ledger tell of them: for its people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from silos.gate.audit_lines import newest_first

_MOST_LINES = 5_000
"""Of the log's end, which are read for a list of runs."""


@dataclass
class Run:
    """One run, as this silo saw it.

    Args:
        run: its id.
        job: its name.
        purpose: what it said that it is for.
        contract: ``name@version``.
        first: its first request, ISO 8601.
        last: its last line.
        allowed: requests that were allowed.
        refused: requests that were refused.
        faults: answers that were faults.
        left_bytes: what left altogether.
        reasons: of refusals, with how often.
    """

    run: str
    job: str = ""
    purpose: str = ""
    contract: str = ""
    first: str = ""
    last: str = ""
    allowed: int = 0
    refused: int = 0
    faults: int = 0
    left_bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


def runs(directory: Path) -> list[Run]:
    """Return the runs of the newest 5,000 lines of the audit log, the newest first.

    Raises:
        RecordTampered: where a line is no entry.
    """
    found: dict[str, Run] = {}
    bytes_of: dict[str, tuple[int, bool]] = {}
    for at, entry in enumerate(newest_first(directory / "audit.jsonl")):
        if at >= _MOST_LINES:
            break
        _take_in(found, bytes_of, entry)
    return sorted(found.values(), key=lambda each: each.last, reverse=True)


def _take_in(
    found: dict[str, Run], bytes_of: dict[str, tuple[int, bool]], entry: Mapping[str, Any]
) -> None:
    body = entry["body"]
    if entry["kind"] == "answered":  # read before its request, which stands above it
        sizes = (int(each.get("bytes", 0)) for each in body.get("fields", {}).values())
        bytes_of[str(body.get("step"))] = (sum(sizes), body.get("status") == "fault")
        return
    name = str(body.get("run", ""))
    if not name or entry["kind"] != "asked":
        return
    run = found.setdefault(name, Run(name, last=entry["time"]))
    run.first = entry["time"]
    run.job = run.job or str(body.get("job", ""))
    run.purpose = run.purpose or str(body.get("purpose", ""))
    run.contract = run.contract or str(body.get("contract", ""))
    if body.get("decision") == "refused":
        run.refused += 1
        reason = str(body.get("reason", ""))
        run.reasons[reason] = run.reasons.get(reason, 0) + 1
    else:
        run.allowed += 1
    size, fault = bytes_of.pop(str(body.get("step")), (0, False))
    run.left_bytes += size
    run.faults += fault and body.get("decision") != "refused"


def epsilon_of(accounts: Mapping[str, Any]) -> dict[str, list[tuple[str, float]]]:
    """Return run → (data set, ε that all runs had cost after it), of `silos.accounts_told`."""
    found: dict[str, list[tuple[str, float]]] = {}
    for name, account in accounts.items():
        for each in account["runs"]:
            found.setdefault(each["run"], []).append((name, float(each["spent"])))
    return found


def some(found: Iterable[Run], run: str) -> Run | None:
    """Return one run of several; None where it is not among them."""
    return next((each for each in found if each.run == run), None)
