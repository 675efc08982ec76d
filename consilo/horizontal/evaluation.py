"""Evaluate one model on every silo's held-out rows; sums leave, rows do not."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

from consilo import metrics as figures
from consilo.horizontal.private_figures import judged_privately
from consilo.horizontal.tally import tally
from consilo.horizontal.training import TrainState, judged, loaded, request
from consilo.jobs.job import Job
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Step
from consilo.kernel.verbs import Disclosure, FromRows, count, numbers, verb
from consilo.kernel.view import Message, SiloView


@dataclass(frozen=True)
class Evaluated:
    """How good a model is.

    Args:
        metrics: over the held-out rows of all silos that answered.
        silos: silo → metrics on its own held-out rows.
        rows: silo → number of held-out rows.
        noise: standard error by noise of each metric over all silos; empty where all is exact. A
            metric that is not among ``metrics`` was left out as mostly noise.
    """

    metrics: Mapping[str, float]
    silos: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, int]
    noise: Mapping[str, float] = field(default_factory=dict)


class Evaluation(Protocol[None]):
    """One question to everybody: how good is this model on your held-out rows?

    Args:
        model: which; None in the silo half.
    """

    def __init__(self, model: TrainState | None = None) -> None:
        self.model = model

    @classmethod
    def serves(cls, job: Job) -> bool:
        """Return True: a model is judged at the end."""
        return True

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Evaluated]:
        """Return the model's metrics, over all silos and one by one."""
        if self.model is None:
            raise ValueError("Evaluation needs a model to ask about")
        answers = yield Ask(
            fed.cohort(), "evaluate", request(self.model), quorum=fed.job.cohort_quorum
        )
        fields = {name: reply.fields for name, reply in answers.replies.items()}
        sums = figures.merge(each.get("tally", {}) for each in fields.values())
        return Evaluated(
            figures.metrics_of(sums),
            {name: dict(each.get("metrics", {})) for name, each in fields.items()},
            {name: each["num_examples"] for name, each in fields.items()},
            figures.noise_of(sums),
        )

    @verb(
        "evaluate",
        replies={
            "metrics": numbers(
                Disclosure.METRIC, optional=True, rows=FromRows.FIGURES, held_out=True
            ),
            "tally": tally(rows=FromRows.FIGURES),
            "num_examples": count(Disclosure.STATISTIC, rows=FromRows.NONE),
        },
    )
    def evaluate(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return the model's figures on this silo's held-out rows."""
        learner, rows = loaded(silo, message.payload)
        if silo.job.privacy is None:
            found = judged(silo, learner, rows)
        else:
            found = judged_privately(silo, learner, rows)
        return {**found, "num_examples": len(rows.test)}
