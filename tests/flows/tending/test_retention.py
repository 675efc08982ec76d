"""What lapses, and what never does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from decided import MODEL, deciding, promoted, proposed, trained

from consilo.errors import ConfigInvalid
from consilo.membership.coordinator import Keep, Reachable
from consilo.record.run_record import RunRecord
from flows.services.owning import owning
from flows.services.place import settle_place
from flows.tending.retention import let_lapse

DAY_S = 86_400.0
KEY = Ed25519PrivateKey.generate()


def make(home: Path, run: str, *, closed: bool) -> None:
    record = RunRecord(home / "runs" / run / "record.jsonl", KEY)
    record.add("opened")
    if closed:
        record.close(status="complete")


def test_only_what_nothing_rests_on_lapses(tmp_path: Path) -> None:
    make(tmp_path, "ended", closed=True)
    make(tmp_path, "open", closed=False)
    made = ["runs/ended/checkpoint.safetensors", "runs/open/checkpoint.safetensors"]
    made += ["logs/pipeline-1.log", "logs/prefect.log", "results/1.json", "members.db"]
    made += ["mlflow/mlflow.db", "mlflow/artifacts/1/model.pt", "keys/record.key", "audit.jsonl"]
    for name in made:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("content")
    keep = Keep(checkpoints_days=10, logs_days=20, results_days=30)
    gone = {
        days: [str(each.relative_to(tmp_path)) for each in let_lapse(tmp_path, keep, now=now)]
        for days in (9, 11, 21, 31)
        if (now := time.time() + days * DAY_S)
    }
    assert gone == {
        9: [],
        11: ["runs/ended/checkpoint.safetensors"],
        21: ["logs/pipeline-1.log"],
        31: ["results/1.json"],
    }
    left = {str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()}
    assert left == {*made, "runs/ended/record.jsonl", "runs/open/record.jsonl"} - {
        name for names in gone.values() for name in names
    }


def test_the_folder_of_a_run_that_never_began_does_not_stay(tmp_path: Path) -> None:
    """A process that was killed before its run's first line left a folder for good."""
    for name in ("died", "begun", "goes on"):
        with owning(tmp_path / "runs" / name, flow_run=""):
            pass
    (tmp_path / "runs" / "begun" / "record.jsonl").touch()
    with owning(tmp_path / "runs" / "goes on", flow_run=""):
        assert let_lapse(tmp_path, Keep(), now=time.time() + 60) == []
        gone = let_lapse(tmp_path, Keep(), now=time.time() + 2 * 3600)
    assert gone == [tmp_path / "runs" / "died"]
    assert {each.name for each in (tmp_path / "runs").iterdir()} == {"begun", "goes on"}


def test_how_long_is_said_in_the_coordinators_file(tmp_path: Path) -> None:
    place = settle_place(tmp_path)
    assert place.keep == Keep()
    file = tmp_path / "coordinator.yaml"
    file.write_text(file.read_text().replace("logs_days: 30", "logs_days: 7"))
    assert settle_place(tmp_path).keep == Keep(logs_days=7)
    # One of an earlier release says nothing of it.
    ports = f"port: {place.port}\nprefect_port: {place.prefect_port}\n"
    file.write_text(f"{ports}mlflow_port: {place.mlflow_port}\n")
    assert settle_place(tmp_path).model_copy(update={"page_port": place.page_port}) == place
    for wrong in ("logs_days: 0", "log_days: 3"):
        file.write_text(f"{ports}keep: {{{wrong}}}\n")
        with pytest.raises(ConfigInvalid, match="keep"):
            Reachable.load(tmp_path)


def test_what_a_decision_rests_on_does_not_lapse(tmp_path: Path) -> None:
    for version in (1, 2, 3, 4):
        trained(tmp_path, version)
        (tmp_path / "runs" / f"{MODEL}-{version}" / "checkpoint.safetensors").write_text("state")
    promoted(tmp_path, 1)
    promoted(tmp_path, 2)
    proposed(tmp_path, 3)
    proposed(tmp_path, 4)
    deciding(tmp_path).decide(4, approves=False, reason="slow", by="root", how="shell")
    keep, now = Keep(checkpoints_days=10), time.time() + 11 * DAY_S
    chain = tmp_path / "promotions" / f"{MODEL}.jsonl"
    whole = chain.read_bytes()
    chain.write_bytes(whole[:-200])  # nobody knows what rests on what
    assert let_lapse(tmp_path, keep, now=now) == []
    chain.write_bytes(whole)
    gone = [each.parent.name for each in let_lapse(tmp_path, keep, now=now)]
    assert gone == [f"{MODEL}-4"]
