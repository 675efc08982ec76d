"""Figures over folds: mean, deviation, and of how many."""

import clinic
import pytest
from joint import job_of

from consilo.errors import IncompatibleJob, JobInvalid
from consilo.runs.folds import fold_job, over_folds


def test_a_figure_is_over_the_folds_that_have_it():
    found = over_folds([{"a": 1.0, "b": 2.0}, {"a": 3.0}, {"a": 5.0, "b": float("nan")}])
    assert found["a"] == {"mean": 3.0, "deviation": 2.0, "folds": 3}
    assert found["b"] == {"mean": 2.0, "deviation": None, "folds": 1}


def test_folds_are_of_horizontal_jobs_and_there():
    job = clinic.job(evaluation={"holdout": 0.4})
    assert fold_job(job, folds=3, fold=2).evaluation.named.fold == 2
    with pytest.raises(JobInvalid, match="there are 3 folds"):
        fold_job(job, folds=3, fold=4)
    with pytest.raises(IncompatibleJob, match="folds by row are for horizontal jobs"):
        fold_job(job_of(), folds=3, fold=1)
