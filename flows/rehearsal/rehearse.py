"""A rehearsal: an undisturbed run, then one run a fault, each held against what it must come to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.errors import ConfigInvalid, ServiceFailed
from flows.rehearsal.copies import Rehearsed
from flows.rehearsal.deployed import by_worker, run_deployed
from flows.rehearsal.disks import mount, of_our_own, why_not
from flows.rehearsal.faults import Fault
from flows.rehearsal.place import Place
from flows.rehearsal.replay import Ended, ended, replays
from flows.rehearsal.standing import Standing, standing
from flows.rehearsal.strike import Strike
from flows.rehearsal.survival import (
    EITHER,
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
    faults: Sequence[tuple[Fault, ...]],
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
        faults: what is tried, one after the other, in one federation; those of one tuple strike
            the same run.
        say: told what happens.
        scale: by which durations are multiplied.
        before: the Python of an environment with the release before, if there is one.
        told: told each survival as it is known.

    Raises:
        ConfigInvalid: where a fault names a silo that there is not.
        ServiceFailed: where the federation does not come up, or the undisturbed run fails.
    """
    each_one = [each for struck in faults for each in struck]
    unknown = [each for each in each_one if each.silo and each.silo not in rehearsed.silos]
    if unknown:
        there_are = ", ".join(rehearsed.silos)
        told_of = [f"{each.name}: no silo '{each.silo}'; there are {there_are}" for each in unknown]
        raise ConfigInvalid("--faults", told_of)
    if not why_not() and any(each.what == "fill disk" for each in each_one):
        of_our_own()
        for folder in (at.disk, *rehearsed.silos.values()):
            mount(folder)
    survivals = []
    with standing(at, rehearsed, say, worker=any(map(by_worker, each_one)), before=before) as there:
        say("a run without any fault, which the others are held against")
        twin = _undisturbed(there)
        for struck in faults:
            survival = _tried(there, struck, twin, scale)
            told(survival)
            survivals.append(survival)
    return survivals


def _undisturbed(there: Standing) -> Ended:
    _, missing = there.settle()
    if missing:
        raise ServiceFailed(
            f"{', '.join(missing)} did not come up; look into {there.home / 'logs'}"
        )
    summary = there.run(lambda: None, lambda record: None)
    if summary.get("status") == "failed":
        raise ServiceFailed(
            f"the job fails without any fault: {summary['reason']}; nothing to rehearse"
        )
    return ended(Path(summary["record"]), there.rehearsed.silos)


@dataclass
class _Trial:
    """A run under a fault, when it is over.

    Args:
        strikes: each fault, and how that went.
        summary: of the run.
        runs: what it came to, and others that began meanwhile.
        words: what happened.
        missing: what never came up again.
        orphans: processes that nobody owns.
    """

    strikes: Sequence[Strike]
    summary: Mapping[str, Any]
    runs: Sequence[Ended]
    words: list[str]
    missing: Sequence[str]
    orphans: int


def _tried(there: Standing, faults: tuple[Fault, ...], twin: Ended, scale: float) -> Survival:
    """Run the job under one fault, or under several at once; return what became of it."""
    strikes = _strikes(there, faults, twin, scale)
    known = set(_records(there))
    for strike in strikes:
        strike.begin()
    words: list[str] = []
    missing: list[str] = []
    summary: Mapping[str, Any] = {"status": NOT_POSSIBLE, "reason": ""}

    def look() -> None:
        for strike in strikes:
            strike.look()

    def follow(record: Path) -> None:
        for strike in strikes:
            strike.follow(record)

    if not any(strike.not_possible for strike in strikes):
        begin = run_deployed if any(map(by_worker, faults)) else Standing.run
        summary = begin(there, look, follow)
    for strike in reversed(strikes):
        strike.end()
    if summary["status"] != NOT_POSSIBLE:
        back_s, missing = there.settle()
        if missing:
            words.append(f"never up again: {', '.join(missing)}")
        elif back_s >= 1:
            words.append(f"all were back {back_s:.0f} s after the run")
        if summary.get("resume"):
            words.append("gone on with by --resume")
            summary = there.run(look, follow, resume=summary["run_id"])
    orphans = there.orphans()
    silos = there.rehearsed.silos
    runs = [ended(each, silos) for each in _records(there) if each not in known]
    trial = _Trial(strikes, summary, runs, words, missing, orphans)
    return _survival(there, twin, trial, scale)


def _strikes(there: Standing, faults: tuple[Fault, ...], twin: Ended, scale: float) -> list[Strike]:
    """Return the faults on their way; those of silos strike different ones, if they can."""
    strikes: list[Strike] = []
    last = max(twin.rounds)  # a job may have learnt all it can before its last round
    for fault in faults:
        struck = [each.silo for each in strikes if each.fault.part == "silo"]
        silo = fault.silo or chosen_silo(there.rehearsed.job, twin.rows, struck)
        strikes.append(Strike(fault, there, silo, last=last, scale=scale))
    return strikes


def _survival(there: Standing, twin: Ended, trial: _Trial, scale: float) -> Survival:
    job, words, strikes = there.rehearsed.job, trial.words, trial.strikes
    status, reason = str(trial.summary["status"]), str(trial.summary["reason"] or "")
    not_possible = "; ".join(each.not_possible for each in strikes if each.not_possible)
    if len(strikes) == 1:  # beside another fault it may come to nothing
        not_possible = not_possible or strikes[0].had_no_effect
    was_played = not not_possible and is_played(strikes, status)
    equal = None
    if was_played and status != "failed":
        equal = bool(trial.runs) and all(_is_right(there, each, twin) for each in trial.runs)
    promise = EITHER
    if len(strikes) == 1:
        (strike,) = strikes
        promise = promise_of(strike.fault, job, twin.rows, strike.silo, scale=scale)
    kept: bool | None = False
    if was_played:
        kept = not trial.missing and is_kept(
            promise, status, reason, equal=equal, orphans=trial.orphans
        )
    elif not_possible:
        kept, status, words = None, NOT_POSSIBLE, [not_possible]
    else:
        words = ["the run ended before it could strike", *words]
    if was_played:
        idle = [each.fault.name for each in strikes if not each.has_struck]
        words += [f"{name} could not strike any more" for name in idle]
    if reason and status != NOT_POSSIBLE:
        words.insert(0, reason.splitlines()[0])
    whole = [len(each.whole) for each in trial.runs]
    after_s = [each.went_on_after_s for each in strikes if each.went_on_after_s is not None]
    return Survival(
        fault="+".join(each.fault.name for each in strikes),
        kind=kind_of(job),
        part="+".join(each.where for each in strikes),
        promise=promise,
        status=status,
        rounds_lost=len(twin.rounds) - min(whole, default=0) if was_played else 0,
        seconds=round(max(after_s), 1) if len(after_s) == len(strikes) else None,
        equal=equal,
        orphans=trial.orphans,
        kept=kept,
        happened="; ".join(words) or "nothing was lost",
    )


def is_played(strikes: Sequence[Strike], status: str) -> bool:
    """Return whether what became of a run says something of the faults that were to strike it.

    One that ended for good under the first of two faults is judged by that.
    """
    struck = [each.has_struck for each in strikes]
    return all(struck) or (status == "failed" and any(struck))


def _is_right(there: Standing, came: Ended, twin: Ended) -> bool:
    """Return whether a run's result is what those make who were there."""
    if came.participation == twin.participation:
        return came.is_as(twin)
    place = there.place.folder / "replayed"
    return any(came.is_as(each) for each in replays(there.rehearsed, came, place))


def _records(there: Standing) -> list[Path]:
    """Return the records of all runs that have begun."""
    records = (there.home / "runs").glob("*/record.jsonl")
    return sorted(each for each in records if each.stat().st_size)
