"""Copies of rows do not stay, also where a rehearsal is killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from consilo.machine.locks import holding
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
