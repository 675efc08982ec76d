"""Evaluate one model on every silo's held-out rows; sums leave, rows do not."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consilo import metrics as figures
from consilo.horizontal.features import Encoding, class_names
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
        intervals: 95 % intervals of the metrics over all silos, where one is known.
        constant: the figures of the best constant prediction on the same rows, where known.
        confusion: rows by true and said class over all silos; empty where it is not known.
        classes: how the classes are called.
        silo_intervals: silo → 95 % intervals of its own metrics, where one is known.
    """

    metrics: Mapping[str, float]
    silos: Mapping[str, Mapping[str, float]]
    rows: Mapping[str, int]
    noise: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    constant: Mapping[str, float] = field(default_factory=dict)
    confusion: tuple[tuple[int, ...], ...] = ()
    classes: tuple[str, ...] = ()
    silo_intervals: Mapping[str, Mapping[str, tuple[float, float]]] = field(default_factory=dict)


class Evaluation(Protocol[None]):
    """One question to everybody: how good is this model on your held-out rows?

    Args:
        model: which; None in the silo half.
    """

    asks_apart = True

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
        classes = class_names(Encoding.plan(fed.contract, fed.job).classes)
        matrix = np.asarray(sums.get("confusion", ()), np.int64)
        return Evaluated(
            figures.metrics_of(sums, classes),
            {name: dict(each.get("metrics", {})) for name, each in fields.items()},
            {name: each["num_examples"] for name, each in fields.items()},
            figures.noise_of(sums),
            figures.intervals_of(sums, classes),
            figures.constant_of(sums),
            tuple(tuple(row) for row in matrix.tolist()),
            classes,
            {
                name: figures.intervals_of(each["tally"], classes)
                for name, each in fields.items()
                if each.get("tally")
            },
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
        return {**found, "num_examples": rows.num_test}
