"""``consilo analytics``."""

from __future__ import annotations

import json

import asked_rows as rows
import pytest
from typer.testing import CliRunner

from consilo.cli import build


def run(arguments):
    return CliRunner().invoke(build(), arguments)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "remission.yaml").write_text(rows.CONTRACT)
    rows.frame(600, 1).to_csv("rows.csv", index=False)
    return tmp_path


def test_it_says_where_to_ask(study):
    found = run(["analytics", "remission.yaml"])
    assert found.exit_code != 0
    assert "--simulate" in str(found.exception or found.output)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--by", "arm"], "give one"),
        (["--ask", "survival", "--by", "stage"], "is none of the groups"),
        (["--ask", "medians"], "questions"),
    ],
)
def test_a_fault_is_said_before_anything_is_asked(study, options, said):
    found = run(["analytics", "remission.yaml", "--simulate", "2", *options])
    assert found.exit_code != 0
    assert said in str(found.exception or found.output)


@pytest.mark.slow
def test_rows_that_are_cut_give_answers_and_files(study):
    asked = ["--simulate", "2", "--data", "rows.csv", "--ask", "survival", "--by", "arm"]
    found = run(["analytics", "remission.yaml", *asked, "--out", "report", "--json"])
    assert found.exit_code == 0, found.output
    summary = json.loads(found.stdout)
    assert [each["by"] for each in summary["answers"]["answers"]] == ["", "arm"]
    assert (study / "report" / "analytics.html").is_file()


def test_a_job_file_is_validated_with_what_silos_would_refuse(study):
    (study / "job.yaml").write_text(
        "name: ask\nkind: analytics\ncontract: remission.yaml\n"
        "questions: [counts, {ask: survival, by: [arm]}]\n"
    )
    found = run(["job", "validate", "job.yaml"])
    assert found.exit_code == 0, found.output
    assert "2 questions of 4 declared tables; exact: a silo refuses it whose policy" in found.output
