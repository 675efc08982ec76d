"""What became of a run under a fault, and whether that is what the job promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from consilo.errors import RunFailed
from consilo.jobs.job import Job
from consilo.jobs.joint import JointJob
from consilo.jobs.model_job import ModelJob
from consilo.wire.parcel import not_connected
from flows.rehearsal.faults import Fault

Kind = Literal["horizontal", "vertical", "asynchronous"]
NOT_POSSIBLE = "not possible here"
EITHER = "survives or says why"
_PASSING = ("kill", "stop", "cut")
"""After these a silo is as before."""
_BACK_S = 30.0
"""For so long a silo may take to be there again, on a machine with a whole federation."""
_NO_REASON = ("ended without a result", "Traceback", "see the coordinator's log")


@dataclass(frozen=True)
class Survival:
    """What became of one run under one fault.

    Args:
        fault: its name.
        kind: horizontal, vertical or asynchronous.
        part: what it struck; of a silo its name.
        promise: survives or refuses: what the job's own quorum says of it; of faults that strike
            one run together ``survives or says why``.
        status: complete, degraded or failed; ``not possible here``.
        rounds_lost: in which somebody was missing who was to take part, or that were not done.
        seconds: from the end of the cause, or where it has none from the strike, until the run got
            further; None where it did not.
        equal: whether model, figures and ε are those of the undisturbed run or, where a silo was
            missing, of a run in which it is missing likewise; None where there is no result.
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


def can_miss(job: Job, rows: Mapping[str, int], silo: str) -> bool:
    """Return whether the job's quorum holds without a silo, in whatever cohort it is drawn.

    Args:
        job: with its quorum.
        rows: silo → how many it trains on.
        silo: which is missing.
    """
    if isinstance(job, JointJob):
        return False  # a turn goes over everybody's columns
    return all(_holds(job, among, silo) for among in (rows, _least(job, rows, silo)))


def _holds(job: Job, rows: Mapping[str, int], silo: str) -> bool:
    there = [name for name in rows if name != silo]
    missing = {silo: not_connected()}
    try:
        job.cohort_quorum.require(there, missing=missing, num_examples=rows, where="")
    except RunFailed:
        return False
    return True


def _least(job: Job, rows: Mapping[str, int], silo: str) -> Mapping[str, int]:
    """Return those who may be drawn with a silo for a round and can spare it least, with its rows.

    Whom a round is drawn from decides its quorum: it is lost with the silo where the others are the
    fewest, and have the fewest rows.
    """
    cohort = job.draws if isinstance(job, ModelJob) else None
    if cohort is None:
        return rows
    size = job.quorum.min_silos if cohort.size is None else cohort.size  # by poisson, at least
    always = [name for name in rows if name in job.quorum.mandatory]
    if silo not in always and len(always) >= size:
        return rows  # it is never drawn
    others = sorted((name for name in rows if name not in (silo, *always)), key=rows.__getitem__)
    drawn = dict.fromkeys([silo, *always, *others])
    return {name: rows[name] for name in list(drawn)[:size]}


def chosen_silo(job: Job, rows: Mapping[str, int], besides: Sequence[str] = ()) -> str:
    """Return a silo that the job's quorum can miss, if there is one; else one without labels.

    Args:
        job: with its quorum.
        rows: silo → how many it trains on.
        besides: those that another fault strikes.
    """
    names = [name for name in sorted(rows) if name not in besides] or sorted(rows)
    label = job.holders.label_silo if isinstance(job, JointJob) else ""
    free = [name for name in names if can_miss(job, rows, name)]
    return (free or [name for name in names if name != label] or names)[0]


def promise_of(
    fault: Fault, job: Job, rows: Mapping[str, int], silo: str, *, scale: float = 1.0
) -> str:
    """Return what must come of a fault: ``survives`` or ``refuses``.

    Args:
        fault: which.
        job: with its quorum.
        rows: silo → how many it trains on.
        silo: whom it strikes, where it strikes a silo.
        scale: by which its duration is multiplied.
    """
    if fault.promise != "by quorum":
        return fault.promise
    if fault.part != "silo" or can_miss(job, rows, silo):
        return "survives"
    if fault.lasts is None or fault.what not in _PASSING:
        return "refuses"
    waits_s = job.quorum.patience_s or 0.0
    return "survives" if fault.lasts * scale + _BACK_S < waits_s else "refuses"


def is_kept(promise: str, status: str, reason: str, *, equal: bool | None, orphans: int) -> bool:
    """Return whether a run ended as it must: with the right result or, where it may, with a reason.

    Args:
        promise: survives, refuses, or ``survives or says why``.
        status: of the run.
        reason: of the run.
        equal: whether its result is the right one.
        orphans: processes that nobody owns.
    """
    if orphans:
        return False
    if status in ("complete", "degraded"):
        return bool(equal)
    knows_why = bool(reason) and not any(each in reason for each in _NO_REASON)
    return promise != "survives" and knows_why
