"""Try the parts of a split network on made-up rows, before any silo is asked."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from consilo.contracts.contract import Contract
from consilo.errors import ModelDiverged
from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import plan_of
from consilo.horizontal.scaling import target_mode
from consilo.jobs.job import ModelSpec
from consilo.jobs.model_job import ModelJob
from consilo.learners.attempts import attempt
from consilo.learners.modules import build_model
from consilo.learners.optimizers import make_optimizer
from consilo.learners.randomness import seeded
from consilo.learners.tasks import Task
from consilo.privacy.dpsgd import check_private
from consilo.privacy.noise import SecretStream
from consilo.vertical.blocks import without_labels
from consilo.vertical.split.layers import Joined, Noise, clipped, learn_bottom, learn_top
from consilo.vertical.split.plan import SplitSettings


def rehearse_split(
    job: ModelJob, settings: SplitSettings, contract: Contract, search_path: Sequence[Path]
) -> list[str]:
    """Return why silos could not build, train or judge the parts: nothing, where they can."""
    faults: list[str] = []
    with seeded(0):
        attempt(faults, "training", lambda: _try(job, settings, contract, search_path))
    return faults


def _try(
    job: ModelJob, settings: SplitSettings, contract: Contract, search_path: Sequence[Path]
) -> None:
    label, others, _ = settings.parties
    mine = Encoding.plan(settings.part(contract, label), job)
    task = Task.of(
        job.task,
        num_classes=len(mine.classes) or 2,
        num_targets=len(mine.targets),
        num_outputs=job.outputs,
        loss=job.loss,
        metrics=job.metrics,
        search_path=search_path,
    )

    def built(spec: ModelSpec, inputs: int, outputs: int) -> torch.nn.Module:
        model = build_model(
            {"class": spec.name, "args": spec.args},
            num_inputs=inputs,
            num_outputs=outputs,
            seed=0,
            search_path=search_path,
            must_fit=True,
        )
        if job.privacy is not None:
            check_private(model)
        return model

    rows = mine.made_up(contract)
    features = torch.from_numpy(rows.features)
    blind = without_labels(job)
    bottoms, theirs = {}, {}
    for name in others:
        encoding = Encoding.plan(settings.part(contract, name), blind)
        theirs[name] = torch.from_numpy(
            replace(encoding, targets=()).made_up(contract, num_rows=len(rows)).features
        )[: len(rows)]
        bottoms[name] = built(settings.bottom, theirs[name].shape[1], settings.width)
    top = built(job.module, (1 + len(others)) * settings.width, task.num_outputs)
    target_mode(job, contract, own_loss=task.has_own_loss(top))
    joined = Joined(built(settings.bottom, features.shape[1], settings.width), top, settings.clip)
    noise = _noise(job, settings)
    plan = plan_of(job)
    targets = task.encode(rows.targets)
    with suppress(ModelDiverged):
        with torch.no_grad():
            sent = [clipped(bottoms[name](theirs[name]), settings.clip) for name in others]
            beside = torch.cat([features[:, :0], *sent], dim=1)
            outputs = task.shape_outputs(joined(features, beside))
        task.measure(top, outputs, targets)
        learn_top(
            joined,
            make_optimizer(plan, joined, search_path),
            task,
            features,
            beside,
            targets,
            torch.ones(len(rows), dtype=torch.bool),
            noise,
        )
        for name in others:
            learn_bottom(
                bottoms[name],
                make_optimizer(plan, bottoms[name], search_path),
                theirs[name],
                torch.zeros(len(rows), settings.width),
                settings.clip,
                noise,
            )


def _noise(job: ModelJob, settings: SplitSettings) -> Noise | None:
    if job.privacy is None:
        return None
    norm = job.privacy.max_grad_norm
    stream = SecretStream(bytes(32), "rehearsal")
    return Noise(sigma=1.0, clip=settings.clip or norm, clip_update=norm, stream=stream)
