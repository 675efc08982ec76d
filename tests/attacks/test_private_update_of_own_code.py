"""Code of a bundle could write rows into a private update: it was clipped where that code ran.

Now each row's gradient is computed in a process that sees no other, and what comes of it is clipped
and noised by the guard.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import clinic
import numpy as np
import pytest
import warm_silo

from consilo.errors import ConsiloError
from consilo.horizontal.apart import GradientsApart, LearnerApart
from consilo.kernel.verbs import Disclosure
from consilo.learners.tabular import LogisticRegression
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import Arrays, FitPlan, TorchLearner
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.noise import ARITHMETIC, SecretStream
from consilo.transports.flower.bundle import build_bundle, keep_bundle
from silos.gate.policy import TEMPLATE
from silos.node.apart import Units
from silos.node.wall import Wall
from silos.node.warm_up import warm
from silos.node.worker import fork_worker

ALONE = "CONSILO_TESTS_ALONE"
alone = pytest.mark.skipif(ALONE not in os.environ, reason="run by the first test of this file")


def test_all_below_hold_in_a_process_that_has_computed_nothing() -> None:
    """As a silo's does, before it forks: pytest's own has had threads of torch's by now."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-q", __file__, "-k", "not all_below"],
        env={**os.environ, ALONE: "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    assert "skipped" not in done.stdout.splitlines()[-1]


NET = """
import ctypes, fcntl, mmap, os, signal, socket, threading, time
import torch
from torch import nn

SEEN = []


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, features):
        {act}
        return self.layer(features)
"""
SECRET = "float(features[0, 0]) > 50"
"""Of one row alone: what a hostile model would tell by the gradients of the others."""
STASH = f"""SEEN.append({SECRET})
        if any(SEEN) and not SEEN[-1]: return self.layer(features) * 1e3"""
TRIES = {
    "fork": "os.fork() or os._exit(0)",
    "thread": "threading.Thread(target=lambda: None).start()",
    "pipe": "os.pipe()",
    "socket": "socket.socketpair()",
    "shared file": "os.memfd_create('x')",
    "kill": "os.kill(os.getppid(), 0)",
    "ptrace": "_call(101, 16, os.getppid(), 0, 0)",
    "read a package": "open(torch.__file__).read()",
    "read memory": "open('/proc/meminfo').read()",
    "write": "open('/tmp/seen', 'w')",
    "lock": "fcntl.flock(0, fcntl.LOCK_EX)",
    "flags of a shared file": "fcntl.fcntl(0, fcntl.F_SETFL, os.O_NONBLOCK)",
    "other descriptors": "[os.fstat(n) for n in range(3, 64) if n != HERE()]",
}
PREAMBLE = """
def _call(*arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "failed")


def HERE():
    return next(n for n in range(3, 64) if _is_open(n))


def _is_open(n):
    try:
        os.fstat(n)
        return True
    except OSError:
        return False


def works(function):
    try:
        function()
        return True
    except BaseException:
        return False
"""
JOB = clinic.job(model="net:Net")
PARAMS = {
    "layer.weight": np.linspace(-0.5, 0.5, 5, dtype="f4").reshape(1, 5),
    "layer.bias": np.zeros(1, "f4"),
}
NORM = 1.0


def units(folder: Path, act: str = "pass", text: str = NET) -> Units:
    """Where a model that does ``act`` in its forward computes, as a guard has it."""
    folder.mkdir(exist_ok=True)
    content = text.replace("{act}", act).encode() + PREAMBLE.encode()
    bundle = keep_bundle(build_bundle({"net.py": content}), folder / "bundles")
    (folder / "silo").mkdir(exist_ok=True)
    wall = Wall(fork_worker(bundle, folder / "silo"), bundle)
    header = SimpleNamespace(step_id="step-1")
    return wall.apart(SimpleNamespace(job=JOB, contract=clinic.contract(), header=header))  # type: ignore[arg-type]


def data(*first: float) -> Arrays:
    rows = np.tile(np.linspace(0.1, 0.5, 5, dtype="f4"), (len(first), 1))
    rows[:, 0] = first
    return Arrays(rows, np.arange(len(first)) % 2)


def delta(apart: Units, rows: Arrays, sigma: float = 0.0) -> np.ndarray:
    """What training changes in one step of size 1 over all rows, times how many there are."""
    learner = LearnerApart(apart, Task.of("binary"), PARAMS, inputs=5, threads=1)
    hook = DPHook(
        sigma=sigma,
        max_grad_norm=NORM,
        sample_rate=1.0,
        stream=SecretStream(bytes(32), "test"),
        source=GradientsApart(apart),
    )
    plan = FitPlan(batch_size=len(rows), steps=1, lr=1.0)
    learner.fit(rows, plan, rng=np.random.default_rng(0), hooks=[hook])
    found = learner.parameters()
    return np.concatenate([(PARAMS[each] - found[each]).ravel() for each in PARAMS]) * len(rows)


WAYS = {
    "stash": STASH,
    "huge": f"if {SECRET}: return self.layer(features) * 1e30",
    "nan": f"if {SECRET}: return self.layer(features) * float('nan')",
    "crash": f"if {SECRET}: os._exit(1)",
    "raise": f"if {SECRET}: raise ValueError(features)",
    "sleep": f"if {SECRET}: time.sleep(30)",
    "flood": f"if {SECRET}: [os.write(n, bytes(1 << 20)) for n in range(3, 64) if _is_open(n)]",
}


@alone
@pytest.mark.parametrize("way", sorted(WAYS))
def test_one_row_moves_the_sum_by_the_norm_at_most(tmp_path: Path, way: str) -> None:
    """Whatever a model does with that row, the others' gradients are as without it."""
    apart = units(tmp_path, WAYS[way])
    rows = data(99.0, 1.0, 2.0, 3.0)
    without = delta(apart, Arrays(rows.features[1:], rows.targets[1:]))
    assert np.linalg.norm(without) > 0.1
    moved = delta(apart, rows) - without
    assert np.linalg.norm(moved) <= NORM * (1 + ARITHMETIC) + 1e-5


@alone
def test_a_model_that_can_be_written_down_computes_in_the_guard_without_its_code(
    tmp_path: Path,
) -> None:
    """And gives the sums that processes of one row give; one that looks at values does not."""
    warm()  # as a silo's node does
    for way in ("crash", "raise", "stash"):
        learner = LearnerApart(
            units(tmp_path / way, WAYS[way]), Task.of("binary"), PARAMS, inputs=5, threads=1
        )
        assert learner.graph() is None
    apart = units(tmp_path)
    graph = LearnerApart(apart, Task.of("binary"), PARAMS, inputs=5, threads=1).graph()
    assert graph is not None
    learner = TorchLearner(graph, Task.of("binary"))
    hook = DPHook(
        sigma=0.0, max_grad_norm=NORM, sample_rate=1.0, stream=SecretStream(bytes(32), "test")
    )
    rows, rng = data(1.0, 2.0, 3.0), np.random.default_rng(0)
    learner.fit(rows, FitPlan(batch_size=3, steps=1, lr=1.0), rng=rng, hooks=[hook])
    assert apart.asked == 0
    after = learner.parameters()
    moved = np.concatenate([(PARAMS[each] - after[each]).ravel() for each in PARAMS]) * 3
    np.testing.assert_allclose(moved, delta(units(tmp_path), rows), atol=1e-5)


@alone
def test_parameters_are_those_of_the_same_model_in_one_process(tmp_path: Path) -> None:
    """Without noise, to rounding."""
    found = delta(units(tmp_path), data(1.0, 2.0, 3.0))
    learner = TorchLearner(LogisticRegression(5), Task.of("binary"))
    learner.load({name.replace("layer", "linear"): each for name, each in PARAMS.items()})
    hook = DPHook(
        sigma=0.0, max_grad_norm=NORM, sample_rate=1.0, stream=SecretStream(bytes(32), "test")
    )
    plan, rng = FitPlan(batch_size=3, steps=1, lr=1.0), np.random.default_rng(0)
    learner.fit(data(1.0, 2.0, 3.0), plan, rng=rng, hooks=[hook])
    after = learner.parameters()
    for name, place in (("weight", slice(0, 5)), ("bias", slice(5, 6))):
        moved = (PARAMS[f"layer.{name}"] - after[f"linear.{name}"]).ravel() * 3
        np.testing.assert_allclose(found[place], moved, atol=1e-5)


@alone
@pytest.mark.parametrize("name", sorted(TRIES))
def test_nothing_of_a_process_outlives_it_or_reaches_another(tmp_path: Path, name: str) -> None:
    act = f"assert not works(lambda: {TRIES[name]}), {name!r}"
    assert np.isfinite(delta(units(tmp_path, act), data(1.0))).all()
    act = "assert not works(lambda: 1), 'it would be told'"
    with pytest.raises(ConsiloError):
        delta(units(tmp_path, act), data(1.0))


@alone
def test_each_has_the_same_time_whatever_the_one_before_did(tmp_path: Path) -> None:
    apart = units(tmp_path, f"if {SECRET}: os._exit(0)")
    apart.load(PARAMS)
    unit = {"features": data(1.0).features, "targets": np.zeros(1, int), "seed": 0}
    assert apart.measure("gradient", unit, 24) is not None
    begun = time.monotonic()
    assert apart.ask("gradient", {**unit, "features": data(99.0).features}, 24) is None
    apart.ask("gradient", unit, 24)
    assert time.monotonic() - begun > apart.limit_s


@alone
def test_rows_without_an_answer_are_counted_in_the_silos_own_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with units(tmp_path, f"if {SECRET}: os._exit(0)") as apart:
        delta(apart, data(99.0, 1.0, 2.0, 99.0))
        assert not caplog.messages
    (said,) = [each for each in caplog.messages if "added nothing" in each]
    assert said.startswith("step step-1: 2 of 4 times")


CLASSES = (Disclosure.METRIC, Disclosure.STATISTIC, Disclosure.UPDATE)
PRIVATE: Mapping[str, Any] = {"epsilon": 5.0, "delta": 1e-3, "accountant": "rdp"}


@pytest.fixture
def asked(tmp_path: Path) -> Callable[..., Any]:
    """What a real silo's node answers to a private job whose code is the bundle's."""

    def ask(text: str, **changes: Any) -> Any:
        policy = TEMPLATE.replace("required: no", "required: yes")
        silo = warm_silo.make(tmp_path / "north", policy=policy)
        bundle = warm_silo.approved(
            silo, build_bundle({"net.py": text.encode()}, disclosures=CLASSES)
        )
        shape = warm_silo.parameters()["linear.weight"].shape
        zero = {"layer.weight": np.zeros(shape, "f4"), "layer.bias": np.zeros(shape[0], "f4")}
        with warm_silo.warm(silo) as process:
            process.start()
            job = JOB.changed(privacy=PRIVATE, **changes)
            payload = {"params": zero, "scale": {"mean": np.zeros(2), "deviation": np.ones(2)}}
            return warm_silo.ask(process, bundle, job, payload=payload)

    return ask


@alone
def test_an_honest_model_of_a_bundle_trains_privately(asked: Callable[..., Any]) -> None:
    reply, fields = asked(NET.replace("{act}", "pass"), local={"epochs": 1, "batch_size": 8})
    assert reply.status == "ok", reply.reason
    assert fields["delta"].keys() == {"layer.weight", "layer.bias"}
    assert fields["epsilon"] > 0


@alone
def test_an_optimiser_of_a_bundle_gets_no_row_to_write_into_the_parameters(
    asked: Callable[..., Any],
) -> None:
    """It runs nowhere: the guard imports no code of a bundle, and refuses it."""
    text = NET.replace("{act}", "pass") + "\n\nclass Mine(torch.optim.SGD): pass\n"
    reply, _ = asked(text, local={"optimizer": "net:Mine"})
    assert (reply.status, reply.code) == ("fault", "refused")
    assert "optimiser" in reply.reason
