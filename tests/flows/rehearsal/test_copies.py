"""What is rehearsed with: silos that are made up, and copies of a person's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from consilo.contracts.contract import SHIPPED, Contract
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from flows.demo.demo_data import write_hospitals
from flows.rehearsal.copies import copy_silo, prepare
from flows.rehearsal.place import Place
from silos.gate.policy import Policy
from silos.silo import Silo


@pytest.mark.parametrize("name", ["heart", "breast_cancer", "breast_cancer_vertical"])
def test_made_up_silos_keep_the_contract_of_the_job(tmp_path: Path, name: str) -> None:
    made = prepare(SHIPPED / "jobs" / f"{name}.yaml", Place(tmp_path), None, rounds=3)
    assert ModelJob.of(made.job).protocol.rounds == 3
    contract = Contract.load(made.job.contract, search=[made.file.parent])
    for silo, directory in made.silos.items():
        part = made.job.part(contract, silo)
        report = Silo.open(directory).rows.check(part)
        assert report.passed, report.reason()
    assert Job.load(made.file).digest == made.job.digest


def test_a_copy_has_a_silos_data_and_nothing_that_it_remembers(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    hospital = write_hospitals(theirs, count=3, seed=0)[0].directory
    policy = yaml.safe_load((hospital / "policy.yaml").read_text())
    policy["privacy"]["budgets"] = {"*": {"epsilon": 5.0, "delta": 1e-5}}
    policy["hours"] = {"days": ["mon"], "start": "20:00", "end": "21:00", "zone": "Europe/Berlin"}
    (hospital / "policy.yaml").write_text(yaml.safe_dump(policy))
    Silo.open(hospital)
    for name in ("ledger.db", "signing.key", "audit.jsonl", "bundles.yaml", "node.yaml"):
        (hospital / name).write_bytes(b"")
    (hospital / "outside.csv").write_bytes(b"")
    words = yaml.safe_load((hospital / "silo.yaml").read_text())
    words["data"]["others"] = {"type": "csv", "path": "../elsewhere.csv"}
    (hospital / "silo.yaml").write_text(yaml.safe_dump(words))
    before = {each: each.read_bytes() for each in theirs.rglob("*") if each.is_file()}

    job = SHIPPED / "jobs" / "breast_cancer.yaml"
    made = prepare(job, Place(tmp_path / "place"), theirs, rounds=None)
    assert set(made.silos) == {"north", "south", "east"}
    copied = {each.name for each in made.silos["north"].iterdir()}
    assert {"silo.yaml", "policy.yaml", "mapping.yaml", "patients.csv"} <= copied
    assert not copied & {"ledger.db", "signing.key", "audit.jsonl", "bundles.yaml", "node.yaml"}
    words = yaml.safe_load((made.silos["north"] / "silo.yaml").read_text())
    assert words["data"]["others"]["path"] == str(theirs / "elsewhere.csv")
    kept = Policy.load(made.silos["north"] / "policy.yaml")
    assert kept.privacy.allow_reproducible
    assert kept.privacy.is_wanted
    assert not kept.privacy.budgets
    assert kept.hours is None
    assert made.job.privacy is not None
    assert made.job.privacy.reproducible
    assert {each: each.read_bytes() for each in theirs.rglob("*") if each.is_file()} == before


def test_what_a_data_source_names_is_copied_whatever_it_is_called(tmp_path: Path) -> None:
    hospital = write_hospitals(tmp_path / "theirs", count=3, seed=0)[0].directory
    words = yaml.safe_load((hospital / "silo.yaml").read_text())
    words["data"] = {
        "rows": {"type": "sqlite", "path": "images.db", "table": "measures"},
        "more": {"type": "csv", "path": ["exports/runs/2024.csv", "visits-*.log"]},
    }
    (hospital / "silo.yaml").write_text(yaml.safe_dump(words))
    data = ("images.db", "exports/runs/2024.csv", "visits-1.log")
    for name in (*data, "ledger.db", "state.db-wal", "node.log", "signing.key"):
        (hospital / name).parent.mkdir(parents=True, exist_ok=True)
        (hospital / name).write_bytes(b"")
    copy_silo(hospital, tmp_path / "copy")
    assert all((tmp_path / "copy" / each).exists() for each in data)
    left = {each.name for each in (tmp_path / "copy").iterdir()}
    assert not left & {"ledger.db", "state.db-wal", "node.log", "signing.key"}
