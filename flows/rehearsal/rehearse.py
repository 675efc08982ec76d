"""A rehearsal: an undisturbed run, then one run a fault, each held against what it must come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from consilo.errors import ServiceFailed
from flows.rehearsal.copies import Rehearsed
from flows.rehearsal.deployed import by_worker, run_deployed
from flows.rehearsal.disks import mount, of_our_own, why_not
from flows.rehearsal.faults import Fault
from flows.rehearsal.place import Place
from flows.rehearsal.replay import Ended, ended, replay
from flows.rehearsal.standing import Standing, standing
from flows.rehearsal.strike import Strike
from flows.rehearsal.survival import (
    NOT_POSSIBLE,
    Survival,
    chosen_silo,
    is_kept,
    kind_of,
    promise_of,
)
from flows.services.place import Say


def rehearse(
    at: Place,
    rehearsed: Rehearsed,
    faults: Sequence[Fault],
    say: Say,
    *,
    scale: float = 1.0,
    before: Path | None = None,
    told: Callable[[Survival], None] = lambda survival: None,
) -> list[Survival]:
    """Run a job once undisturbed and once under each fault; return what became of each.

    Args:
        at: where all of it is.
        rehearsed: the job, and its silos.
        faults: what is tried, one after the other, in one federation.
        say: told what happens.
        scale: by which durations are multiplied.
        before: the Python of an environment with the release before, if there is one.
        told: told each survival as it is known.

    Raises:
        ServiceFailed: where the undisturbed run fails, or the federation does not come up again.
    """
    if not why_not() and any(each.what == "fill disk" for each in faults):
        of_our_own()
        for folder in (at.disk, *rehearsed.silos.values()):
            mount(folder)
    survivals = []
    with standing(at, rehearsed, say, worker=any(map(by_worker, faults)), before=before) as there:
        say("a run without any fault, which the others are held against")
        twin = _undisturbed(there)
        for fault in faults:
            survival = _tried(there, fault, twin, scale)
            told(survival)
            survivals.append(survival)
    return survivals


def _undisturbed(there: Standing) -> Ended:
    there.settle()
    summary = there.run(lambda: None, lambda record: None)
    if summary.get("status") == "failed":
        raise ServiceFailed(
            f"the job fails without any fault: {summary['reason']}; nothing to rehearse"
        )
    return ended(Path(summary["record"]))


def _tried(there: Standing, fault: Fault, twin: Ended, scale: float) -> Survival:
    """Run the job under one fault and return what became of it."""
    silo = fault.silo or chosen_silo(there.rehearsed.job, twin.rows)
    known = set(_records(there))
    strike = Strike(fault, there, silo, scale=scale)
    words: list[str] = []
    summary: dict[str, Any] = {"status": NOT_POSSIBLE, "reason": ""}
    strike.begin()
    if not strike.not_possible:
        summary = (run_deployed if by_worker(fault) else Standing.run)(
            there, strike.look, strike.follow
        )
        strike.end()
        back_s = there.settle()
        if back_s >= 1:
            words.append(f"all were back {back_s:.0f} s after the run")
        if summary.get("resume"):
            words.append("gone on with by --resume")
            summary = there.run(strike.look, strike.follow, resume=summary["run_id"])
    orphans = there.orphans()
    runs = [ended(each) for each in _records(there) if each not in known]
    return _survival(there, fault, silo, twin, strike, summary, runs, words, orphans)


def _survival(
    there: Standing,
    fault: Fault,
    silo: str,
    twin: Ended,
    strike: Strike,
    summary: dict[str, Any],
    runs: Sequence[Ended],
    words: list[str],
    orphans: int,
) -> Survival:
    job = there.rehearsed.job
    status, reason = str(summary["status"]), str(summary["reason"] or "")
    was_played = strike.has_struck and not strike.not_possible
    equal = None
    if was_played and status != "failed":
        equal = bool(runs) and all(_is_right(there, each, twin) for each in runs)
    promise = promise_of(fault, job, twin.rows, silo)
    kept = None
    if was_played:
        kept = is_kept(promise, status, reason, equal=equal, orphans=orphans)
    elif strike.not_possible:
        status, words = NOT_POSSIBLE, [strike.not_possible]
    else:
        kept, words = False, ["the run ended before it could strike", *words]
    if reason and status != NOT_POSSIBLE:
        words.insert(0, reason.splitlines()[0])
    everybody = set(there.rehearsed.silos)
    whole = min((sum(p == everybody for p in each.rounds.values()) for each in runs), default=0)
    after_s = strike.went_on_after_s
    return Survival(
        fault=fault.name,
        kind=kind_of(job),
        part=silo if fault.part == "silo" else fault.part,
        promise=promise,
        status=status,
        rounds_lost=max(0, len(twin.rounds) - whole) if kept is not None else 0,
        seconds=None if after_s is None else round(after_s, 1),
        equal=equal,
        orphans=orphans,
        kept=kept,
        happened="; ".join(words) or "nothing was lost",
    )


def _is_right(there: Standing, came: Ended, twin: Ended) -> bool:
    """Return whether a run's result is what those make who were there."""
    if came.participation == twin.participation:
        return came.is_as(twin)
    return came.is_as(replay(there.rehearsed, came, there.place.folder / "replayed"))


def _records(there: Standing) -> list[Path]:
    """Return the records of all runs that have begun."""
    records = (there.home / "runs").glob("*/record.jsonl")
    return sorted(each for each in records if each.stat().st_size)
