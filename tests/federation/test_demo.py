"""The main job, as a newcomer sees it: real servers, a real SuperLink, four silos."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from consilo.record.run_record import verify
from flows.demo.demo_data import hospital_rows
from tests.federation.conftest import (
    CONSILO,
    KeptDemo,
    end,
    require_held_by_silos_only,
    run,
    start,
    values_of,
    wait_for,
)

pytestmark = [pytest.mark.federation, pytest.mark.timeout(400)]


def test_the_summary_says_who_took_part_and_why_not(demo: KeptDemo) -> None:
    summary = demo.summary
    assert summary["status"] == "degraded"
    assert "west" in summary["reason"]
    silos = summary["silos"]
    assert {name: silo["status"] for name, silo in silos.items()} == {
        "north": "trained",
        "south": "trained",
        "east": "trained",
        "west": "left_out",
    }
    broken = silos["west"]
    assert broken["rounds"] == []
    assert broken["contract"] == "failed"
    for rule in ("mean_radius", "mean_area", "patient_id"):
        assert rule in broken["reason"]
    for name in ("north", "south", "east"):
        assert silos[name]["rounds"] == [1, 2, 3, 4]
        assert 0 < silos[name]["epsilon"] <= 4.0
        assert silos[name]["num_examples"] > 50
        assert silos[name]["metrics"] == {}  # of 29 rows, all would be mostly noise
    assert set(summary["metrics"]) == {"accuracy"}
    assert any("left out as mostly noise: log_loss, roc_auc" in note for note in summary["notes"])
    assert summary["judged_exactly"]["roc_auc"] > 0.9
    assert set(summary["pooled_baseline"]) >= {"accuracy", "roc_auc", "log_loss"}
    assert set(summary["local_baselines"]) == {"north", "south", "east"}
    assert set(summary["seconds"]) >= {"check", "standardize", "train", "evaluate"}


def test_a_silo_forks_from_a_process_of_one_thread(demo: KeptDemo) -> None:
    """Arrow's allocator started a second one, and every node's log began with a warning."""
    logs = {each.parent.name: each.read_text() for each in demo.home.glob("silos/*/node.log")}
    assert set(logs) == {"north", "south", "east", "west"}
    assert not [name for name, told in logs.items() if "a fork may hang" in told]


def test_both_pages_answer_and_know_the_run(demo: KeptDemo) -> None:
    prefect, mlflow = demo.summary["prefect"], demo.summary["mlflow"]
    url = f"{prefect['api_url']}/flow_runs/{prefect['flow_run_id']}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        flow_run = json.load(answer)
    assert flow_run["state"]["name"] == "Degraded"
    assert flow_run["name"] == "breast-cancer · 1 · degraded"
    assert "degraded" in flow_run["tags"]
    url = f"{mlflow['tracking_uri']}/api/2.0/mlflow/runs/get?run_id={mlflow['run_id']}"
    with urllib.request.urlopen(url, timeout=10) as answer:
        data = json.load(answer)["run"]["data"]
    assert {each["key"] for each in data["metrics"]} >= {
        "global/accuracy",
        "baseline/pooled/accuracy",
        "baseline/alone/north/accuracy",
    }


def test_the_model_answers_probabilities_in_a_new_process(demo: KeptDemo) -> None:
    code = """
import sys, mlflow
from flows.demo.demo_data import hospital_rows
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/breast-cancer@candidate-degraded")
rows = hospital_rows(count=4, seed=0)["north"]
features = rows.drop(columns=["malignant", "patient_id"])
found = model.predict(features)
column = found.iloc[:, -1] if hasattr(found, "iloc") else found
assert ((column >= 0) & (column <= 1)).all()
agree = ((column > 0.5).astype(int).to_numpy() == rows["malignant"].to_numpy()).mean()
assert agree > 0.85, agree
"""
    uri = demo.summary["mlflow"]["tracking_uri"]
    done = subprocess.run(
        [sys.executable, "-c", code, uri], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_record_verifies_with_the_coordinators_key(demo: KeptDemo) -> None:
    record = Path(demo.summary["record"])
    assert verify(record)["status"] == "degraded"
    done = subprocess.run(
        [str(CONSILO), "run", "verify", str(record.parent)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "signed by the coordinator" in done.stdout


def test_each_silo_has_its_own_keys_files_and_processes(demo: KeptDemo) -> None:
    silos = sorted((demo.home / "silos").iterdir())
    assert [place.name for place in silos] == ["east", "north", "south", "west"]
    keys = {(place / "silo.key").read_bytes() for place in silos}
    assert len(keys) == 4
    for place in silos:
        assert stat.S_IMODE((place / "silo.key").stat().st_mode) == 0o600
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert (place / "flwr").is_dir()
    nodes = [line for line in demo.watched.living() if "-m silos.node " in line]
    assert len({line.split("--dir ")[1].split()[0] for line in nodes}) == 4


def test_nobody_but_its_user_can_read_what_a_federation_keeps(demo: KeptDemo) -> None:
    """Databases, models, logs and records of MLflow, Prefect and Flower were world-readable."""
    seen = [demo.home, *demo.home.rglob("*")]
    closed = {place for place in seen if not place.is_symlink()}
    names = {place.name for place in closed}
    assert {"mlflow.db", "prefect.db", "record.jsonl", "superlink.log", "node.log"} <= names
    for place in closed:
        with contextlib.suppress(FileNotFoundError):  # temporary, and gone since it was seen
            assert not stat.S_IMODE(place.lstat().st_mode) & 0o077, place


def test_the_broken_hospital_can_read_its_full_report(demo: KeptDemo) -> None:
    page = demo.home / "silos" / "west" / "gx/uncommitted/data_docs/local_site/index.html"
    assert page.is_file()


def test_nothing_but_loopback_is_reached_by_any_process(demo: KeptDemo) -> None:
    lines = demo.watched.audit_log.read_text().splitlines()
    hooked = [line for line in lines if line.startswith("hooked")]
    for part in ("consilo demo", "silos.node", "superlink", "prefect", "mlflow", "flows.runner"):
        assert any(part in line for line in hooked), f"no process of {part} was watched"
    reached = [line for line in lines if line.startswith("reach")]
    assert reached == []


def test_no_value_of_a_row_is_kept_outside_the_silos(demo: KeptDemo) -> None:
    """Neither an identifier nor a measurement: in records, logs, MLflow, Prefect, the SuperLink."""
    told: set[bytes] = set()
    binary: set[bytes] = set()
    for rows in hospital_rows(count=4, seed=0).values():
        told |= {each.encode() for each in rows["patient_id"]}
        measured = values_of(rows)
        told |= measured[0]
        binary |= measured[1]
    assert len(told) > 500
    assert len(binary) > 5000
    require_held_by_silos_only(demo.home, told, binary)


def test_a_kept_demo_stops_whole_on_ctrl_c(tmp_path: Path) -> None:
    watched = start(["demo", "--dir", str(tmp_path / "work"), "--rounds", "2"], tmp_path)
    try:
        assert wait_for(lambda: any("silos.node" in line for line in watched.living()), 60)
        os.kill(watched.process.pid, signal.SIGINT)
        watched.process.communicate(timeout=15)
        assert watched.process.returncode == 130
        assert wait_for(lambda: not watched.living(), 5), watched.living()
    finally:
        end(watched)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["demo", "--silos", "2"], "3 to 10 silos"),
        (["demo", "--dir", "{full}"], "not empty"),
        (["demo", "--vertical", "--silos", "5"], "leave out --silos"),
        (["demo", "--vertical", "--epsilon", "2", "--no-dp"], "leave out --epsilon, --no-dp"),
        (["job", "validate", "missing.yaml"], "does not exist"),
        (["job", "run", "{job}", "--dir", "nowhere"], "no federation is up"),
        (["job", "run", "{job}", "--silos", "nowhere"], "no silo here"),
        (["job", "run", "{job}", "--silos", "{one}", "--bundle", "no"], "no bundle that can be"),
        (["run", "verify", "nowhere"], "no run record"),
        (["silo", "approve", "abc"], "64 hexadecimal"),
    ],
)
def test_a_users_mistake_is_one_message(
    tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "made").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "made"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "one" / "north").mkdir(parents=True)
    silo = "name: north\ndata: {rows: {type: csv, path: rows.csv}}\n"
    (tmp_path / "one" / "north" / "silo.yaml").write_text(silo)
    job = tmp_path / "job.yaml"
    job.write_text("name: tiny\ncontract: breast_cancer@1\nmodel: consilo.learners.tabular:MLP\n")
    places = {"full": tmp_path / "full", "one": tmp_path / "one", "job": job}
    filled = [each.format_map(places) for each in arguments]
    done = run(filled, tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [each.name for each in (tmp_path / "made").glob("consilo*")] == []
