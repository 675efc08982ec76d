"""Whether a job's training is due, by its section ``retrain``; and which question found out.

Nobody is asked where the coordinator's own records tell: no model yet, or one that is too old, or
too young, or a champion that the flow ``monitor`` found behind. Else the silos are asked, in a run
of its own: what a training costs, and what its record says, is the training's alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from prefect import State, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from consilo.contracts.bins import unbinned
from consilo.errors import JobInvalid
from consilo.horizontal.between.drift import Moved
from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job
from consilo.jobs.retrain import Retrain
from consilo.record.run_record import new_run_id
from consilo.runs.analytics import DriftRun
from flows.endings import quiet_errors
from flows.registry import names
from flows.services.order import Order
from flows.session import Session, final_state, opened
from flows.tasks import admit, check, wait_for_silos
from flows.telling.shown import flow_run, prefect_place, rename
from flows.watching.standing import Standing
from flows.watching.trained import Training, last_training

Cause = Literal["first", "age", "performance", "drift", ""]


@dataclass(frozen=True)
class Due:
    """Whether a training is due.

    Args:
        cause: why it is; empty where it is not.
        told: the same in a sentence.
        asked_in: the run that asked the silos; empty where nobody was asked.
    """

    cause: Cause
    told: str
    asked_in: str = ""

    def to_json(self) -> dict[str, str]:
        """Return it for records and programs."""
        return {"cause": self.cause, "told": self.told, "asked_in": self.asked_in}


def rule_of(job: Job) -> Retrain:
    """Return when a job trains again.

    Raises:
        JobInvalid: where it does not say.
    """
    rule = job.retrain if isinstance(job, Horizontal) else None
    if rule is None:
        raise JobInvalid(
            job.name,
            [
                "retrain: this run was asked to train only where it is due, and the job does not "
                "say when that is; give it a section such as 'retrain: {when: drift, max_age: "
                "30d}', or run it without when_due"
            ],
        )
    return rule


def by_records(
    rule: Retrain, last: Training | None, standing: Standing | None, *, now: datetime
) -> Due | None:
    """Return what the coordinator's own records say; None where silos have to be asked.

    Args:
        rule: of the job.
        last: the newest training of it that left a model; None where there is none.
        standing: what the flow ``monitor`` found last; None where it never looked.
        now: with a time zone.
    """
    if last is None:
        return Due("first", "no model of this job has been trained yet")
    age = now - last.ended
    told = f"the last training, {last.run_id}, is {_in_words(age)} old"
    if rule.max_age_days is not None and age >= timedelta(days=rule.max_age_days):
        return Due("age", f"{told}, {rule.max_age} is the most (retrain.max_age)")
    if rule.min_age_days is not None and age < timedelta(days=rule.min_age_days):
        return Due("", f"{told}, {rule.min_age} is the least (retrain.min_age)")
    behind = standing is not None and standing.is_behind and standing.at > last.ended
    if standing is not None and behind and "performance" in rule.when:
        return Due("performance", standing.told, standing.run_id)
    if not rule.asks_silos:
        return Due("", f"{told}, and nothing else makes it due")
    return None


def by_silos(
    rule: Retrain, moved: Mapping[str, Moved], last: Training | None, *, now: datetime, run_id: str
) -> Due:
    """Return what the silos' words come to.

    Args:
        rule: of the job.
        moved: silo → its word.
        last: the newest training.
        now: with a time zone.
        run_id: of the run that asked.
    """
    drifted = {name: each for name, each in sorted(moved.items()) if each.drifted}
    new = [name for name, each in sorted(moved.items()) if not each.compared]
    if len(drifted) >= rule.silos:
        told = "; ".join(f"{name}: {each.reason()}" for name, each in drifted.items())
        return Due("drift", f"rows have drifted at {told}", run_id)
    parts = []
    if drifted:
        told = "; ".join(f"{name}: {each.reason()}" for name, each in drifted.items())
        parts.append(f"rows have drifted at {told}, and retrain.silos wants {rule.silos} silos")
    elif len(new) < len(moved):
        parts.append("no silo's rows have drifted since the last training")
    if new:
        parts.append(f"{', '.join(new)} had nothing to compare with, and will next time")
    if last is not None:
        parts.append(f"the last training, {last.run_id}, is {_in_words(now - last.ended)} old")
    return Due("", "; ".join(parts), run_id)


def find_out(order: Order, wait_s: float) -> Due | State[Any]:
    """Return whether the order's job is due; or how the flow run ends, where that is not known.

    Args:
        order: of the training.
        wait_s: how long silos are waited for.
    """
    rule, now = rule_of(order.job), datetime.now(UTC)
    last = last_training(order.home, order.job.name)
    standing = Standing.load(order.home, order.job.name)
    due = by_records(rule, last, standing, now=now)
    if due is not None:
        return due
    question = replace(order, run_id=new_run_id(order.job.name, "drift"), job_file=None)
    experiment = names.analytics_experiment(order.job.name)
    found: Due | None = None
    with opened(question, experiment=experiment, stages=DriftRun) as session:
        wait_for_silos(session, wait_s)
        check(session)
        admit(session)
        compare(session)
        run = session.analytics
        found = by_silos(rule, run.moved, last, now=now, run_id=run.run_id)
        note(session, found)
    if found is None or session.close().status == "failed":
        return final_state(session)
    return found


@task(task_run_name="compare", persist_result=False, cache_policy=NO_CACHE)
def compare(session: Session) -> None:
    """Ask every silo whether its rows have moved, and track what it says."""
    run = session.analytics
    moved = run.compare()
    session.tracker.log_moved(moved)
    for name, each in sorted(moved.items()):
        word = each.reason() or ("not moved" if each.compared else "nothing to compare with yet")
        get_run_logger().info("%s: %s", name, word)
    without = unbinned(run.contract)
    if without:
        get_run_logger().warning(
            "not compared, since the contract gives no range or allowed values: %s",
            ", ".join(without),
        )


def note(session: Session, due: Due) -> None:
    """Let a run's record, and MLflow, say why it trains, or that it need not."""
    session.run.record.add("due", **due.to_json())
    told = due.told if due.cause else f"not due: {due.told}"
    session.tracker.tag({names.TAG_DUE: json.dumps(due.to_json()), names.TAG_DUE_TOLD: told})


def because(state: State[Any], due: Due) -> State[Any]:
    """Let the state of a run that has trained say why it did."""
    state.message = f"{state.message or ''}; trained because {due.told}".lstrip("; ")
    return state


def not_due(job: Job, due: Due) -> State[Any]:
    """Return the state of a flow run that had nothing to do."""
    quiet_errors()
    message = f"not due: {due.told}"
    get_run_logger().info(message)
    rename(flow_run(), f"{job.name} · not due", tags=(f"job:{job.name}", "not due"))
    summary = {
        "status": "not_due",
        "reason": due.told,
        "due": due.to_json(),
        "silos": {},
        "metrics": {},
        "model": None,
        "mlflow": None,
        "prefect": prefect_place(flow_run()),
        "record": None,
        "seconds": {},
    }
    return Completed(name="NotDue", message=message, data=summary)


def _in_words(age: timedelta) -> str:
    """Return an age as people say it.

    >>> _in_words(timedelta(hours=30)), _in_words(timedelta(days=3)), _in_words(timedelta(hours=1))
    ('30 hours', '3 days', '1 hour')
    """
    hours = int(age.total_seconds() // 3600)
    number, unit = (hours // 24, "day") if hours >= 48 else (hours, "hour")
    return f"{number} {unit}" + ("" if number == 1 else "s")
