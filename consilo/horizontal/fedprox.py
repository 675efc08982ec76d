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

    def hooks(self) -> Sequence[FitHook]:
        """Return the proximal term."""
        return (ProximalHook(self.mu),)
