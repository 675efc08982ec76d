"""A record's lines are told in words, and whatever they hold in one line that harms no terminal."""

from __future__ import annotations

from typing import Any

import pytest

from consilo.record.lines import in_words


def told(kind: str, **body: Any) -> str:
    said = in_words({"seq": 7, "time": "2026-11-27T10:00:00+00:00", "kind": kind, "body": body})
    start = f"  7  2026-11-27T10:00:00+00:00  {kind:<13} "
    assert said.startswith(start)
    return said.removeprefix(start)


TRAINED = {"silo": "north", "outcome": "trained", "epsilon": 1.25}
DROPPED = {"silo": "south", "outcome": "dropped", "epsilon": None}


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("contract", {"silo": "north", "verdict": "passed", "reason": ""}, "north: passed"),
        (
            "contract",
            {"silo": "n", "verdict": "failed", "reason": "range (age)"},
            "n: failed: range (age)",
        ),
        (
            "replies",
            {
                "headers": [
                    {"silo": "n", "code": "", "status": "ok"},
                    {"silo": "s", "code": "refused", "status": "fault"},
                ]
            },
            "signed by n; refused: s",
        ),
        (
            "round",
            {"round": 3, "participation": [TRAINED, DROPPED], "params": "0123456789abcdef"},
            "round 3: 1 silo trained; ε up to 1.250; south dropped; parameters 0123456789ab",
        ),
        ("evaluated", {"metrics": {"accuracy": 0.91234}}, "accuracy 0.9123"),
        (
            "closed",
            {"status": "failed", "entries": 9, "reason": "no quorum"},
            "failed, 9 lines: no quorum",
        ),
    ],
)
def test_it_is_told_in_words(kind: str, body: Any, words: str) -> None:
    assert told(kind, **body) == words


def test_what_is_not_known_is_told_as_it_stands_and_cut() -> None:
    assert told("newer", a=1) == '{"a": 1}'
    assert told("round", other="of another release") == '{"other": "of another release"}'
    long = told("newer", a="x" * 1000)
    assert len(long) <= 151
    assert long.endswith("…")


def test_no_sign_of_a_silo_moves_the_terminal() -> None:
    said = told("contract", silo="north", verdict="failed", reason="a\x1b[2J\nb")
    assert said.isprintable()
    assert "\\x1b[2J" in said
