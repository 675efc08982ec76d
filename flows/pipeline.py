"""The main job: train one model over all silos that keep the contract, and register it.

Silos with the same columns train together (`flows.tasks`), those with the same people by the parts
of one model (`flows.vertical`).

The flow is Flower's ServerApp: it opens the run and holds the transport itself, so that a contract
check is a Prefect task per silo, a round is a task, and logs, retries and cancelling are Prefect's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from prefect import State, flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from consilo.errors import ConsiloError, JobInvalid
from consilo.jobs.job import Job
from consilo.runs.continued import extended
from consilo.runs.folds import fold_job
from flows import analytics, vertical
from flows.due import Due, because, find_out, not_due, note
from flows.endings import flow_run_name, refused, summary_of
from flows.registry import names
from flows.services.connection import home_directory, job_file
from flows.session import Session, called, final_state, opened, order_of
from flows.tasks import (
    admit,
    check,
    evaluate,
    register,
    remember,
    report,
    standardize,
    train,
    wait_for_silos,
)

Rounds = Annotated[int, Field(ge=1, le=100_000)]
Epsilon = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0)]
Folds = Annotated[int, Field(ge=2, le=50)]
Fold = Annotated[int, Field(ge=1, le=50)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


@flow(
    name="pipeline",
    flow_run_name=flow_run_name,
    persist_result=False,
    # Prefect's task runners are invariant in their futures: none is what `flow` is said to take.
    task_runner=ThreadPoolTaskRunner(max_workers=16),  # type: ignore[arg-type]
)
def pipeline(
    job: str,
    rounds: Rounds | None = None,
    epsilon: Epsilon | None = None,
    private: bool = True,
    seed: Seed | None = None,
    folds: Folds | None = None,
    fold: Fold | None = None,
    wait_s: Seconds = 60.0,
    when_due: bool = False,
    resume: str | None = None,
    extend: str | None = None,
    bundle: str | None = None,
    home: str | None = None,
) -> Any:
    """Check every silo, match where the job is vertical, train, evaluate, register, report.

    Args:
        job: the job file: a path, a path below home, or the name of a job that comes with Consilo.
        rounds: in place of the job's number of rounds.
        epsilon: in place of the job's privacy budget ε.
        private: off trains without differential privacy, whatever the job says.
        seed: in place of the job's seed.
        folds: into how many parts rows, or subjects, fall; one is held out, in place of what the
            job says. Such a run registers no model: it is there to be judged.
        fold: which part is held out, from 1.
        wait_s: how long to wait for silos that are not connected yet, in seconds.
        when_due: train only where the job's section ``retrain`` says that it is due: silos are
            asked whether their rows have moved, where nothing else tells.
        resume: id of a run of this job whose process died: go on from its last checkpoint.
        extend: id of a finished run of this job: go on from its last state as a new run, for
            ``rounds`` more; ``epsilon`` is what both together may cost.
        bundle: what the author of the job's code has signed, as a path, or a path below home; it is
            carried as it is. Empty makes a bundle here, which the coordinator signs.
        home: the coordinator's directory; empty takes the worker's CONSILO_HOME.
    """
    try:
        place = home_directory(home)
        path = job_file(job, place)
        asked: Job
        if extend:
            if folds or fold:
                raise JobInvalid(path.name, ["'folds' and 'fold' are no part of an extension"])
            asked = extended(place / "runs", extend, rounds=rounds or 0, epsilon=epsilon)
        else:
            asked = changed(
                Job.load(path),
                rounds=rounds,
                epsilon=epsilon,
                private=private,
                seed=seed,
                folds=folds,
                fold=fold,
            )
        order = order_of(
            asked,
            home=place,
            search_path=(path.parent,),
            resume=resume or "",
            bundle=place / bundle if bundle else None,
            registers=folds is None,
            job_file=path,
        )
        due: Due | None = None
        if when_due and not resume and not extend:
            found = find_out(order, wait_s)
            if not isinstance(found, Due):
                return found
            due = found
            if not due.cause:
                return not_due(asked, due)
        with opened(order, experiment=names.pipeline_experiment(asked.name)) as session:
            if due is not None:
                note(session, due)
            STAGES[asked.kind](session, wait_s)
    except ConsiloError as error:
        return refused(error)
    return final_state(session) if due is None else because(final_state(session), due)


def _horizontal(session: Session, wait_s: float) -> None:
    wait_for_silos(session, wait_s)
    check(session)
    admit(session)
    if session.horizontal.state is None:  # a run that is resumed stands further already
        standardize(session)
    train(session)
    evaluate(session)
    if session.registers:
        remember(session)
        register(session)
    report(session)


STAGES: Mapping[str, Callable[[Session, float], None]] = {
    "horizontal": _horizontal,
    "vertical": vertical.stages,
    "scoring": vertical.scoring_stages,
    "analytics": analytics.stages,
}
"""What a run of each kind does, task by task."""


def run_pipeline(*, home: Path | str, run_id: str = "", **parameters: Any) -> dict[str, Any]:
    """Run the pipeline in this process and return its summary, however it ends.

    Args:
        home: the coordinator's directory.
        run_id: of the run, chosen by who wants to follow it; empty lets it choose.
        parameters: the flow's others.
    """
    with called(run_id):
        # Prefect takes a flow that answers `Any` for one that is awaited.
        state = cast("State[Any]", pipeline(home=str(home), return_state=True, **parameters))
    return summary_of(state)


def changed(
    job: Job,
    *,
    rounds: int | None = None,
    epsilon: float | None = None,
    private: bool = True,
    seed: int | None = None,
    folds: int | None = None,
    fold: int | None = None,
) -> Job:
    """Return the job with what a person asks for in place of what its file says.

    Raises:
        JobInvalid: where a change does not fit the job.
        IncompatibleJob: where it has no folds.
    """
    changes: dict[str, Any] = {}
    if rounds is not None:
        changes["protocol"] = {"rounds": rounds}
    if not private:
        changes["privacy"] = None
    elif epsilon is not None:
        changes["privacy"] = {"epsilon": epsilon}
    if seed is not None:
        changes["seed"] = seed
    job = job.changed(**changes) if changes else job
    if folds is None and fold is None:
        return job
    if folds is None or fold is None:
        raise JobInvalid(job.name, ["folds and fold belong together: folds 5, fold 1"])
    return fold_job(job, folds=folds, fold=fold)
