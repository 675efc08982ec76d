"""FedProx (Li, Sahu, Zaheer, Sanjabi, Talwalkar, Smith 2020, Algorithm 2).

Each silo minimises its loss plus mu/2 · ||w - w_global||². Differences from the paper: every silo
computes the same number of steps, so that γ-inexactness is not used.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from consilo.errors import IncompatibleJob
from consilo.horizontal.fedavg import FedAvg
from consilo.horizontal.training import TRAINING
from consilo.jobs.model_job import ModelJob
from consilo.learners.torch_learner import FitHook, ProximalHook


class FedProx(FedAvg):
    """FedAvg with a proximal term of weight ``protocol.mu`` in the silos."""

    reads: ClassVar[tuple[str, ...] | None] = (*TRAINING, "protocol.mu")

    def __init__(self, job: ModelJob) -> None:
        super().__init__(job)
        if job.protocol.mu is None:
            raise IncompatibleJob("protocol.mu: fedprox needs the proximal weight; 0.01 is common")
        self.mu = job.protocol.mu
        _require_pull(job, self.mu)

    def hooks(self) -> Sequence[FitHook]:
        """Return the proximal term."""
        return (ProximalHook(self.mu),)


def _require_pull(job: ModelJob, mu: float) -> None:
    """Raise where the term pushes away from the global model: sgd goes past it, ever further.

    With momentum m, w - w_global grows from step to step where lr · mu is above 2 (1 + m).
    """
    local = job.local
    most = 2 * (1 + local.momentum)
    if local.optimizer.lower() == "sgd" and local.lr * mu > most:
        raise IncompatibleJob(
            f"protocol.mu: {mu:g} times local.lr {local.lr:g} is {local.lr * mu:g}; above {most:g} "
            "each step of sgd goes past the global model, further than the one before; take a mu "
            f"of at most {most / local.lr:.3g}, or a lower lr"
        )
