"""Parts of vertical models on a silo's disk, and the command that lists and drops them."""

import json
import stat

import pytest
from typer.testing import CliRunner

from consilo.errors import Refused
from consilo.record import chain
from silos.commands.app import app
from silos.kept.model_parts import drop_part, every_part, read_part, write_part, write_scores

ABOUT = {
    "model": "run-1",
    "silo": "bank",
    "job": "credit",
    "purpose": "research",
    "protocol": "vertical_linear",
    "contract": "joint@1",
    "members": ["bank", "telecom"],
    "label_silo": "bank",
    "inputs": ["age"],
    "reference": "00",
}


def test_a_part_is_kept_for_the_owner_alone_and_dropped_by_command(tmp_path):
    write_part(tmp_path, "run-1", b"weights", ABOUT)
    place = tmp_path / "models" / "run-1"
    for file in (place, place / "part.bin", place / "part.yaml"):
        assert not stat.S_IMODE(file.stat().st_mode) & 0o077
    assert read_part(tmp_path, "run-1") == b"weights"
    listed = CliRunner().invoke(app, ["models", "--dir", str(tmp_path), "--json"])
    assert json.loads(listed.stdout) == {"models": [ABOUT]}
    told = CliRunner().invoke(app, ["models", "--dir", str(tmp_path)])
    assert told.stdout == (
        "run-1: vertical_linear, 1 inputs of joint@1, labels here; with telecom\n"
    )
    dropped = CliRunner().invoke(app, ["models", "--dir", str(tmp_path), "--drop", "run-1"])
    assert dropped.stdout == "no part of a model is kept here\n"
    assert not place.exists()
    (entry,) = chain.verify(tmp_path / "audit.jsonl")
    assert (entry["kind"], entry["body"]) == ("model_dropped", {"model": "run-1"})


def test_a_part_that_is_not_there_is_refused_by_name(tmp_path):
    with pytest.raises(Refused, match="no part of the model 'run-1'"):
        read_part(tmp_path, "run-1")
    with pytest.raises(Refused, match="no part of the model 'run-1'"):
        drop_part(tmp_path, "run-1")
    assert every_part(tmp_path) == []


@pytest.mark.parametrize("name", ["", "..", "../other", "a/b", "/etc", ".hidden", "a" * 300])
def test_no_name_leads_out_of_the_folder(name, tmp_path):
    import pandas as pd

    for act in (
        lambda: write_part(tmp_path, name, b"", {}),
        lambda: read_part(tmp_path, name),
        lambda: drop_part(tmp_path, name),
        lambda: write_scores(tmp_path, name, pd.DataFrame()),
    ):
        with pytest.raises(Refused, match="no run's id"):
            act()
    assert list(tmp_path.iterdir()) == []
