"""``consilo job run --simulate``: one JSON object, and a user's error without a traceback."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import clinic
import pytest
import yaml
from typer.testing import CliRunner

from consilo.errors import ConsiloError
from flows.commands.job import job_app


def _consilo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("consilo")), "job", "run", *arguments],
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "clinic.yaml").write_text(clinic.CONTRACT)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(clinic.JOB))
    clinic.frame(600).to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path


@pytest.mark.flow
def test_a_table_becomes_silos(study: Path) -> None:
    done = _consilo(
        *(str(study / "job.yaml"), "--simulate", "12", "--data", str(study / "rows.csv")),
        *("--partition", "power:0.5", "--rounds", "2", "--workers", "2", "--json"),
        *("--dir", str(study / "out")),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["status"] == "complete", summary["reason"]
    assert len(summary["silos"]) == 12
    assert summary["simulation"]["silo_rounds"] == 24
    assert Path(summary["record"]).is_file()
    assert "silo-rounds" in done.stderr


@pytest.mark.flow
def test_folds_hold_each_row_out_once(study: Path) -> None:
    """K-fold was there in Python alone."""
    done = _consilo(
        *(str(study / "job.yaml"), "--simulate", "2", "--data", str(study / "rows.csv"), "--json"),
        *("--folds", "2", "--rounds", "1", "--workers", "1", "--out", str(study / "out")),
    )
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads(done.stdout)
    assert summary["status"] == "complete"
    silos = [silo for fold in summary["folds"] for silo in fold["silos"].values()]
    assert sum(each["num_held_out"] for each in silos) == 600
    found = [fold["metrics"]["log_loss"] for fold in summary["folds"]]
    told = summary["figures"]["log_loss"]
    assert (told["folds"], len(set(found))) == (2, 2)
    assert told["mean"] == pytest.approx(sum(found) / 2)
    assert told["deviation"] == pytest.approx(statistics.stdev(found))
    assert (study / "out" / "fold-2" / "model" / "scoring.json").is_file()
    assert json.loads((study / "out" / "summary.json").read_text())["figures"] == summary["figures"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--fold", "2"], "say with --folds of how many"),
        (["--resume", "x", "--dir", "c", "--folds", "3"], "say with --dir where, and with --fold"),
        (["--resume", "x", "--dir", "c", "--local"], "goes on with one run of a federation"),
        (["--simulate", "2", "--local"], "are two ways"),
        (["--simulate", "2", "--silos", "s"], "are two ways"),
        (["--local", "--data", "rows.csv"], "is for --simulate"),
        (["--dir", "c", "--partition", "power:1"], "is for --simulate"),
        (["--dir", "c", "--out", "o"], "is for --local and --simulate"),
        (["--dir", "c", "--folds", "3", "--fold", "4"], "there are 3 folds, found 4"),
    ],
)
def test_an_option_that_says_nothing_is_refused(study: Path, options: list[str], said: str) -> None:
    """``--data`` without ``--simulate`` was not looked at."""
    with pytest.raises(ConsiloError, match=said):
        CliRunner().invoke(
            job_app, ["run", str(study / "job.yaml"), *options], catch_exceptions=False
        )


@pytest.mark.flow
def test_a_simulation_without_a_directory_leaves_none(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "made").mkdir()
    monkeypatch.setenv("TMPDIR", str(study / "made"))
    job, rows = str(study / "job.yaml"), str(study / "rows.csv")
    done = _consilo(job, "--simulate", "3", "--data", rows, "--rounds", "1", "--json")
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["record"] is None
    assert [each.name for each in (study / "made").glob("consilo*")] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give the rows with --data"),
        (["--data", "rows.csv", "--partition", "dirichlt:1"], "dirichlet"),
    ],
)
def test_wrong_usage_is_said_plainly(
    study: Path, options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (study / "made").mkdir()
    monkeypatch.setenv("TMPDIR", str(study / "made"))
    done = _consilo(str(study / "job.yaml"), "--simulate", "3", *options)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list((study / "made").glob("consilo*")) == []
