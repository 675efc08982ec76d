"""What has happened that people should know of: by records, findings and dates; never of a row."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from consilo.membership.coordinator import Coordinator
from consilo.runs.patience import WAITING
from flows.tending.findings import Finding
from flows.tending.reconcile import RunState, runs_in
from flows.watching.notice import Notice
from flows.watching.standing import FOLDER, Standing
from flows.watching.trained import training_of

_MOST_TOLD = 600


def events(
    home: Path, findings: Sequence[Finding], *, ahead_days: int, now: datetime
) -> list[Notice]:
    """Return what has happened, old and new; who has told of it before knows by the key.

    Args:
        home: the coordinator's directory.
        findings: what nobody owns.
        ahead_days: how early an expiry is told.
        now: with a time zone.
    """
    found: list[Notice] = []
    for run in runs_in(home):
        found += _of_run(home, run)
    found += [_of_finding(each, now) for each in findings if each.todo]
    for path in sorted((home / FOLDER).glob("*.json")):
        standing = Standing.load(home, path.stem)
        if standing is not None and standing.is_behind:
            found.append(_of_champion(home, standing))
    found += expiring(home, ahead_days=ahead_days, now=now)
    return found


def _of_run(home: Path, run: RunState) -> Iterator[Notice]:
    show = _command(home, "run", "show", run.name)
    if run.kind == WAITING:
        why = "it goes on by itself when they are back, and ends when its time is over"
        what = f"Run {run.name} waits for silos"
        status = f"consilo silos list --dir {shlex.quote(str(home))}"
        yield Notice("waiting", f"{run.name}/{run.time}", what, why, status, run.name, run.time)
    if run.status in ("failed", "degraded"):
        ended = "has failed" if run.status == "failed" else "ended degraded"
        what = f"Run {run.name} {ended}"
        why = run.reason[:_MOST_TOLD]
        yield Notice("run", f"{run.name}/{run.status}", what, why, show, run.name, run.time)
    if run.status in ("complete", "degraded"):
        record = home / "runs" / run.name / "record.jsonl"
        training = training_of(record)
        job = _job(record) if training is not None else {}
        if training is not None and job.get("promotion"):
            name, version = str(job["name"]), training.version
            yield Notice(
                "candidate",
                f"{name}/{version}",
                f"Version {version} of {name} waits for a decision",
                f"run {run.name} left it, {run.status}",
                f"{_command(home, 'model', 'approve', name, str(version))} --reason '…', or reject",
                run.name,
                run.time,
            )


def _of_finding(finding: Finding, now: datetime) -> Notice:
    told = f"{finding.kind} {finding.name} {finding.what}"
    run = finding.name if finding.kind in ("run", "owner") else ""
    kind = "alias" if "alias" in finding.kind else "unowned"
    return Notice(
        "alias" if kind == "alias" else "unowned",
        f"{finding.kind}/{finding.name}/{finding.what}",
        told[:1].upper() + told[1:],
        "",
        finding.todo,
        run,
        now.isoformat(),
    )


def _of_champion(home: Path, standing: Standing) -> Notice:
    return Notice(
        "champion",
        f"{standing.model}/{standing.version}/{standing.run_id}",
        f"The champion of {standing.model}, version {standing.version}, falls behind",
        standing.told[:_MOST_TOLD],
        _command(home, "run", "show", standing.run_id),
        standing.run_id,
        standing.at.isoformat(),
    )


def expiring(home: Path, *, ahead_days: int, now: datetime) -> Iterator[Notice]:
    """Yield what ends within so many days: certificates and signing keys.

    What ends in a silo (approvals of bundles, budgets, consents) only the silo knows; its own page
    and commands say so.
    """
    if not (home / "members.db").exists():
        return
    with Coordinator(home) as coordinator:
        calendar = coordinator.expiries()
    for until, whose, what in calendar:
        with contextlib.suppress(ValueError):  # an empty one does not end
            end = datetime.fromisoformat(until)
            if end - now > timedelta(days=ahead_days):
                continue
            ended = "has ended" if end <= now else "ends"
            told = f"The {what} of {whose} {ended} on {end:%Y-%m-%d}"
            command = "consilo silo renew, on the silo's machine: docs/silo-operator.md"
            if whose == "coordinator":
                command = f"consilo silos list --dir {shlex.quote(str(home))} has the calendar"
            at = max(end - timedelta(days=ahead_days), now - timedelta(days=1))
            key = f"{whose}/{what}/{until}/{ended}"
            yield Notice("expiring", key, told, "", command, "", at.isoformat())


def _job(record: Path) -> dict[str, object]:
    with record.open("rb") as file:
        opened = json.loads(file.readline())
    return dict(opened["body"].get("job") or {})


def _command(home: Path, *words: str) -> str:
    return shlex.join(["consilo", *words, "--dir", str(home)])
