"""Jobs of the other kinds with something changed: never a traceback, and what is valid runs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import clinic
import joint
import pytest
import vertical
import yaml
from hypothesis import HealthCheck, assume, given, settings
from mutated import mutated
from typer.testing import CliRunner

from consilo.cli import build
from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError
from consilo.jobs.holders import Holders
from consilo.jobs.job import Job
from consilo.protocols.names import find_protocol
from silos import simulate

MLP = {"name": "consilo.learners.tabular:MLP", "args": {"hidden": [3]}}
BASE = joint.job_of().to_json()


def vertical_job(name: str, args: dict[str, Any], **changes: Any) -> dict[str, Any]:
    about = {
        "match": "customers",
        "label_silo": joint.LABEL,
        "columns": {silo: list(names) for silo, names in joint.COLUMNS.items()},
    }
    return {
        "name": "joint",
        "kind": "vertical",
        "contract": "joint.yaml",
        "task": "binary",
        "protocol": {"name": name, "rounds": 2, "args": {**about, **args}},
        "promotion": {"metric": "joined/roc_auc"},
        **changes,
    }


VERTICAL = (
    vertical_job("vertical_linear", {"c": 0.5, "folds": 2, "tolerance": 0.01}),
    vertical_job("vertical_trees", {"depth": 2, "folds": 2, "max_bins": 8, "min_rows": 5}),
    vertical_job(
        "vertical_split",
        {"width": 2, "bottom": MLP, "folds": 2, "learning_rates": {"shop": 0.1}},
        model=MLP,
        local={"batch_size": 64, "lr": 0.1},
    ),
)
ASKS = (
    {
        "name": "spread",
        "kind": "analytics",
        "contract": "clinic.yaml",
        "quorum": {"min_silos": 2},
        "features": {"missing": "mean"},
    },
)
OTHERS = (
    {
        "name": "people",
        "kind": "match",
        "contract": "people.yaml",
        "match": {"recipe": joint.RECIPE, "hub": "bank", "handle": "p", "max_ambiguous": 0.1},
        "quorum": {"min_silos": 3, "mandatory": ["bank"]},
    },
    {
        "name": "joint-scores",
        "kind": "scoring",
        "contract": "joint.yaml",
        "task": "binary",
        "protocol": {
            "name": "vertical_score",
            "args": {**BASE["protocol"]["args"], "model": "first"},
        },
    },
)
MANY = settings(max_examples=30, deadline=None, suppress_health_check=[*HealthCheck])


def validated(job: dict[str, Any], folder: Path) -> Job | None:
    """Return the job where it is called valid; fail where it is told with a traceback."""
    (folder / "clinic.yaml").write_text(clinic.CONTRACT)
    (folder / "joint.yaml").write_text(yaml.safe_dump(joint.JOINT))
    (folder / "people.yaml").write_text(yaml.safe_dump(joint.PEOPLE))
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    done = CliRunner().invoke(build(), ["job", "validate", str(folder / "job.yaml")])
    if done.exit_code != 0:
        assert isinstance(done.exception, ConsiloError), repr(done.exception)
        return None
    return Job.load(folder / "job.yaml")


@MANY
@given(mutated(VERTICAL))
def test_a_vertical_job_that_is_called_valid_trains(job):
    with tempfile.TemporaryDirectory() as name:
        loaded: Any = validated(job, Path(name))
        if loaded is None or loaded.kind != "vertical":
            return
        holders: Holders = find_protocol(loaded.protocol.name).from_job(loaded).settings
        # Who there is, and which match they hold, nobody can know beforehand.
        assume(set(holders.columns) == set(joint.COLUMNS))
        contract = Contract.load("joint.yaml", search=[Path(name)])
        people = joint.everybody(120)
        rows = people[[*joint.NAMES, "churned"]].assign(account=people["number"])
        hosts = hosts_of(rows, holders)
        args = {**loaded.protocol.args, "match": "m"}
        rounds = min(loaded.protocol.rounds, 2)
        few = loaded.changed(contract=contract.ref, protocol={"rounds": rounds, "args": args})
        found, _ = vertical.driven(few, contract, hosts)
        assert found.round >= 1


def hosts_of(rows: Any, holders: Holders) -> dict[str, Any]:
    """Return silos that hold what the job says, by whichever silo the labels are in."""
    columns = {name: tuple(held) for name, held in holders.columns.items()}
    columns[holders.label_silo] += ("account", "churned")
    hosts = vertical.silos_of(rows, columns, target=None)
    for name, host in hosts.items():
        host.run_secrets.setdefault("r", name.encode().ljust(32))
    return hosts


@MANY
@given(mutated(ASKS))
def test_an_analytics_job_that_is_called_valid_is_answered(job):
    with tempfile.TemporaryDirectory() as name:
        loaded: Any = validated(job, Path(name))
        if loaded is None or loaded.kind != "analytics":
            return
        frames = {"a": clinic.frame(40, 0), "b": clinic.frame(60, 1)}
        few = loaded.changed(quorum={"min_silos": 1, "mandatory": []}, exclude=[])
        result = simulate(few, frames, contract=clinic.contract(), directory=Path(name) / "home")
        assert result.status in ("complete", "degraded"), result.reason


@MANY
@given(mutated(OTHERS))
@pytest.mark.filterwarnings("error")
def test_a_match_or_scoring_job_is_told_without_a_traceback(job):
    with tempfile.TemporaryDirectory() as name:
        validated(job, Path(name))
