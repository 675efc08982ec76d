"""A model as it travels to be judged: parameters, scales, and the job that it came of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.horizontal.features import Scale
from consilo.horizontal.training import TrainState
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.wire.params import Params
from consilo.wire.params import digest as digest_of

ASKED, MONITORING = "asked", "monitoring"
"""In a question and its answer where the model is in use; not there where it is a candidate."""
_UNSAID = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "rmse"}
"""The metric of a job without a section ``promotion``."""


@dataclass(frozen=True)
class Model:
    """A model as it travels to be judged.

    Args:
        run: that trained it.
        job: of that run.
        params: all entries of its state, in their order.
        scale: of its inputs; None where each silo uses its own.
        target: what standardises its target; None where it is learnt as it is.
    """

    run: str
    job: ModelJob
    params: Params
    scale: Scale | None
    target: Scale | None

    @classmethod
    def of(cls, run: str, job: ModelJob, params: Params, state: TrainState) -> Model:
        """Return the model that a run has left.

        Args:
            run: its id.
            job: its job.
            params: all entries of the model's state, as they are registered.
            state: where its training stood.
        """
        return cls(run, job, params, state.scale, state.target)

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters."""
        return digest_of(self.params)

    def to_payload(self) -> dict[str, Any]:
        """Return the model as it travels."""
        return {
            "run": self.run,
            "job": self.job.to_json(),
            "params": dict(self.params),
            "order": list(self.params),
            "scale": None if self.scale is None else self.scale.to_payload(),
            "target": None if self.target is None else self.target.to_payload(),
        }

    @classmethod
    def from_payload(cls, value: Mapping[str, Any]) -> Model:
        """Return the model that `to_payload` wrote.

        Raises:
            ReplyInvalid: where it is none.
        """
        scales = [None if value[n] is None else Scale.from_payload(value[n])
                  for n in ("scale", "target")]  # fmt: skip
        if sorted(value["order"]) != sorted(value["params"]):
            raise ReplyInvalid("a model's parameters are not those that its order names")
        params = {name: np.asarray(value["params"][name]) for name in value["order"]}
        return cls(str(value["run"]), ModelJob.of(Job.from_json(value["job"])), params, *scales)


def metric_of(job: ModelJob) -> str:
    """Return by which figure a job's models are held against each other."""
    return _UNSAID.get(job.task, "") if job.promotion is None else job.promotion.metric
