"""The number of threads is the step's: whatever the machine has, the same bits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import clinic
import numpy as np
import pytest
import torch
from threadpoolctl import ThreadpoolController, threadpool_info
from torch import Tensor, nn
from wide import digests, own_digest, wide_job

from consilo.learners.tasks import Task
from consilo.learners.threads import computing
from consilo.learners.torch_learner import Arrays, FitPlan, TorchLearner
from silos.simulation.in_memory import InMemorySilo

PLAN = FitPlan(batch_size=4, steps=2)
DATA = Arrays(np.eye(4, dtype=np.float32), np.array([0, 1, 0, 1]))
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(autouse=True)
def outside() -> Iterator[None]:
    """Three threads outside, of torch and of BLAS: no number that anybody sets by himself."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    with ThreadpoolController().limit(limits=3, user_api="blas"):
        yield
    torch.set_num_threads(before)


def blas_threads() -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"}


class Watching(nn.Module):
    """Notes how many threads there are, wherever a model's own code runs."""

    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)
        self._seen = seen

    def forward(self, features: Tensor) -> Tensor:
        self._seen += [torch.get_num_threads(), *blas_threads()]
        found: Tensor = self.layer(features)
        return found

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self._seen += [torch.get_num_threads(), *blas_threads()]
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        self._seen += [torch.get_num_threads(), *blas_threads()]
        return {"zero": 0.0}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("what", ["fit", "evaluate", "predict"])
def test_a_learner_computes_with_its_own_number_and_puts_back_what_it_found(
    what: str, threads: int
) -> None:
    seen: list[int] = []
    learner = TorchLearner(Watching(seen), Task.of("binary"), threads=threads)
    if what == "fit":
        learner.fit(DATA, PLAN, rng=np.random.default_rng(0))
    elif what == "evaluate":
        learner.evaluate(DATA)
    else:
        learner.predict(DATA.features)
    assert set(seen) == {threads}
    assert torch.get_num_threads() == 3
    assert blas_threads() == {3}


def test_the_number_is_put_back_after_an_error_and_scopes_nest() -> None:
    with computing(2):
        with computing(1):
            assert (torch.get_num_threads(), blas_threads()) == (1, {1})
        assert (torch.get_num_threads(), blas_threads()) == (2, {2})
        with pytest.raises(ZeroDivisionError), computing(1):
            raise ZeroDivisionError
        assert (torch.get_num_threads(), blas_threads()) == (2, {2})
    assert (torch.get_num_threads(), blas_threads()) == (3, {3})


def test_a_silo_answers_with_the_jobs_number(tmp_path: Path) -> None:
    """Whatever a verb computes, with a learner or without: here, the silo reads its rows."""
    seen: set[int] = set()

    class Host(InMemorySilo):
        def frame(self, contract, *, purpose=""):  # type: ignore[no-untyped-def]
            seen.update({torch.get_num_threads(), *blas_threads()})
            return super().frame(contract, purpose=purpose)

    hosts = {"north": Host("north", clinic.frame(30))}
    clinic.trained(clinic.job(local={"threads": 2}), hosts, tmp_path)
    assert seen == {2}


@pytest.mark.parametrize("private", [True, False])
def test_a_job_gives_the_same_bits_whatever_number_is_set_outside(
    tmp_path: Path, private: bool
) -> None:
    found = set()
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        found.add(own_digest(wide_job(private), tmp_path / str(number)))
        assert torch.get_num_threads() == number
    assert len(found) == 1


def test_a_job_gives_the_same_bits_whatever_its_process_was_given() -> None:
    said = {}
    for number in ("1", "2", "4"):
        environment = {**os.environ, "OMP_NUM_THREADS": number}
        command = [sys.executable, "-c", "import wide; wide.main()"]
        said[number] = subprocess.Popen(
            command, env=environment, cwd=SUPPORT, stdout=subprocess.PIPE, text=True
        )
    outputs = {number: each.communicate(timeout=200)[0] for number, each in said.items()}
    assert all(each.returncode == 0 for each in said.values())
    bare, jobs = zip(*(text.splitlines() for text in outputs.values()), strict=True)
    assert len(set(bare)) > 1, "the same sum, left to torch, should depend on the number"
    assert len(set(jobs)) == 1
    assert jobs[0] == digests()
