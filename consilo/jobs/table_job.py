"""What all kinds of jobs share that make numbers of a contract's columns."""

from __future__ import annotations

from typing import Literal

from consilo.jobs.job import Evaluation, Features, Job


class TableJob(Job):
    """A job over the contract's columns: how they become numbers, and of which rows."""

    task: Literal["binary", "multiclass", "regression", "custom"] = "binary"
    features: Features = Features()
    evaluation: Evaluation = Evaluation()
