"""``local.optimizer`` imported any module, and ran code of a bundle that the operator rejected.

Now every dotted name in a job passes one resolver: what Consilo, torch or Flower offers for that
purpose, or what a module of the approved bundle defines itself.
"""

from __future__ import annotations

from pathlib import Path

import clinic
import pytest
import torch
import warm_silo

from consilo.errors import ConsiloError, JobInvalid
from consilo.jobs.model_job import ReduceSpec
from consilo.kernel.verbs import Disclosure
from consilo.learners.modules import HOMES, resolve
from consilo.learners.optimizers import make_optimizer
from consilo.learners.plans import FitPlan
from consilo.protocols.names import find_protocol
from consilo.reduce.rule import rule_of
from consilo.transports.flower.bundle import build_bundle, bundle_hash
from silos.gate.bundles import reject

EVIL = b"open({ran!r}, 'w').write('ran')\n\n\nclass Opt:\n    pass\n"
MODULE = b"""
import os
import subprocess
from functools import partial
from os import system
from torch import nn
from torch.optim import SGD

run = subprocess.run
bound = partial(system, "true")
Alias = SGD


class Net(nn.Module):
    os = os


def metrics(outputs, targets):
    return {}
"""
ELSEWHERE = [
    "os:system",
    "subprocess:Popen",
    "builtins:eval",
    "posix:system",
    "torch.os:system",
    "torch:os.system",
    "torch:load",
    "torch.hub:load",
    "torch.utils.cpp_extension:load",
    "torch.serialization:load",
    "torch.optim.optimizer:torch",
    "torch.optim.optimizer:defaultdict",
    "torch.nn:Module.forward",
    "torch.nn.functional:warnings",
    "torch.nn.functional:importlib",
    "consilo.learners.tabular:nn",
    "consilo.machine.forks:load",
    "consilo.learners.modules:load_dotted",
    "silos.commands.app:join",
    "flwr.serverapp.strategy.fedavg:Iterable",
    "numpy.f2py:compile",
    "numpy.testing:rundocs",
    "sitecustomize:x",
    "_consilo_job_0:Net",
    "mine:os",
    "mine:os.system",
    "mine:system",
    "mine:run",
    "mine:bound",
    "mine:Alias",
    "mine:Net.os",
    "mine:__builtins__",
    "mine:__loader__",
    "mine.os:system",
    ".mine:Net",
    "mine/../mine:Net",
    "consilo_bundle:client",
    "BUNDLE:json",
]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "mine.py").write_bytes(MODULE)
    return folder


@pytest.mark.parametrize("where", ELSEWHERE)
@pytest.mark.parametrize("what", [*HOMES, "metrics", "protocol", "reduce.rule"])
def test_one_rule_for_every_name(place: Path, what: str, where: str) -> None:
    with pytest.raises(JobInvalid):
        resolve(where, [place], what=what)


def test_what_the_rule_admits(place: Path) -> None:
    assert resolve("mine:Net", [place], what="model", of=torch.nn.Module).__name__ == "Net"
    assert resolve("mine:metrics", [place], what="metrics")(None, None) == {}
    assert resolve("torch.optim:SGD", [place], what="optimizer") is torch.optim.SGD
    assert resolve("torch.nn.functional:l1_loss", [place], what="loss")


@pytest.mark.parametrize("where", ["mine:Net", "mine:metrics", "os.system", "torch.nn:Linear"])
def test_each_user_of_it_wants_its_own_kind(place: Path, where: str) -> None:
    plan = FitPlan(batch_size=8, steps=1, optimizer=where)
    with pytest.raises(JobInvalid):
        make_optimizer(plan, torch.nn.Linear(2, 1), [place])
    with pytest.raises(ConsiloError):
        find_protocol(where, [place])


def test_a_rule_is_the_jobs_own(place: Path) -> None:
    for where in ("os:system", "torch.optim:SGD", "consilo.reduce.mean:WeightedMean"):
        with pytest.raises(ConsiloError):
            rule_of(ReduceSpec(rule=where), [place])


def test_code_of_a_rejected_bundle_does_not_run(tmp_path: Path) -> None:
    """By a name that Python would have found from the silo's own directory."""
    silo = warm_silo.make(tmp_path / "north")
    ran = tmp_path / "RAN"
    text = EVIL.replace(b"{ran!r}", repr(str(ran)).encode())
    bad = build_bundle({"evil.py": text}, disclosures=[Disclosure.METRIC])
    warm_silo.approved(silo, bad)
    reject(silo, bundle_hash(bad))
    unpacked = silo / "bundles" / bundle_hash(bad)
    unpacked.mkdir()
    (unpacked / "evil.py").write_bytes(text)
    (silo / "evil.py").write_bytes(text)
    plain = warm_silo.approved(silo, build_bundle())
    with warm_silo.warm(silo) as process:
        process.start()
        honest, fields = warm_silo.ask(process, plain, clinic.job(), run="honest")
        assert (honest.status, sorted(fields)[0]) == ("ok", "delta")
        for number, name in enumerate((f"bundles.{bundle_hash(bad)}.evil:Opt", "evil:Opt")):
            job = clinic.job(local={"batch_size": 8, "epochs": 1, "lr": 0.1, "optimizer": name})
            reply, _ = warm_silo.ask(process, plain, job, run=f"r{number}")
            assert reply.status == "fault"
    assert not ran.exists()
