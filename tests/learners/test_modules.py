from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from consilo.errors import JobInvalid
from consilo.learners.modules import build_model
from consilo.learners.tabular import MLP, LogisticRegression

SIZES = {"num_inputs": 30, "num_outputs": 1, "seed": 7}

USER = """
import torch
from torch import nn
from layers import WIDTH

class Net(nn.Module):
    def __init__(self, num_inputs, depth=1, *, width=WIDTH):
        super().__init__()
        self.layer = nn.Linear(num_inputs, width)

class Needy(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()

class Fails(nn.Module):
    def __init__(self):
        raise RuntimeError("no weights here")

class Empty(nn.Module):
    pass

class Plain:
    pass
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "mynet.py").write_text(USER)
    (tmp_path / "layers.py").write_text("WIDTH = 5\n")
    (tmp_path / "wrong.py").write_text("1 / 0\n")
    (tmp_path / "hungry.py").write_text("import not_installed_anywhere\n")
    return tmp_path


def num_parameters(model: torch.nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


def test_the_default_mlp_has_2114_parameters_with_two_outputs() -> None:
    assert num_parameters(MLP(30, 2)) == 2114
    assert num_parameters(MLP(30)) == 2081


def test_the_start_depends_on_the_seed_only() -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = build_model("consilo.learners.tabular:MLP", **SIZES)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = build_model("consilo.learners.tabular:MLP", **SIZES)  # type: ignore[arg-type]
    other = build_model(
        "consilo.learners.tabular:MLP", num_inputs=30, num_outputs=1, seed=8, search_path=()
    )
    same = zip(first.parameters(), again.parameters(), strict=True)
    assert all(torch.equal(one, two) for one, two in same)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_arguments_reach_the_constructor() -> None:
    spec = {"class": "consilo.learners.tabular:MLP", "args": {"hidden": [4], "dropout": 0.5}}
    model = build_model(spec, **SIZES)  # type: ignore[arg-type]
    assert num_parameters(model) == 30 * 4 + 4 + 4 + 1
    zero = build_model("consilo.learners.tabular:LogisticRegression", **SIZES)  # type: ignore[arg-type]
    assert all(not each.any() for each in zero.parameters())
    assert any(each.any() for each in LogisticRegression(3, zero_init=False).parameters())


def test_a_users_module_with_a_neighbour(user: Path) -> None:
    before = set(sys.modules)
    path = list(sys.path)
    model = build_model("mynet:Net", **SIZES, search_path=[user])  # type: ignore[arg-type]
    assert model.layer.weight.shape == (5, 30)  # type: ignore[union-attr]
    assert sys.path == path
    assert not {"mynet", "layers"} & (set(sys.modules) - before)


def test_two_jobs_may_name_their_modules_alike(user: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "mynet.py").write_text(USER)
    (other / "layers.py").write_text("WIDTH = 9\n")
    one = build_model("mynet:Net", **SIZES, search_path=[user])  # type: ignore[arg-type]
    two = build_model("mynet:Net", **SIZES, search_path=[other])  # type: ignore[arg-type]
    assert (one.layer.out_features, two.layer.out_features) == (5, 9)  # type: ignore[union-attr]


def test_an_edited_module_is_read_again(user: Path) -> None:
    """A module's neighbour too: the module itself is the same text as before."""
    widths = []
    for text in ("WIDTH = 5\n", "WIDTH = 77\n"):
        (user / "layers.py").write_text(text)
        model = build_model("mynet:Net", **SIZES, search_path=[user])  # type: ignore[arg-type]
        widths.append(model.layer.out_features)  # type: ignore[union-attr]
    assert widths == [5, 77]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mynet.Net", "not of the form"),
        ("mynett:Net", "'mynett' was not found"),
        ("mynet:Nett", "did you mean 'Net'"),
        ("mynet:Plain", "not a class made from torch.nn.Module"),
        ("mynet:torch", "not a class"),
        ("mynet:Needy", "needs the argument 'vocabulary'"),
        ("mynet:Fails", "RuntimeError.*no weights here"),
        ("mynet:Empty", "no parameters"),
        ("wrong:Net", "ZeroDivisionError at wrong.py:1"),
        ("hungry:Net", "ModuleNotFoundError.*not_installed_anywhere"),
        ({"class": "mynet:Net", "args": {"wdith": 3}}, "did you mean 'width'"),
        ({"klass": "mynet:Net"}, "keys class and args"),
    ],
)
def test_faults_are_named(user: Path, spec: object, message: str) -> None:
    with pytest.raises(JobInvalid, match=message) as caught:
        build_model(spec, **SIZES, search_path=[user])  # type: ignore[arg-type]
    assert str(user) not in str(caught.value)


def test_zero_start_of_tabular_models_is_the_same_for_every_seed() -> None:
    assert np.array_equal(
        LogisticRegression(3).linear.weight.detach().numpy(), np.zeros((1, 3), np.float32)
    )
    assert isinstance(LogisticRegression(3), nn.Module)


def test_warm_leaves_one_thread() -> None:
    code = (
        "import os, threading; from silos.node.warm_up import warm; warm();"
        "assert threading.active_count() == 1;"
        "import torch; assert torch.get_num_threads() == 1;"
        "tasks = '/proc/self/task';"
        "assert not os.path.isdir(tasks) or len(os.listdir(tasks)) == 1, os.listdir(tasks)"
    )
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=environment)


NAMED = """
import torch

class Named(torch.nn.Linear):
    def __init__(self, num_inputs, num_outputs, input_names=("nobody told",)):
        super().__init__(num_inputs, num_outputs)
        self.told = input_names
"""


def test_a_model_gets_to_know_which_input_is_which(tmp_path: Path) -> None:
    (tmp_path / "named.py").write_text(NAMED)
    sizes = {"num_inputs": 2, "num_outputs": 1, "seed": 0, "search_path": [tmp_path]}
    told = build_model("named:Named", **sizes, input_names=["age", "sex=Male"])  # type: ignore[arg-type]
    assert told.told == ("age", "sex=Male")
    assert build_model("named:Named", **sizes).told == ("nobody told",)  # type: ignore[arg-type]
    # Who has no such parameter is built as before.
    build_model("consilo.learners.tabular:MLP", **SIZES, input_names=["a"] * 30)  # type: ignore[arg-type]
