"""What runs a job of each kind; a new kind has its line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from consilo.errors import IncompatibleJob
from consilo.jobs.job import Job
from consilo.runs.analytics import AnalyticsRun, run_analytics
from consilo.runs.horizontal import Run, run_all
from consilo.runs.outcome import RunResult
from consilo.runs.planning.plan import plan, plan_analytics
from consilo.runs.stages import Stages
from consilo.runs.vertical import VerticalRun, plan_vertical, run_vertical


@dataclass(frozen=True)
class Way:
    """How jobs of one kind are run.

    Args:
        plan: raises `IncompatibleJob` where job, contract, silos and search path do not fit.
        run: the stages.
        whole: does every stage in a row; ``say`` is told each.
    """

    plan: Callable[..., Any]
    run: Callable[..., Stages]
    whole: Callable[..., RunResult]


_VERTICAL = Way(plan_vertical, VerticalRun, run_vertical)
WAYS: Mapping[str, Way] = {
    "horizontal": Way(plan, Run, run_all),
    "vertical": _VERTICAL,
    "scoring": _VERTICAL,
    "analytics": Way(plan_analytics, AnalyticsRun, run_analytics),
}


def way_of(job: Job) -> Way:
    """Return how a job is run.

    Raises:
        IncompatibleJob: where it is of a kind that has no stages: a match.
    """
    if job.kind not in WAYS:
        raise IncompatibleJob(
            f"'{job.name}' is of the kind {job.kind}; run it with 'consilo match run', or the "
            "flow 'match'"
        )
    return WAYS[job.kind]
