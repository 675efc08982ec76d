"""A model's buffers are averaged and never optimised: BatchNorm equals the pooled statistics."""

import clinic
import numpy as np
import pytest

from consilo.errors import IncompatibleJob
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.training import TrainState, mean_buffers
from consilo.kernel.steps import Reply
from consilo.runs.planning.plan import plan
from consilo.wire.payload import pack, unpack

NET = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, num_inputs):
        super().__init__(nn.BatchNorm1d(num_inputs), nn.Linear(num_inputs, 1))
        self.register_buffer("positions", torch.arange(3))
"""
RULES = """
import numpy as np


def average(vectors, weights):
    return {
        name: np.average([each[name] for each in vectors], axis=0, weights=weights)
        for name in vectors[0]
    }
"""
ALIKE = """
from consilo.protocol import Training, subtract
from dataclasses import replace


class Alike(Training):
    vectors = {"delta": None}

    def step(self, state, mean_delta):
        return replace(state, params=subtract(state.params, mean_delta))
"""
OWN = """
from dataclasses import replace

from consilo.protocol import (
    TRAIN_REPLIES, Ask, Checkpoint, Protocol, Publish, mean_buffers, report, request,
    subtract, train_locally, verb,
)


class Deaf(Protocol):
    def coordinate(self, fed, state):
        while state.round < state.rounds:
            answers = yield Ask(fed.cohort(), "train", request(state), quorum=fed.job.cohort_quorum)
            state = replace(state, round=state.round + 1, **self.kept(state, answers))
            yield Publish("round", report(state, answers.replies))
            yield Checkpoint(state)
        return state

    def kept(self, state, answers):
        return {}

    @verb("train", replies=TRAIN_REPLIES)
    def train(self, silo, message):
        return train_locally(silo, message)


class Own(Deaf):
    averages_buffers = True

    def kept(self, state, answers):
        return {"buffers": mean_buffers(state, answers.replies)}
"""
SIZES = (40, 90, 25)
ROUNDS = 3
PROTOCOLS = {
    "fedavg": {},
    "fedprox": {"mu": 0.1},
    "fedadam": {"server_lr": 0.1},
    "fedyogi": {"server_lr": 0.1},
    "fedadagrad": {"server_lr": 0.1},
    "fedopt": {"server_lr": 0.1, "optimizer": "torch.optim:SGD", "args": {"momentum": 0.9}},
    "flower": {"strategy": "flwr.serverapp.strategy:FedAdam", "args": {"min_train_nodes": 1}},
    "own:Own": {},
    "alike:Alike": {},
}


@pytest.fixture
def modules(tmp_path):
    for name, text in (("net", NET), ("rules", RULES), ("own", OWN), ("alike", ALIKE)):
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def job(protocol, **changes):
    return clinic.job(
        model="net:Net",
        features={"standardize": "none"},
        protocol={"name": protocol, "rounds": ROUNDS, **PROTOCOLS.get(protocol, {})},
        local={"batch_size": 1000, "steps": 1, "lr": 0.1},
        **changes,
    )


def pooled(job_, rows, *, alike=False):
    """Return mean and variance that BatchNorm has after the rounds: one full batch in each."""
    encoding = Encoding.plan(clinic.contract(), job_)
    parts = [
        encoding.features(clinic.learnt(each, name, job_), Scale.unit(1)).astype(np.float64)
        for name, each in rows.items()
    ]
    weights = [1 if alike else len(each) for each in parts]
    mean = np.average([each.mean(axis=0) for each in parts], axis=0, weights=weights)
    var = np.average([each.var(axis=0, ddof=1) for each in parts], axis=0, weights=weights)
    left = 0.9**ROUNDS
    return (1 - left) * mean, left + (1 - left) * var


def trained(protocol, directory, **changes):
    rows = {name: each.dropna() for name, each in clinic.frames(*SIZES).items()}
    asked = job(protocol, **changes)
    hosts = clinic.hosts(rows, search_path=(directory,))
    run = clinic.trained(asked, hosts, directory / "run", search_path=(directory,))
    return run, pooled(asked, rows, alike=protocol == "alike:Alike")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_batch_norm_holds_the_pooled_statistics_whatever_the_server_does(protocol, modules):
    run, (mean, var) = trained(protocol, modules)
    np.testing.assert_allclose(run.params["0.running_mean"], mean, rtol=1e-5)
    np.testing.assert_allclose(run.params["0.running_var"], var, rtol=1e-5)
    assert run.params["0.num_batches_tracked"] == ROUNDS
    assert run.params["0.num_batches_tracked"].dtype == np.int64
    assert run.params["positions"].tolist() == [0, 1, 2]
    assert set(run.state.params) == {"0.weight", "0.bias", "1.weight", "1.bias"}
    run.learner()  # takes all of it


def test_a_rule_of_ones_own_combines_them_too(modules):
    run, (mean, _) = trained("fedadam", modules, reduce={"rule": "rules:average"})
    np.testing.assert_allclose(run.params["0.running_mean"], mean, rtol=1e-5)
    assert run.params["0.num_batches_tracked"] == ROUNDS


def test_a_protocol_that_would_forget_them_is_refused(modules):
    asked = job("own:Deaf")
    with pytest.raises(IncompatibleJob, match=r"0\.running_mean.*GroupNorm.*mean_buffers"):
        plan(asked, clinic.contract(), ("east",), (modules,))
    plan(asked.changed(model="consilo.learners.tabular:MLP"), clinic.contract(), (), (modules,))


def test_a_state_keeps_them_over_a_restart():
    counts = {"b.count": np.array(3, np.int64), "b.mean": np.zeros(2, np.float32)}
    state = TrainState({"w": np.ones(2, np.float32)}, 4, buffers=counts)
    saved = TrainState.from_payload(unpack(pack(state.to_payload())))
    assert pack(saved.to_payload()) == pack(state.to_payload())
    assert saved.buffers["b.count"].dtype == np.int64


def test_counts_stay_whole_and_weigh_by_rows():
    state = TrainState({}, 1, buffers={"count": np.array(10, np.int64)})
    replies = {
        name: Reply(name, {"buffers": {"count": np.array(moved)}, "num_examples": rows}, 0.0)
        for name, moved, rows in (("a", -4, 30), ("b", -1, 10))
    }
    found = mean_buffers(state, replies)["count"]
    assert (found, found.dtype) == (13, np.int64)  # 10 + 3.25
    assert mean_buffers(state, {}) == state.buffers
