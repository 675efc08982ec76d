"""What a job says and nobody reads, and what silos would refuse, is refused beforehand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import clinic
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from mutated import mutated
from typer.testing import CliRunner

from consilo.cli import build
from consilo.errors import ConsiloError, IncompatibleJob, JobInvalid
from consilo.jobs.job import Job
from consilo.protocols.names import NAMES, find_protocol
from consilo.runs.planning.plan import plan

PRIVACY = {"epsilon": 3.0, "delta": 1e-5}
OWN = """
import sklearn.metrics
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.linear = nn.Linear(num_inputs, num_outputs)

    def forward(self, rows):
        return self.linear(rows)


class Looks(Net):
    def __init__(self, num_inputs, num_outputs):
        super().__init__(num_inputs, num_outputs)
        self.largest = self.linear.weight.abs().max().item()


class Breaks(Net):
    def forward(self, rows):
        return self.linear(rows).no_such_method()


class BreaksInTraining(Net):
    def forward(self, rows):
        return self.linear(rows) if not self.training else self.linear(rows) @ rows


class Leaves(Net):
    def __init__(self, num_inputs, num_outputs):
        raise SystemExit(3)


def f1(outputs, targets):
    return {"f1_own": sklearn.metrics.f1_score(targets > 0, outputs > 0)}


def breaks(outputs, targets):
    raise KeyError("a")


def no_dict(outputs, targets):
    return 3


def texts(outputs, targets):
    return {"a": "b"}


def loss(outputs, targets):
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs, targets)


def each_row(outputs, targets):
    return torch.nn.functional.binary_cross_entropy_with_logits(
        outputs, targets, reduction="none"
    )


def apart(outputs, targets):
    return torch.zeros(())


def number(outputs, targets):
    return 1.0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    (tmp_path / "own.py").write_text(OWN)
    return tmp_path


def refusal(folder: Path, **changes: Any) -> str:
    with pytest.raises(IncompatibleJob) as caught:
        plan(clinic.job(**changes), clinic.contract(), (), [folder])
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": {"mu": 10}}, "protocol.mu: fedavg does not read it"),
        ({"protocol": {"mu": 10}}, "fedprox reads it"),
        ({"protocol": {"server_lr": 0.001}}, "protocol.server_lr: fedavg does not read it"),
        (
            {"protocol": {"server_lr": 0.001}},
            "fedadagrad, fedopt, fedbuff read it",
        ),
        ({"protocol": {"args": {"mu": 1}}}, "protocol.args: fedavg does not read it"),
        ({"protocol": {"betas": [0.9, 0.99]}}, "protocol.betas: fedavg does not read it"),
        ({"protocol": {"optimizer": "torch.optim:SGD"}}, "protocol.optimizer: fedavg does not"),
        ({"protocol": {"strategy": "a:B"}}, "protocol.strategy: fedavg does not read it"),
        (
            {"protocol": {"name": "fedprox", "mu": 0.1, "tau": 0.1}},
            "protocol.tau: fedprox does not read it",
        ),
        (
            {"protocol": {"name": "fedadam", "server_lr": 0.1, "mu": 1}},
            "protocol.mu: fedadam does not read it",
        ),
        (
            {"protocol": {"name": "fedadam", "server_lr": 0.1, "optimizer": "torch.optim:SGD"}},
            "protocol.optimizer: fedadam does not read it",
        ),
        (
            {"protocol": {"name": "fedadam", "server_lr": 0.1, "args": {"lr": 3}}},
            "lr (as protocol.server_lr)",
        ),
        (
            {"protocol": {"name": "fedadam", "server_lr": 0.1, "args": {"initail": 3}}},
            "initail",
        ),
        (
            {
                "protocol": {
                    "name": "flower",
                    "strategy": "flwr.serverapp.strategy:FedAvg",
                    "server_lr": 1,
                }
            },
            "protocol.server_lr: flower does not read it",
        ),
        (
            {"match": {"recipe": {"keys": [{"parts": [{"column": "ward"}]}]}}},
            "match: fedavg does not",
        ),
        ({"evaluation": {"split": "ward"}}, "'ward' is no column of clinic@1 with the role split"),
        ({"local": {"optimizer": "adamx"}}, "did you mean 'adamax'?"),
        ({"local": {"optimizer": "lbfgs"}}, "evaluates the loss several times a step"),
        ({"local": {"optimizer": "sparseadam"}}, "local: optimizer 'sparseadam' raised"),
        ({"local": {"optimizer": "adam", "momentum": 0.9}}, "it has args: {betas: [0.9, 0.999]}"),
        ({"local": {"args": {"foo": 1}}}, "optimizer 'sgd' has no argument 'foo'"),
        ({"local": {"optimizer": "adam", "args": {"betas": [2, 3]}}}, "Invalid beta"),
        ({"local": {"args": {"nesterov": True}}}, "Nesterov momentum requires"),
        ({"promotion": {"metric": "nonexistent"}}, "this job has no figure 'nonexistent'; it has"),
        ({"promotion": {"metric": "roc_auk"}}, "did you mean 'roc_auc'?"),
        (
            {"promotion": {}, "privacy": PRIVACY, "features": {"standardize": "contract"}},
            "without privacy.metrics_epsilon a private job has no figures",
        ),
        (
            {
                "promotion": {"metric": "f1"},
                "privacy": {**PRIVACY, "metrics_epsilon": 1.0},
                "features": {"standardize": "contract"},
            },
            "this job has no figure 'f1'; it has accuracy, log_loss, roc_auc",
        ),
        ({"metrics": "imb:none"}, "metrics: module 'imb' was not found beside the job file"),
        ({"metrics": "sklearn.metrics:f1_score"}, "silos can look at before they approve it"),
        ({"metrics": "own:nothing"}, "metrics: module 'own' has no 'nothing'"),
        ({"metrics": "own:breaks"}, "metrics(outputs, targets) raised KeyError at own.py"),
        ({"metrics": "own:no_dict"}, "metrics() returned int, expected a dict"),
        ({"metrics": "own:texts"}, "metrics() must return per name one number"),
        ({"loss": "own:each_row"}, "the loss must be one number"),
        ({"loss": "own:apart"}, "the loss must be one number that depends on the model"),
        ({"loss": "own:number"}, "loss returned float, expected a tensor"),
        ({"loss": "torch.nn.functional:nll_loss"}, "loss: loss(outputs, targets) raised"),
        ({"model": "own:Breaks"}, "model: forward on features of shape"),
        ({"model": "own:BreaksInTraining"}, "model: forward on features of shape"),
        ({"model": "own:Leaves"}, "own code raised SystemExit"),
        ({"model": {"name": "torch.nn:Linear", "args": {"in_features": 3}}}, "'out_features'"),
        ({"outputs": 5}, "model: "),
        (
            {"model": {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [10**9]}}},
            "parameters; training them takes",
        ),
        ({"privacy": {**PRIVACY, "epsilon": 1e-9}}, "privacy.epsilon: the accountant prv vouches"),
        (
            {"privacy": {**PRIVACY, "metrics_epsilon": 0.05, "accountant": "rdp"}},
            "privacy.metrics_epsilon: the accountant rdp vouches for no epsilon below 0.1",
        ),
        (
            {
                "loss": "own:loss",
                "model": {"name": "torch.nn:BatchNorm1d", "args": {"num_features": 5}},
                "privacy": PRIVACY,
                "features": {"standardize": "contract"},
            },
            "BatchNorm",
        ),
        (
            {"protocol": {"name": "fedprox", "mu": 1e9}},
            "protocol.mu: 1e+09 times local.lr 0.3 is 3e+08; above 2 each step of sgd goes past",
        ),
        (
            {
                "privacy": {**PRIVACY, "max_grad_norm": 1e9},
                "local": {"lr": 1e6},
                "features": {"standardize": "contract"},
            },
            "local.lr: a step of sgd is as long as lr times privacy.max_grad_norm, 1e+15",
        ),
    ],
)
def test_what_is_not_read_and_what_silos_would_refuse_is_refused(folder, changes, said):
    assert said in refusal(folder, **changes)


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("local", "lr"),
        ("local", "weight_decay"),
        ("local", "steps"),
        ("local", "epochs"),
        ("protocol", "mu"),
        ("protocol", "server_lr"),
        ("protocol", "tau"),
    ],
)
def test_what_no_silo_could_ever_do_is_refused(section, key):
    told = rf"{section}\.{key}: expected a number of at most 10+, found 9223372036854775808"
    with pytest.raises(JobInvalid, match=told):
        clinic.job(**{section: {key: 2**63}})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"loss": "own:loss", "metrics": "own:f1", "model": "own:Net"},
        {"metrics": "own:f1", "promotion": {"metric": "silo_mean/f1_own"}},
        {"promotion": {}},
        {"protocol": {"name": "fedprox", "mu": 0.1}},
        {"protocol": {"name": "fedadam", "server_lr": 0.1, "args": {"initial": 0.1}}},
        {"local": {"optimizer": "AdamW", "args": {"amsgrad": True}}},
        {"local": {"lr": 1e9}},
        {"local": {"batch_size": 1}},
        {"privacy": PRIVACY, "features": {"standardize": "contract"}},
        {"privacy": {**PRIVACY, "epsilon": 0.05}, "features": {"standardize": "contract"}},
        {"model": "own:Looks"},
    ],
)
def test_what_silos_can_do_is_valid_and_leaves_the_first_model_alone(folder, changes):
    made = plan(clinic.job(**changes), clinic.contract(), (), [folder])
    again = plan(clinic.job(**changes), clinic.contract(), (), [folder])
    for name, value in made.learner.parameters().items():
        assert (value == again.learner.parameters()[name]).all()
    assert not made.learner.model.training or made.learner.model.training is True


def test_own_protocols_may_read_whatever_they_like(folder):
    (folder / "mine.py").write_text(
        "from consilo.protocol import Training, TrainState\n"
        "class Mine(Training):\n"
        "    def step(self, state, mean_delta):\n"
        "        return state\n"
        "class Says(Mine):\n"
        "    reads = ('local*', 'model*', 'protocol.rounds', 'quorum*', 'task')\n"
    )
    plan(clinic.job(protocol={"name": "mine:Mine", "mu": 3}), clinic.contract(), (), [folder])
    told = refusal(folder, protocol={"name": "mine:Says", "mu": 3})
    assert "protocol.mu: mine:Says does not read it" in told


def test_each_of_our_own_says_what_it_reads():
    trains = [name for name in NAMES if name.startswith(("fed", "flower", "vertical_"))]
    assert len(trains) > 10
    for name in trains:
        reads = find_protocol(name).reads
        assert reads is not None
        for key in reads:
            section = key.split(".")[0].rstrip("*")
            assert section in {*Job.model_fields, *type(clinic.job()).model_fields}


VALID: tuple[dict[str, Any], ...] = (
    {**clinic.JOB, "promotion": {"metric": "roc_auc"}, "evaluation": {"holdout": 0.3}},
    {
        **clinic.JOB,
        "model": {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [4]}},
        "protocol": {"name": "fedadam", "rounds": 1, "server_lr": 0.1, "betas": [0.9, 0.99]},
        "local": {"batch_size": 8, "steps": 2, "optimizer": "adam", "args": {"amsgrad": True}},
        "loss": "own:loss",
        "metrics": "own:f1",
    },
    {
        **clinic.JOB,
        "protocol": {"name": "fedprox", "rounds": 1, "mu": 0.1},
        "privacy": {**PRIVACY, "metrics_epsilon": 1.0},
        "features": {"standardize": "contract", "missing": "indicator", "drop_first": True},
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[*HealthCheck])
@given(mutated(VALID))
def test_a_job_that_is_called_valid_trains_and_any_other_is_told_without_a_traceback(job):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "clinic.yaml").write_text(clinic.CONTRACT)
        (folder / "own.py").write_text(OWN)
        (folder / "job.yaml").write_text(yaml.safe_dump(job))
        done = CliRunner().invoke(build(), ["job", "validate", str(folder / "job.yaml")])
        if done.exit_code != 0:
            assert isinstance(done.exception, ConsiloError), repr(done.exception)
            return
        loaded: Any = Job.load(folder / "job.yaml")
        if loaded.kind != "horizontal":
            return
        fewer = loaded.changed(protocol={"rounds": 1})
        if fewer.local.epochs is not None and fewer.local.epochs > 2:
            fewer = fewer.changed(local={"epochs": 1})
        hosts = clinic.hosts(clinic.frames(60, 50, 40), search_path=(folder,))
        run = clinic.trained(
            fewer.changed(quorum={"min_silos": 1, "mandatory": []}),
            hosts,
            folder / "run",
            search_path=(folder,),
            contract_=clinic.contract(),
        )
        assert run.state.round == 1
