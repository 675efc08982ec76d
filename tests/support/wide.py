"""A job whose bits depend on the number of threads, as any large model's do, and its digests.

``python -m wide`` prints two lines: of a sum that torch is left to cut as it likes, and of the job
without and with reproducible privacy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import clinic
import torch
from torch import Tensor, nn

from consilo.jobs.job import Job
from consilo.wire import params as tree

_WIDE = 100_000
"""Entries; torch cuts a sum of more than 32,768 for its threads."""


def _entries() -> Tensor:
    return torch.randn(_WIDE, generator=torch.Generator().manual_seed(5))


class Wide(nn.Module):
    """A linear model whose outputs are shifted by a sum over many entries."""

    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        shift = (_entries() * self.layer.weight[0, 0]).sum()
        found: Tensor = self.layer(features) + shift / 1000
        return found


def wide_job(private: bool) -> Job:
    privacy = {"epsilon": 5.0, "delta": 1e-3, "accountant": "rdp", "reproducible": True}
    return clinic.job(
        model="wide:Wide",
        protocol={"rounds": 2},
        local={"steps": 3},
        privacy=privacy if private else None,
    )


def own_digest(job: Job, folder: Path) -> str:
    run = clinic.trained(job, clinic.hosts(clinic.frames(40, 30)), folder)
    run.evaluate()
    return tree.digest(run.params) + repr(run.metrics)


def digests() -> str:
    with tempfile.TemporaryDirectory() as folder:
        places = ((private, Path(folder) / str(private)) for private in (False, True))
        return " ".join(own_digest(wide_job(private), place) for private, place in places)


def main() -> None:
    print(float(_entries().sum()).hex())
    print(digests())
