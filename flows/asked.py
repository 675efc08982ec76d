"""What a person or a schedule asks the pipeline for: a job with changes, or to go on with a run."""

from __future__ import annotations

from typing import Any

from consilo.errors import JobInvalid
from consilo.jobs.job import Job
from consilo.runs.continued import extended
from consilo.runs.folds import fold_job
from flows.services.connection import home_directory, job_file
from flows.services.order import Order
from flows.session import order_of


def asked_for(
    job: str,
    *,
    rounds: int | None,
    epsilon: float | None,
    private: bool,
    seed: int | None,
    folds: int | None,
    fold: int | None,
    resume: str | None,
    extend: str | None,
    bundle: str | None,
    home: str | None,
) -> Order:
    """Return the order that the parameters of `flows.pipeline.pipeline` make; they are told there.

    Raises:
        ConfigInvalid: where nobody says which coordinator's directory it is.
        JobInvalid: where there is no such job, or a change does not fit it.
        IncompatibleJob: where it has no folds, or its run cannot be extended.
        ContractInvalid: where its contract is not found or not valid.
    """
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
    return order_of(
        asked,
        home=place,
        search_path=(path.parent,),
        resume=resume or "",
        bundle=place / bundle if bundle else None,
        registers=folds is None,
        job_file=path,
    )


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
