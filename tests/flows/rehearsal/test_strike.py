"""When a fault of a rehearsal strikes."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from flows.rehearsal.faults import Fault
from flows.rehearsal.rehearse import is_played
from flows.rehearsal.standing import Standing
from flows.rehearsal.strike import Strike


def test_after_training_is_when_an_undisturbed_run_has_trained(tmp_path: Path) -> None:
    """A vertical run stops before its last round once it has come to rest: nothing ever struck."""
    cache = tmp_path / "anna" / "cache"
    cache.mkdir(parents=True)
    told: list[str] = []
    there = SimpleNamespace(
        rehearsed=SimpleNamespace(silos={"anna": tmp_path / "anna"}), say=told.append
    )
    fault = Fault(name="late", part="silo", what="wipe", when="after", lasts=0)
    strike = Strike(fault, cast("Standing", cast("Any", there)), "anna", last=3)
    record = tmp_path / "record.jsonl"
    strike.follow(record)
    with record.open("a") as lines:
        for number in (1, 2):
            lines.write(json.dumps({"kind": "round", "body": {"round": number}}) + "\n")
        lines.flush()
        strike.look()
        assert not strike.has_struck
        lines.write(json.dumps({"kind": "round", "body": {"round": 3}}) + "\n")
    strike.look()
    assert strike.has_struck
    assert not cache.exists()
    assert told == ["late: wipe anna"]


def test_a_run_that_failed_under_the_first_of_two_faults_is_judged_by_it() -> None:
    """It was told as a broken promise, since the second one had nothing left to strike."""
    struck, idle = (cast("Strike", SimpleNamespace(has_struck=each)) for each in (True, False))
    assert is_played([struck, idle], "failed")
    assert not is_played([struck, idle], "complete")
    assert not is_played([idle], "failed")
    assert is_played([struck], "complete")
