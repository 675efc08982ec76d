"""A job as often as there are folds, and what its figures are over them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from consilo.errors import IncompatibleJob
from consilo.jobs.horizontal import Horizontal
from consilo.jobs.job import Job


def fold_job(job: Job, *, folds: int, fold: int) -> Job:
    """Return a job that holds one fold out; its own ``evaluation`` gives way to that.

    Args:
        job: a horizontal one.
        folds: how many parts rows, or subjects, fall into, 2 to 50.
        fold: which one is held out, from 1.

    Raises:
        IncompatibleJob: where the job is not horizontal.
        JobInvalid: where there is no such fold.
    """
    if not isinstance(job, Horizontal):
        raise IncompatibleJob(
            f"'{job.name}' is of the kind {job.kind}: folds by row are for horizontal jobs; "
            "vertical_split has protocol.args.folds"
        )
    return job.changed(evaluation={"holdout": 0.2, "split": {"folds": folds, "fold": fold}})


def over_folds(figures: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Return figure → ``mean``, ``deviation`` (ddof 1), ``folds``, over the folds that have it.

    The folds' models share most of the rows that they learnt from, so that the deviation says how
    much a figure moves, and is no standard error. One fold alone has none.

    Args:
        figures: of each fold, over all silos.
    """
    found: dict[str, dict[str, float | None]] = {}
    for name in dict.fromkeys(name for each in figures for name in each):
        values = [each[name] for each in figures if not math.isnan(each.get(name, math.nan))]
        if values:
            deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
            mean = float(np.mean(values))
            found[name] = {"mean": mean, "deviation": deviation, "folds": len(values)}
    return found
