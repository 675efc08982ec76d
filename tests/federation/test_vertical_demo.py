"""The vertical demo as a newcomer sees it: real servers and nodes, three silos, dirty people."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import stat
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from consilo.contracts.contract import SHIPPED
from consilo.jobs.job import Job
from consilo.record import chain
from consilo.record.crosscheck import compare
from consilo.record.run_record import read, verify
from flows.demo.vertical_demo_data import write_organisations
from flows.registry import names
from tests.federation.conftest import KeptDemo, kept_demo, require_held_by_silos_only, values_of

pytestmark = [pytest.mark.federation, pytest.mark.timeout(400)]

SILOS = ("clinic", "imaging", "laboratory")


@pytest.fixture(scope="module")
def vertical(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptDemo]:
    """``consilo demo --vertical --keep --json``, once for all tests of this file."""
    with kept_demo(tmp_path_factory.mktemp("vertical"), "--vertical") as kept:
        yield kept


def test_joining_is_worth_something_and_a_wrong_join_is_not(vertical: KeptDemo) -> None:
    summary = vertical.summary
    assert (summary["status"], summary["reason"]) == ("complete", "")
    metrics = summary["metrics"]
    assert metrics["joined/roc_auc"] > metrics["label_only/roc_auc"] + 0.08
    assert metrics["shuffled/roc_auc"] < metrics["label_only/roc_auc"] + 0.02
    assert set(summary["silos"]) == set(SILOS)
    for silo in summary["silos"].values():
        assert (silo["status"], silo["contract"]) == ("trained", "passed")
        assert silo["num_examples"] == summary["match"]["rows"]


def test_dirty_people_are_matched_and_only_the_demo_knows_how_well(vertical: KeptDemo) -> None:
    truth = vertical.summary["match"]["truth"]
    assert truth["in_all"] > 300
    assert truth["precision"] >= 0.999
    assert truth["recall"] >= 0.97
    record = Path(vertical.summary["record"]).read_text()
    assert "truth" not in record
    assert "recall" not in record


def test_parts_and_scores_lie_in_their_silos(vertical: KeptDemo) -> None:
    summary = vertical.summary
    run = summary["run_id"]
    for name in SILOS:
        part = vertical.home / "silos" / name / "models" / run / "part.bin"
        assert summary["parts"][name] == str(part.parent)
        assert stat.S_IMODE(part.stat().st_mode) == 0o600
    assert summary["scoring"]["status"] == "complete"
    scores = pd.read_csv(summary["scoring"]["scores"])
    assert Path(summary["scoring"]["scores"]).parent == vertical.home / "silos" / "clinic/scores"
    assert len(scores) == summary["match"]["rows"]
    assert scores["probability"].between(0, 1).all()
    truth = pd.read_csv(vertical.home / "silos" / "clinic" / "patients.csv")
    malignant = truth.set_index("patient_id")["malignant"].loc[scores["patient_id"]].to_numpy()
    assert ((scores["probability"] > 0.5) == malignant).mean() > 0.95
    assert not list((vertical.home / "silos").glob("[il]*/scores/*"))


def test_both_pages_answer_and_the_registry_holds_references_only(vertical: KeptDemo) -> None:
    from mlflow import MlflowClient

    prefect, mlflow = vertical.summary["prefect"], vertical.summary["mlflow"]
    url = f"{prefect['api_url']}/flow_runs/{prefect['flow_run_id']}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        assert json.load(answer)["state"]["name"] == "Completed"
    client = MlflowClient(mlflow["tracking_uri"])
    run = client.get_run(mlflow["run_id"])
    assert run.data.metrics["global/joined/roc_auc"] == pytest.approx(
        vertical.summary["metrics"]["joined/roc_auc"]
    )
    version = client.get_model_version_by_alias("breast-cancer-vertical", names.CANDIDATE)
    assert version.tags[names.TAG_RUN] == vertical.summary["run_id"]
    (folder,) = vertical.home.rglob(f"artifacts/**/{names.PARTS_FILE}")
    about = json.loads(folder.read_text())
    assert about["parts"] == vertical.summary["references"]
    assert about["released"] is False
    assert not list(folder.parent.glob("*.safetensors"))


def test_record_and_audit_logs_tell_the_same(vertical: KeptDemo) -> None:
    for record in (vertical.summary["record"], vertical.summary["scoring"]["record"]):
        assert verify(Path(record))["status"] == "complete"
        for name in SILOS:
            log = chain.verify(vertical.home / "silos" / name / "audit.jsonl")
            assert compare(read(Path(record)), log, name) == []


def table_of(directory: Path) -> pd.DataFrame:
    """Return an organisation's own table, as it holds it."""
    if (directory / "patients.csv").exists():
        return pd.read_csv(directory / "patients.csv", dtype={"insurance_no": "string"})
    if (directory / "befunde.parquet").exists():
        return pd.read_parquet(directory / "befunde.parquet").astype(
            {"versichertennummer": "string"}
        )
    with contextlib.closing(sqlite3.connect(directory / "images.db")) as database:
        found = pd.read_sql("SELECT * FROM measures", database)
    return found.astype({"pat_insurance_no": "string"})


def test_no_id_and_no_value_is_kept_outside_the_silos(vertical: KeptDemo, tmp_path: Path) -> None:
    """Neither who somebody is nor a measurement: records, logs, MLflow, Prefect, the SuperLink."""
    job = Job.load(SHIPPED / "jobs" / "breast_cancer_vertical.yaml")
    told: set[bytes] = set()
    binary: set[bytes] = set()
    for each in write_organisations(tmp_path / "silos", job, seed=0):  # the same from the same seed
        rows = table_of(vertical.home / "silos" / each.name)
        assert rows.equals(table_of(each.directory))
        (number,) = [name for name in rows.columns if "insurance" in name or "nummer" in name]
        told |= {each.encode() for each in rows[number].dropna() if len(each) == 9}
        measured = values_of(rows)
        told |= measured[0]
        binary |= measured[1]
    assert len(told) > 1000
    assert len(binary) > 3000
    require_held_by_silos_only(vertical.home, told, binary)


def test_nothing_but_loopback_is_reached_by_any_process(vertical: KeptDemo) -> None:
    lines = vertical.watched.audit_log.read_text().splitlines()
    assert any(line.startswith("hooked") and "silos.node" in line for line in lines)
    assert [line for line in lines if line.startswith("reach")] == []
