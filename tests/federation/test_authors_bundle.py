"""Silos that want code from others than the coordinator run what its author has signed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from flows.demo.demo_data import write_hospitals
from tests.federation.conftest import run

pytestmark = [pytest.mark.federation, pytest.mark.timeout(280)]
NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, num_inputs, num_outputs):
        super().__init__()
        self.layer = nn.Linear(num_inputs, num_outputs)

    def forward(self, features):
        return self.layer(features)
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    job = {
        "name": "authored",
        "contract": "breast_cancer@1",
        "model": "net:Net",
        "outputs": 2,
        "protocol": {"name": "fedavg", "rounds": 1},
        "local": {"batch_size": 16, "steps": 2, "optimizer": "sgd", "lr": 0.01},
    }
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    *whole, broken = write_hospitals(tmp_path / "silos", count=3, seed=0)
    shutil.rmtree(broken.directory)
    for each in whole:
        (each.directory / "bundles.yaml").write_text("signers: others\n")
    return tmp_path


def test_the_authors_code_runs_and_the_coordinators_own_does_not(study: Path) -> None:
    command = ["job", "run", "job.yaml", "--silos", "silos", "--json"]
    signed = ["job", "bundle", "job.yaml", "--sign-key", "author.key", "--out", "code.bundle"]
    assert run(signed, study).returncode == 0
    carried = run([*command, "--dir", "one", "--bundle", "code.bundle"], study)
    assert carried.returncode == 0, carried.stdout[-3000:]
    assert json.loads(carried.stdout)["status"] == "complete"
    own = run([*command, "--dir", "one"], study)
    assert own.returncode != 0
    assert json.loads(own.stdout)["status"] == "failed"
    logs = "".join(each.read_text() for each in study.rglob("node.log"))
    assert "signed by the coordinator itself" in logs
