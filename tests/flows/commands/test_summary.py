"""What a person reads of a run, on a terminal and in a picture."""

import io
import struct

import pytest
from rich.console import Console

from consilo.runs.outcome import RunResult, SiloOutcome
from flows.commands.summary import show
from flows.registry.plots import compared, comparison
from flows.services.launch import _line

METRICS = {
    "joined/roc_auc": 0.9922,
    "joined/accuracy": 0.97,
    "label_only/roc_auc": 0.858,
    "label_only/accuracy": 0.81,
    "shuffled/roc_auc": 0.8404,
    "shuffled/accuracy": 0.79,
}
SILO = {"status": "trained", "rounds": [1, 2], "num_examples": 353, "contract": "passed"}
SUMMARY = {
    "run_id": "churn-1",
    "status": "complete",
    "reason": "",
    "kind": "vertical",
    "silos": {"bank": SILO, "shop": SILO},
    "metrics": METRICS,
    "label_silo": "bank",
    "match": {"handle": "customers", "rows": 353, "reused": True},
    "references": {"bank": "ab" * 32, "shop": "cd" * 32},
}


def shown(summary):
    console = Console(width=120, record=True, file=io.StringIO())
    show(summary, console)
    return console.export_text()


def test_joined_is_held_against_the_label_silo_alone_and_the_control():
    text = shown(SUMMARY)
    for title, figure in (("joined", 0.9922), ("bank alone", 0.858), ("shuffled join", 0.8404)):
        (line,) = [each for each in text.splitlines() if each.startswith(title)]
        assert f"roc_auc {figure:.4f}" in line
    assert "bank (labels)" in text
    assert "kept there, abababababab" in text
    assert "'customers', 353 rows, used again" in text
    assert "models/churn-1 in the directory of each silo" in text


def test_a_resume_on_other_hardware_is_told_at_once_and_at_the_end():
    changed = ["cpu New [9] (was Old)"]
    said = _line({"kind": "resumed", "body": {"changed": changed}})
    assert said == "resumed with other hardware or software: cpu New [9] (was Old)"
    assert _line({"kind": "resumed", "body": {"changed": []}}) == ""
    assert "was Old" in shown({**SUMMARY, "notes": [f"resumed ({changed[0]})"]})
    assert "resumed" not in shown(SUMMARY)


def test_a_scoring_says_where_the_scores_lie():
    scored = {**SUMMARY, "kind": "scoring", "metrics": {}, "references": {}}
    text = shown(scored)
    assert "scores/churn-1.csv in the directory of silo 'bank'" in text
    assert "models/" not in text
    assert "scores/" not in shown({**scored, "status": "failed"})


def test_a_run_that_was_not_matched_says_why():
    failed = {**SUMMARY, "status": "failed", "reason": "QuorumLost: no", "match": None}
    text = shown({**failed, "metrics": {}, "references": {}})
    assert "QuorumLost: no" in text
    assert "customers" not in text
    assert "bank (labels)" in text


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (
            {"metrics": METRICS, "facts": {}},
            "evaluated: joined/roc_auc 0.9922, label_only/roc_auc 0.8580, shuffled/roc_auc 0.8404",
        ),
        ({"metrics": {}, "facts": {"scored": 353.0}}, "353 rows scored; the scores stay in"),
        ({"metrics": {"roc_auc": 0.9}}, "evaluated: roc_auc 0.9000"),
    ],
)
def test_progress_tells_one_figure_of_each_way(body, said):
    assert _line({"kind": "evaluated", "body": body}).startswith(said)


def test_the_match_of_another_command_is_no_news():
    told = {"handle": "customers", "hub": "bank", "recipe": "ab", "silos": {}}
    assert _line({"kind": "matched", "body": told}) == ""
    new = {"handle": "customers", "rows": 3, "reused": False}
    assert _line({"kind": "matched", "body": new}) == "match 'customers' made: 3 rows"


def test_a_picture_shows_what_joining_is_worth(tmp_path):
    result = RunResult("churn-1", "complete", "", {"bank": SiloOutcome()}, METRICS, "", "", {})
    assert compared(result) == "roc_auc"
    comparison(result, tmp_path / "made.png")
    data = (tmp_path / "made.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG")
    assert (width > 400, height > 100) == (True, True)
    alone = RunResult("heart-1", "complete", "", {}, {"roc_auc": 0.9}, "", "", {})
    assert compared(alone) == ""


@pytest.mark.parametrize(
    ("silo", "column"), [({"epsilon": 3.7}, "ε"), ({"metrics": {"roc_auc": 0.9}}, "before → after")]
)
def test_the_table_has_the_columns_that_some_silo_fills(silo, column):
    text = shown({"status": "complete", "silos": {"north": SILO | silo, "south": SILO}})
    assert {each for each in ("ε", "before → after") if each in text} == {column}
