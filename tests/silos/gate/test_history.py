"""A silo that was restored from an older backup: it finds out, and stops until people decide."""

from __future__ import annotations

import json
import shutil

import pytest
from three_silos import NAMES, run_of, silos_in
from typer.testing import CliRunner

from consilo.cli import build
from consilo.record.chain import verify
from consilo.record.heads import SiloHeads
from consilo.runs.horizontal import run_all
from silos.silo import Silo

PRIVATE = {"privacy": {"epsilon": 3.0, "delta": 1e-3}}


def begun(tmp_path, **changes):
    """Return three silos after one run; ``changes`` are made to the job."""
    silos = silos_in(tmp_path)
    assert run_all(run_of(tmp_path / "runs" / "one", silos, **changes)).status == "complete"
    return silos


def again(tmp_path, silos, name="two", **changes):
    return run_all(run_of(tmp_path / "runs" / name, silos, **changes))


def opened_anew(silo: Silo) -> Silo:
    return Silo.open(silo.directory, partners=silo.letters.partners)


def faults(tmp_path, name="two"):
    entries = verify(tmp_path / "runs" / name / "record.jsonl")
    said = [each["body"]["headers"] for each in entries if each["kind"] == "replies"]
    return {
        header["silo"]: header["reason"]
        for headers in said
        for header in headers
        if header["status"] == "fault"
    }


def test_silos_that_remember_are_asked_run_after_run(tmp_path):
    silos = begun(tmp_path)
    assert again(tmp_path, silos).status == "complete"
    assert again(tmp_path, silos, "three").status == "complete"
    assert set(json.loads((tmp_path / "runs" / "silo-heads.json").read_text())) == set(NAMES)


def test_a_silo_from_an_older_backup_stops_until_its_people_decide(tmp_path):
    silos = silos_in(tmp_path)
    assert run_all(run_of(tmp_path / "runs" / "zero", silos)).status == "complete"
    shutil.copytree(tmp_path / "east", tmp_path / "backup")
    assert again(tmp_path, silos, "one", **PRIVATE).status == "complete"
    assert silos["east"].account.ledger.entries()
    shutil.rmtree(tmp_path / "east")
    shutil.copytree(tmp_path / "backup", tmp_path / "east")
    silos["east"] = opened_anew(silos["east"])
    assert not silos["east"].account.ledger.entries()
    for name in ("two", "three"):  # and it stays so
        assert again(tmp_path, silos, name, **PRIVATE).status != "complete"
        told = faults(tmp_path, name)
        assert "silo ledger accept" in told["east"]
    assert not silos["east"].account.ledger.entries()
    command = ["silo", "ledger", "accept", "--json", "--dir", str(tmp_path / "east")]
    accepted = json.loads(CliRunner().invoke(build(), command).stdout)["accepted"]
    assert accepted["what"] == "log"
    assert again(tmp_path, silos, "four", **PRIVATE).status == "complete"
    kinds = [each["kind"] for each in verify(tmp_path / "east" / "audit.jsonl")]
    assert "accepted" in kinds
    assert json.loads(CliRunner().invoke(build(), command).stdout)["accepted"] is None


@pytest.mark.parametrize("lost", ["the file", "its end"])
def test_a_ledger_alone_that_was_lost_stops_the_silo_too(tmp_path, lost):
    silos = silos_in(tmp_path)
    path = tmp_path / "east" / "ledger.db"
    assert run_all(run_of(tmp_path / "runs" / "zero", silos, **PRIVATE)).status == "complete"
    kept = path.read_bytes()
    assert again(tmp_path, silos, "one", **PRIVATE).status == "complete"
    for each in path.parent.glob("ledger.db*"):
        each.unlink()
    if lost == "its end":
        path.write_bytes(kept)
    silos["east"] = opened_anew(silos["east"])
    assert again(tmp_path, silos).status != "complete"
    assert "silo ledger accept" in faults(tmp_path)["east"]
    assert silos["east"].history.accept()["what"] == "ledger"
    assert again(tmp_path, silos, "three").status == "complete"


def test_what_the_silo_did_not_sign_says_nothing(tmp_path):
    silos = begun(tmp_path)
    heads = SiloHeads(tmp_path / "runs")
    said = heads.newest("east")
    north = heads.newest("north")
    made_up = (
        {**said, "head": "0" * 64},
        {**said, "signature": "0" * 128},
        north,
        {"head": "x"},
        {},
        {"head": "\u202e" * 900},
    )
    for forged in made_up:
        silos["east"].history.recognise(forged)
    silos["east"].history.recognise(None)
    assert not (tmp_path / "east" / "forgotten.json").exists()
    assert again(tmp_path, silos).status == "complete"
