"""A coordinator's machine is lost in the middle of a run; another one goes on from the backup."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest

from consilo.contracts.contract import SHIPPED
from consilo.jobs.job import Job
from consilo.record.run_record import read, verify
from consilo.transports.flower.bundle import bundle_hash
from flows.demo.demo_data import write_hospitals
from flows.services.federation import job_bundle
from silos.gate.bundles import approve
from tests.federation.conftest import CONSILO, Watched, end, living, start, wait_for
from tests.federation.test_killed_flow import _rounds, _wait_for_round

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(600)]


def consilo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(CONSILO), *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_a_run_goes_on_where_the_backup_was_restored(tmp_path: Path) -> None:
    """Backup under way, machine lost, restored elsewhere: same id, same rounds, one record."""
    home, again, silos = tmp_path / "work", tmp_path / "again", tmp_path / "silos"
    archive, job = tmp_path / "backup.tar.gz", SHIPPED / "jobs" / "breast_cancer.yaml"
    digest = bundle_hash(job_bundle(Job.load(job), (job.parent,)))
    for hospital in write_hospitals(silos, count=3, seed=1):
        approve(hospital.directory, digest)
    command = ["job", "run", str(job), "--rounds", "8", "--json"]

    up = start(["up", "--dir", str(home), "--silos", str(silos)], tmp_path)
    try:
        assert wait_for((home / "federation.json").exists, 120), up.process.poll()
        (home / "runs").mkdir(exist_ok=True)
        going = subprocess.Popen(
            [str(CONSILO), *command, "--dir", str(home)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        run = _wait_for_round(home / "runs", set(), 3)
        done = consilo("backup", str(archive), "--dir", str(home), "--json")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["open_runs"] == [run]
        everybody = [
            each
            for root in (psutil.Process(going.pid), psutil.Process(up.process.pid))
            for each in (root, *root.children(True))
        ]
        for each in everybody:
            each.kill()
        going.wait(30)
        up.process.wait(30)
        assert wait_for(lambda: not living(up.mark), 20), living(up.mark)
    finally:
        _end(up)
    kept = _rounds_in(archive, run, tmp_path / "looked")
    assert len(kept) >= 3
    shutil.rmtree(home)

    done = consilo("restore", str(archive), "--dir", str(again))
    assert done.returncode == 0, done.stderr
    up = start(["up", "--dir", str(again), "--silos", str(silos)], tmp_path)
    try:
        assert wait_for((again / "federation.json").exists, 120), up.process.poll()
        told = json.loads(consilo("status", "--dir", str(again), "--json").stdout)
        assert [each["name"] for each in told["findings"] if each["todo"]] == [run]
        done = consilo(*command, "--dir", str(again), "--resume", run)
        summary = json.loads(done.stdout)
        assert summary["status"] != "failed", summary["reason"]
        assert summary["run_id"] == run
    finally:
        _end(up)
    record = again / "runs" / run / "record.jsonl"
    assert verify(record)["status"] == summary["status"]
    kinds = [each["kind"] for each in read(record)]
    assert kinds.index("restored") < kinds.index("resumed")
    rounds = _rounds(again / "runs" / run)
    assert rounds[: len(kept)] == kept
    # The last one of the backup may be told a second time: its checkpoint came after its line.
    assert sorted({each["round"] for each in rounds}) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert again.stat().st_mode & 0o077 == 0


def _end(up: Watched) -> None:
    end(up)
    up.process.communicate(timeout=20)


def _rounds_in(archive: Path, run: str, folder: Path) -> list[dict]:
    shutil.unpack_archive(archive, folder, "gztar", filter="data")
    (place,) = folder.rglob(f"runs/{run}")
    return _rounds(place)
