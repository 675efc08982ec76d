"""Try a job's own code on made-up rows, as a silo would run it, before any silo is asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from consilo.config import nearest
from consilo.contracts.contract import Contract
from consilo.errors import ModelDiverged
from consilo.horizontal.features import Encoding, Scale, target_ends
from consilo.horizontal.learning import learner_of, plan_of
from consilo.horizontal.private_figures import FIGURES_OF
from consilo.horizontal.statistics import Moments
from consilo.jobs.model_job import ModelJob
from consilo.learners.attempts import attempt
from consilo.learners.torch_learner import FitHook
from consilo.learners.uncompiled import uncompiled
from consilo.metrics import metrics_of
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.noise import SecretStream

_MOST_ROWS = 32
"""Of a made-up batch, unless there are more than half as many classes."""


def rehearse_training(
    job: ModelJob,
    contract: Contract,
    encoding: Encoding,
    *,
    hooks: Sequence[FitHook] = (),
    search_path: Sequence[Path] = (),
    scales_target: bool = False,
) -> list[str]:
    """Return why silos could not train and judge a job's model: nothing, where they can.

    One batch of made-up rows goes through the model, its metrics, its loss and one step of the
    optimiser, under differential privacy where the job has it. That a model diverges on such rows
    says nothing about real ones. The model that is tried is another one than the run's.

    Args:
        job: names them.
        contract: whose rows are made up.
        encoding: of those rows.
        hooks: what the protocol adds to a fit.
        search_path: where the job's own modules lie.
        scales_target: whether the target is learnt standardised.
    """
    faults: list[str] = []
    plan = plan_of(job)
    data = encoding.made_up(contract, num_rows=min(plan.batch_size, _MOST_ROWS))
    of = Moments.of(data.targets.reshape(len(data), -1)) if scales_target else None
    target = None if of is None else Scale.of_moments(of.mean, of.variance)
    learner = learner_of(job, encoding, search_path, target)
    plan = replace(plan, batch_size=min(plan.batch_size, len(data)), steps=1, epochs=None)

    def judge() -> None:
        with suppress(ModelDiverged):
            _, tallied = learner.evaluate(data)
            names = sorted(metrics_of(tallied, learner.task.classes))
            if job.privacy is not None:
                bounded = job.task != "regression" or target_ends(contract) is not None
                names = sorted(FIGURES_OF.get(job.task, ())) if bounded else []
            faults.extend(promotion_faults(job, names))

    def train() -> None:
        with suppress(ModelDiverged):
            learner.fit(data, plan, rng=np.random.default_rng(0), hooks=hooks)

    attempt(faults, "evaluation", judge)
    if job.privacy is not None:
        stream = SecretStream(bytes(32), "rehearsal")
        norm = job.privacy.max_grad_norm
        private = DPHook(sigma=1.0, max_grad_norm=norm, sample_rate=1.0, stream=stream)
        hooks = (*hooks, private)
    with uncompiled():
        attempt(faults, "training", train)
    return faults


def promotion_faults(job: ModelJob, names: Sequence[str]) -> list[str]:
    """Return why no candidate could be held to ``promotion.metric``.

    Args:
        job: with the section, or without.
        names: of the figures that the job's models are judged by.
    """
    if job.promotion is None:
        return []
    if job.privacy is not None and job.privacy.metrics_epsilon is None:
        return [
            "promotion.metric: without privacy.metrics_epsilon a private job has no figures to "
            "hold a candidate to"
        ]
    metric = job.promotion.metric
    if metric in names:
        return []
    guess = nearest(metric, [*names])
    hint = f"did you mean '{guess}'?" if guess else f"it has {', '.join(names) or 'none'}"
    return [f"promotion.metric: this job has no figure '{metric}'; {hint}"]
