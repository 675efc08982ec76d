"""A run that fails tells its cause first: the error's class, what to do, one line a silo.

Fault: whatever the silos said, the error was `QuorumLost … Bring the silos back and run again`.
"""

import clinic
import numpy as np
import pandas as pd
import pytest
import vertical

from consilo.errors import ModelDiverged, Refused, SiloFailed
from consilo.runs.horizontal import run_all

ROWS = {"north": clinic.frame(40, 1), "east": clinic.frame(30, 2)}
NET = """
from pathlib import Path
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, num_inputs):
        super().__init__()
        self.linear = nn.Linear(num_inputs, 1)
    def forward(self, x):
        if Path(__file__).with_name("broken").exists():
            raise ValueError(f"the first row is {x[0].tolist()}")
        return self.linear(x)
"""


def result_of(tmp_path, search=(), rows=ROWS, refusal="", **changes):
    hosts = clinic.hosts(rows, search_path=search)
    for host in hosts.values():
        host.refusal = refusal
    job = clinic.job(quorum={"min_silos": 2}, **changes)
    run = clinic.run_of(job, hosts, tmp_path / "run", search_path=search)
    for each in search:
        (each / "broken").touch()  # once the coordinator has tried it
    return run_all(run)


def fails_first(result, kind, told):
    assert result.status == "failed"
    assert result.reason.startswith(f"{kind.__name__}: ")
    assert result.reason.splitlines()[0].split(", so there is no quorum")[0].endswith(told)
    assert "Bring the silos back" not in result.reason
    lines = [each for each in result.reason.splitlines() if each.startswith("  - ")]
    assert [each.split(":")[0] for each in lines] == ["  - east", "  - north"]


def test_a_policys_refusal(tmp_path):
    result = result_of(tmp_path, refusal="not for this purpose")
    fails_first(result, Refused, "before the run: refused by east and north")
    assert "change policy.yaml" in result.reason
    assert result.reason.count("not for this purpose") == 2


@pytest.mark.parametrize("privacy", [None, {"epsilon": 3.0, "delta": 1e-3, "max_grad_norm": 1.0}])
def test_code_of_the_model_that_fails_in_all_silos(tmp_path, privacy):
    """Its own words, and more under privacy, stay in the silos."""
    beside = tmp_path / "beside"
    beside.mkdir()
    (beside / "my_model.py").write_text(NET)
    changes = {"model": "my_model:Net", "privacy": privacy}
    result = result_of(tmp_path, (beside,), **changes)
    fails_first(result, SiloFailed, "round 1: the computation failed in east and north")
    assert "the first row is" not in result.reason
    if privacy:
        assert result.reason.count("the silo's computation failed; its own log says why") == 2


def test_a_learning_rate_that_explodes_in_all_silos(tmp_path):
    result = result_of(tmp_path, task="regression", local={"lr": 1e12})
    assert result.reason.startswith("ModelDiverged: ")
    assert "ower the learning rate" in result.reason
    assert "Bring the silos back" not in result.reason


def test_a_split_network_that_diverges():
    """The cut layer's silo says so itself, and the error is of that class."""
    columns = {"shop": ["visits"], "bank": ["income"]}
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({name: rng.normal(size=60) for name in ("visits", "income")})
    rows["y"] = 1e30 * rows.visits
    job = vertical.job_of(
        "vertical_split",
        columns,
        task="regression",
        local={"lr": 1e12, "batch_size": 16},
    )
    hosts = vertical.silos_of(rows, columns)
    with pytest.raises(ModelDiverged, match=r"training diverged in (bank|shop)") as failed:
        vertical.driven(job, vertical.contract_of(columns), hosts)
    assert "Bring the silos back" not in str(failed.value)
