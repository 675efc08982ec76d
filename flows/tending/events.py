"""What has happened that people should know of: by records, findings and dates; never of a row."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from consilo.decisions.promotions import Promotions, Proposal, models
from consilo.decisions.vote import Verdict
from consilo.errors import RecordTampered
from consilo.membership.coordinator import Coordinator
from consilo.runs.patience import WAITING
from flows.tending.findings import Finding
from flows.tending.reconcile import RunState, runs_in
from flows.watching.notice import Notice
from flows.watching.standing import FOLDER, Standing

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
    for model in models(home):
        found += _proposed(home, model)
    found += [_of_finding(home, e, now) for e in findings if e.todo or e.kind == "alias"]
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


def _proposed(home: Path, model: str) -> Iterator[Notice]:
    """Yield the proposals of a model that wait for people; a chain that is broken is a finding."""
    with contextlib.suppress(RecordTampered):
        for each in Promotions.open(home, model).waiting:
            version = each.candidate.version
            approve = _command(home, "model", "approve", model, str(version))
            yield Notice(
                "candidate",
                f"{model}/{version}/{each.line}",
                f"Version {version} of {model} waits for a decision",
                _votes(each),
                f"{approve} --reason '…', or reject",
                each.candidate.run,
                each.time,
            )


def _votes(proposal: Proposal) -> str:
    ballot, run = proposal.ballot, proposal.candidate.run
    if ballot is None:
        return f"run {run} left it, {proposal.candidate.status}; no silo has voted on it"
    words: tuple[Verdict, ...] = ("yes", "no", "abstain")
    said = ", ".join(f"{ballot.count(each)} {each}" for each in words)
    return f"run {run} left it, {proposal.candidate.status}; the silos say: {said}"


def _of_finding(home: Path, finding: Finding, now: datetime) -> Notice:
    told = f"{finding.kind} {finding.name} {finding.what}"
    run = finding.name if finding.kind in ("run", "owner") else ""
    key, at, todo = f"{finding.kind}/{finding.name}/{finding.what}", now.isoformat(), finding.todo
    if finding.kind == "alias":
        model = finding.name.partition("@")[0]
        todo = todo or f"{_command(home, 'model', 'list')} says what was decided"
        written = _found_moved(home, model)
        if written is not None:  # the same alias, moved the same way another day, is another event
            key, at = f"{key}/{written['hash']}", str(written["time"])
    return Notice(
        "alias" if finding.kind == "alias" else "unowned",
        key,
        told[:1].upper() + told[1:],
        finding.done,
        todo,
        run,
        at,
    )


def _found_moved(home: Path, model: str) -> Mapping[str, Any] | None:
    """Return the last line of a model's chain that says that an alias was moved by hand."""
    with contextlib.suppress(RecordTampered):
        for each in reversed(Promotions.open(home, model).entries):
            if each["kind"] == "found_moved":
                return cast("Mapping[str, Any]", each)
    return None


def _of_champion(home: Path, standing: Standing) -> Notice:
    command = f"{_command(home, 'run', 'show', standing.run_id)}; train anew"
    if standing.previous is not None:
        words = ("model", "rollback", standing.model, "--to", str(standing.previous))
        command = f"{_command(home, *words)} --reason '…', or train anew"
    first = standing.at if standing.since is None else standing.since
    return Notice(
        "champion",
        f"{standing.model}/{standing.version}/{first.isoformat()}",
        f"The champion of {standing.model}, version {standing.version}, falls behind",
        standing.told[:_MOST_TOLD],
        command,
        standing.run_id,
        first.isoformat(),
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


def _command(home: Path, *words: str) -> str:
    return shlex.join(["consilo", *words, "--dir", str(home)])
