"""Copies of rows do not stay, also where a rehearsal is killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from consilo.machine.locks import holding
from flows.rehearsal import disks
from flows.rehearsal.place import rehearsal_place, sweep


def left_behind(folder: Path, name: str) -> Path:
    made = folder / f"consilo-rehearsal-{name}"
    (made / "silos").mkdir(parents=True)
    (made / "silos" / "rows.csv").write_text("age\n71\n")
    (made / "held").touch()
    return made


def test_a_place_is_gone_when_its_rehearsal_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with rehearsal_place(None) as place:
        assert place.home.is_dir()
        sweep(tmp_path, time.time() + 3600)
        assert place.home.is_dir()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_rehearsal_has_left_is_deleted_and_nothing_else(tmp_path: Path) -> None:
    killed, goes_on = left_behind(tmp_path, "killed"), left_behind(tmp_path, "goes-on")
    other = tmp_path / "consilo-rehearsal-of-a-person"
    other.mkdir()
    with holding(goes_on / "held"):
        sweep(tmp_path, time.time())  # as young as these might be about to be held
        assert killed.exists()
        sweep(tmp_path, time.time() + 3600)
    assert not killed.exists()
    assert (goes_on / "silos" / "rows.csv").exists()
    assert other.exists()


_WITH_DISKS = """
import sys, tempfile
from flows.rehearsal import disks
from flows.rehearsal.place import rehearsal_place
tempfile.tempdir = sys.argv[1]
with rehearsal_place(None) as place:
    disks.of_our_own()
    for folder in (place.disk, place.silos):
        folder.mkdir(exist_ok=True)
        disks.mount(folder)
    held = (place.home / "open").open("w")
    print(disks.used_bytes(place.silos) >= 0)
"""


@pytest.mark.skipif(bool(disks.why_not()), reason="it takes root to mount a disk")
def test_nothing_stays_of_a_place_that_had_disks(tmp_path: Path) -> None:
    """Empty folders of disks stayed, since a mount point cannot be deleted."""
    folder = tmp_path / "with a space"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _WITH_DISKS, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["True"]
    assert not list(folder.iterdir())
