"""A rehearsal: an undisturbed run, then one run a fault, each held against what it must come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from consilo.errors import RunFailed, ServiceFailed
from consilo.jobs.job import Job
from consilo.jobs.joint import JointJob
from consilo.record.run_record import read
from consilo.wire.parcel import not_connected
from flows.rehearsal.copies import Rehearsed
from flows.rehearsal.faults import Fault
from flows.rehearsal.replay import Ended, ended, replay
from flows.rehearsal.standing import Standing, standing
from flows.rehearsal.strike import Strike
from flows.services.place import Say

Kind = Literal["horizontal", "vertical", "asynchronous"]
NOT_POSSIBLE = "not possible here"


@dataclass(frozen=True)
class Survival:
    """What became of one run under one fault.

    Args:
        fault: its name.
        kind: horizontal, vertical or asynchronous.
        part: what it struck; of a silo its name.
        promise: survives or refuses: what the job's own quorum says of it.
        status: complete, degraded or failed; ``not possible here``.
        rounds_lost: in which not everybody was, or that were not done.
        seconds: from the end of the cause, or where it has none from the strike, until the run got
            further; None where it did not.
        equal: whether model and ε are those of the undisturbed run or, where a silo was missing, of
            a run in which it is missing likewise; None where there is no result.
        orphans: processes that nobody owns, 10 s after the run.
        kept: whether the promise was kept; None where the fault was not played.
        happened: in words.
    """

    fault: str
    kind: Kind
    part: str
    promise: str
    status: str
    rounds_lost: int
    seconds: float | None
    equal: bool | None
    orphans: int
    kept: bool | None
    happened: str

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def kind_of(job: Job) -> Kind:
    """Return how silos take part in a job: by rows, by columns, or whenever they are ready."""
    if isinstance(job, JointJob):
        return "vertical"
    return "asynchronous" if job.algorithm == "fedbuff" else "horizontal"


def can_miss(job: Job, rows: dict[str, int], silo: str) -> bool:
    """Return whether the job's quorum holds without a silo.

    Args:
        job: with its quorum.
        rows: silo → how many it trains on.
        silo: which is missing.
    """
    if isinstance(job, JointJob):
        return False  # a turn needs everybody whose columns it goes over
    there = [name for name in rows if name != silo]
    missing = {silo: not_connected()}
    try:
        job.cohort_quorum.require(there, missing=missing, num_examples=rows, where="")
    except RunFailed:
        return False
    return True


def rehearse(
    home: Path,
    rehearsed: Rehearsed,
    faults: Sequence[Fault],
    say: Say,
    *,
    scale: float = 1.0,
    told: Callable[[Survival], None] = lambda survival: None,
) -> list[Survival]:
    """Run a job once undisturbed and once under each fault; return what became of each.

    Args:
        home: the coordinator's directory.
        rehearsed: the job, and its silos.
        faults: what is tried, one after the other, in one federation.
        say: told what happens.
        scale: by which durations are multiplied.
        told: told each survival as it is known.

    Raises:
        ServiceFailed: where the undisturbed run fails, or the federation does not come up again.
    """
    survivals = []
    with standing(home, rehearsed, say) as there:
        say("a run without any fault, which the others are held against")
        twin = _undisturbed(there)
        for fault in faults:
            survival = _one(there, fault, twin, scale)
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


def _one(there: Standing, fault: Fault, twin: Ended, scale: float) -> Survival:
    job = there.rehearsed.job
    silo = fault.silo or _victim(there, twin)
    strike = Strike(fault, there, silo, scale=scale)
    strike.begin()
    words: list[str] = []
    summary: dict[str, Any] = {}
    if not strike.not_possible:
        summary = there.run(strike.look, strike.follow)
        strike.end()
        back_s = there.settle()
        if summary.get("resume"):
            words.append("gone on with by --resume")
            summary = there.run(strike.look, strike.follow, resume=summary["run_id"])
        if back_s >= 1:
            words.append(f"all were back {back_s:.0f} s after it")
    orphans = there.orphans()
    if strike.not_possible:
        return _unplayed(fault, job, silo, strike.not_possible, orphans)
    record = there.home / "runs" / str(summary["run_id"]) / "record.jsonl"
    return _judged(there, fault, silo, twin, strike, summary, record, words, orphans)


def _unplayed(fault: Fault, job: Job, silo: str, why: str, orphans: int) -> Survival:
    return Survival(
        fault=fault.name,
        kind=kind_of(job),
        part=silo if fault.part == "silo" else fault.part,
        promise=fault.promise,
        status=NOT_POSSIBLE,
        rounds_lost=0,
        seconds=None,
        equal=None,
        orphans=orphans,
        kept=None,
        happened=why,
    )


def _judged(
    there: Standing,
    fault: Fault,
    silo: str,
    twin: Ended,
    strike: Strike,
    summary: dict[str, Any],
    record: Path,
    words: list[str],
    orphans: int,
) -> Survival:
    job = there.rehearsed.job
    status, reason = str(summary.get("status")), str(summary.get("reason") or "")
    came = ended(record) if record.exists() and any(read(record)) else None
    equal = None
    if status != "failed" and came is not None:
        same = came.participation == twin.participation
        must = twin if same else replay(there.rehearsed, came, there.home / "replayed")
        equal = came.is_as(must)
    promise = fault.promise
    if promise == "by quorum":
        misses = fault.part != "silo" or can_miss(job, rows_of(twin), silo)
        promise = "survives" if misses else "refuses"
    survived = status in ("complete", "degraded") and bool(equal)
    kept = orphans == 0 and (survived or (promise == "refuses" and _says_why(status, reason)))
    if not strike.has_struck:
        words.append("the run ended before it could strike")
        kept = False
    everybody = set(there.rehearsed.silos)
    rounds = {} if came is None else came.rounds
    whole = sum(1 for each in rounds.values() if each == everybody)
    if reason:
        words.insert(0, reason.splitlines()[0])
    return Survival(
        fault.name,
        kind_of(job),
        silo if fault.part == "silo" else fault.part,
        promise,
        status,
        max(0, there.rehearsed.num_rounds - whole),
        None if strike.went_on_after_s is None else round(strike.went_on_after_s, 1),
        equal,
        orphans,
        kept,
        "; ".join(words) or "nothing was lost",
    )


def _says_why(status: str, reason: str) -> bool:
    """Return whether a run failed for a reason that it knows: the class of its cause, in words."""
    return status == "failed" and bool(reason) and "ended without a result" not in reason


def rows_of(twin: Ended) -> dict[str, int]:
    """Return silo → its rows in the undisturbed run."""
    return dict(twin.rows)


def _victim(there: Standing, twin: Ended) -> str:
    """Return a silo that the job's quorum can miss, if there is one."""
    job, rows = there.rehearsed.job, rows_of(twin)
    names = sorted(rows) or sorted(there.rehearsed.silos)
    label = job.holders.label_silo if isinstance(job, JointJob) else ""
    free = [name for name in names if can_miss(job, rows, name)]
    others = [name for name in names if name != label]
    return (free or others or names)[0]
