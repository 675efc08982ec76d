"""A flow's process is killed in the middle of a run; another one goes on with the run."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import httpx
import psutil
import pytest

from consilo.record.run_record import read, verify
from tests.federation.conftest import CONSILO, KeptDemo

pytestmark = [pytest.mark.federation, pytest.mark.timeout(280)]


def test_a_killed_run_is_gone_on_with(demo: KeptDemo) -> None:
    runs = demo.home / "runs"
    known = {each.name for each in runs.iterdir()}
    job = [str(CONSILO), "job", "run", str(demo.home / "jobs" / "breast-cancer.yaml")]
    asked = [*job, "--dir", str(demo.home), "--json", "--rounds", "6"]
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        run = _wait_for_round(runs, known, 2)
    finally:
        everybody = [psutil.Process(process.pid), *psutil.Process(process.pid).children(True)]
        for each in everybody:
            each.kill()
        process.wait(30)
        psutil.wait_procs(everybody, 30)
    before = _rounds(runs / run)
    assert 2 <= len(before) < 6
    done = subprocess.run(
        [*asked, "--resume", run], capture_output=True, text=True, timeout=200, check=False
    )
    summary = json.loads(done.stdout)
    assert summary["status"] == "degraded", summary["reason"]  # the broken hospital is left out
    assert summary["run_id"] == run
    assert f"round {before[-1]['round'] + 1}:" in done.stderr
    api = summary["prefect"]["api_url"]
    tags = {"flow_runs": {"tags": {"all_": ["died"]}}}
    (died,) = httpx.post(f"{api}/flow_runs/filter", json=tags, timeout=10).json()
    assert died["state"]["type"] == "CRASHED"
    # By the run that goes on with it, or by the coordinator that is up, whoever looked first.
    assert died["state"]["message"].startswith("its process died; ")
    assert died["name"].endswith(" · died")
    assert "round 1:" not in done.stderr
    assert verify(runs / run / "record.jsonl")["status"] == "degraded"
    # The last round before may have died before its checkpoint: done again, to the same model.
    after = {each["round"]: each for each in _rounds(runs / run)}
    assert list(after) == [1, 2, 3, 4, 5, 6]
    assert [after[each["round"]] for each in before[:-1]] == before[:-1]
    assert after[len(before)]["params"] == before[-1]["params"]
    assert len(_rounds(runs / run)) - len(after) <= 1
    assert summary["silos"]["north"]["rounds"] == [1, 2, 3, 4, 5, 6]
    again = subprocess.run(
        [*asked, "--resume", run], capture_output=True, text=True, timeout=200, check=False
    )
    assert again.returncode == 1
    assert "has ended" in json.loads(again.stdout)["reason"]


def _wait_for_round(runs: Path, known: set[str], number: int) -> str:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        new = {each.name for each in runs.iterdir()} - known
        for name in new:
            if len(_rounds(runs / name)) >= number:
                return name
        time.sleep(0.05)
    raise AssertionError(f"no run came to round {number}")


def _rounds(run: Path) -> list[dict]:
    record = run / "record.jsonl"
    if not record.exists() or not record.stat().st_size:
        return []
    return [each["body"] for each in read(record) if each["kind"] == "round"]


@pytest.mark.slow
def test_a_stopped_flow_loses_its_run_which_goes_on_by_itself(demo: KeptDemo) -> None:
    """A process that stands still would hold its run for ever, and wake beside whoever took it."""
    runs = demo.home / "runs"
    known = {each.name for each in runs.iterdir()}
    job = [str(CONSILO), "job", "run", str(demo.home / "jobs" / "breast-cancer.yaml")]
    process = subprocess.Popen(
        [*job, "--dir", str(demo.home), "--json", "--rounds", "6"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run = _wait_for_round(runs, known, 2)
        (flow,) = [
            each
            for each in psutil.Process(process.pid).children(True)
            if "flows.runner" in each.cmdline()
            and "-m" in each.cmdline()[:6]
            and "reaper.py" not in " ".join(each.cmdline())
        ]
        flow.suspend()
        lines = len(read(runs / run / "record.jsonl"))
        out, err = process.communicate(timeout=240)
    finally:
        process.kill()
    summary = json.loads(out)
    assert summary["status"] == "degraded", summary["reason"]  # the broken hospital is left out
    assert summary["run_id"] == run
    assert "killed by SIGKILL; going on with" in err
    assert f"of process {flow.pid} has not stirred" in demo.messages.read_text()
    entries = read(runs / run / "record.jsonl")
    assert entries[lines]["kind"] == "resumed"
    assert entries[lines]["body"]["owner"] > 0
    assert verify(runs / run / "record.jsonl")["status"] == "degraded"
    assert sorted({each["round"] for each in _rounds(runs / run)}) == [1, 2, 3, 4, 5, 6]
    status = subprocess.run(
        [str(CONSILO), "status", "--dir", str(demo.home), "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = json.loads(status.stdout)
    assert told["runs"]["running"] == []
    assert told["runs"]["last"]["status"] == "degraded"
    assert [each for each in told["findings"] if each["name"] == run] == []
    assert all(each.get("since") for each in told["services"][:3]), told["services"]
