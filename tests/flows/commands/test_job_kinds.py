"""``consilo job validate`` and the pipeline know every kind of job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from consilo.cli import build
from consilo.contracts.contract import SHIPPED
from consilo.runs.kinds import WAYS
from flows.stages import STAGES

JOBS = SHIPPED / "jobs"
VERTICAL = yaml.safe_load((JOBS / "breast_cancer_vertical.yaml").read_text())
MATCH = {"name": "people", "kind": "match", "contract": "patients@1", "match": VERTICAL["match"]}
SPREAD = {"name": "spread", "kind": "analytics", "contract": "heart@1"}


def validated(job: Path, *more: str) -> str:
    found = CliRunner().invoke(build(), ["job", "validate", str(job), *more])
    assert found.exit_code == 0, found.output
    return found.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("heart", "15 rounds of fedadam"),
        ("breast_cancer_vertical", "labels in clinic, match 'patients', vertical_linear"),
        ("breast_cancer_scores", "match 'patients', vertical_score"),
    ],
)
def test_a_job_about_a_model_is_valid(name: str, said: str) -> None:
    assert said in validated(JOBS / f"{name}.yaml")


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (MATCH, "contract patients@1, 6 keys, match 'people'"),
        (SPREAD, "contract heart@1, statistics of"),
    ],
    ids=["match", "analytics"],
)
def test_a_job_that_trains_nothing_is_valid_without_a_model(
    tmp_path: Path, job: dict[str, object], said: str
) -> None:
    place = tmp_path / "job.yaml"
    place.write_text(yaml.safe_dump(job))
    assert said in validated(place)
    assert json.loads(validated(place, "--json"))["job"] == job["name"]


def test_a_job_of_every_kind_that_has_stages_has_its_tasks() -> None:
    assert set(STAGES) == set(WAYS)


def test_what_a_match_would_cost_is_not_asked(tmp_path: Path) -> None:
    place = tmp_path / "job.yaml"
    place.write_text(yaml.safe_dump(MATCH))
    found = CliRunner().invoke(build(), ["job", "plan", str(place), "--silos", str(tmp_path)])
    assert found.exit_code != 0
    assert "there is no model in it" in str(found.exception)


OWN = """
import torch


class Net(torch.nn.Module):
    def __init__(self, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(num_inputs, num_outputs)

    def forward(self, features):
        return self.layer(features) {more}
"""


@pytest.mark.parametrize(
    ("more", "privacy", "is_slow"),
    [
        ("* 2", True, False),
        ("* (2 if features.sum() > 0 else 1)", True, True),
        ("* (2 if features.sum() > 0 else 1)", False, False),
    ],
)
def test_a_model_that_silos_would_compute_row_by_row_is_told(
    tmp_path: Path, more: str, privacy: bool, is_slow: bool
) -> None:
    (tmp_path / "net.py").write_text(OWN.format(more=more))
    job = yaml.safe_load((JOBS / "breast_cancer.yaml").read_text()) | {"model": "net:Net"}
    del job["privacy"], job["promotion"]
    if privacy:
        job["privacy"] = {"epsilon": 4.0, "delta": 1e-4}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    said = validated(tmp_path / "job.yaml")
    assert ("a process for each row" in said) is is_slow
    facts = json.loads(validated(tmp_path / "job.yaml", "--json"))
    assert ("get value out of a tracing tensor" in facts.get("row_by_row", "")) is is_slow
