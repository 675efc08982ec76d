"""What the page of promotions says is what the chain says, whoever wrote it."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from decided import (
    BEGAN,
    MODEL,
    ballot,
    coordinators_key,
    deciding,
    digest_of,
    promoted,
    proposed,
    trained,
)
from starlette.testclient import TestClient

from consilo.decisions.candidates import look_up
from consilo.decisions.promotions import Promotions
from consilo.decisions.vote import Ballot, Vote
from dashboards.reading.reading import Reading
from dashboards.site import site_here

NOW = datetime.fromtimestamp(BEGAN + 3600, UTC)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    coordinators_key(tmp_path)
    for version in (1, 2, 3):
        trained(tmp_path, version)
    return tmp_path


def page(home: Path, path: str = "/promotion") -> str:
    reading = Reading(home, now=lambda: NOW)
    try:
        app = site_here(reading, port=8410).application()
        answer = TestClient(app, base_url="http://127.0.0.1:8410").get(path)
        assert answer.status_code == 200
        return answer.text
    finally:
        reading.close()


def test_what_was_never_proposed_has_its_command(home):
    text = page(home)
    assert "No version of a model was proposed here yet" in text
    assert f"consilo model propose {MODEL} 3 --dir {home}" in text


def test_votes_gates_and_the_queue_are_those_of_the_chain(home):
    promoted(home, 1)
    gains = {"east": 0.0125, "north": -0.25, "south": 0.5}
    proposed(home, 2, north="no", gains=gains)
    text = page(home)
    assert "number 1 of the queue" in text
    assert "2 yes, 1 no, 0 abstain" in text
    assert "it is worse than the champion, beyond the tolerance" in text
    for silo, gain in gains.items():
        assert f"gain/champion {gain:.4g}, rows 30" in text, silo
    waiting = Promotions.open(home, MODEL).waiting[0]
    for gate in deciding(home, at=BEGAN + 3600).gates(waiting):
        assert gate.name in text
    assert "max_no" in text
    assert "north says no" in text
    assert f"consilo model approve {MODEL} 2 --dir {home}" in text
    assert "Trained, and not proposed yet" in text


def test_the_champions_history_says_who_and_why(home):
    promoted(home, 1)
    promoted(home, 3)
    deciding(home).roll_back(1, reason="worse in use", by="root")
    text = page(home)
    found = Promotions.open(home, MODEL)
    assert found.champion is not None
    assert found.champion.version == 1
    for each in found.changes:
        assert each.told in text
    assert "worse in use" in text


def test_an_alias_moved_by_hand_is_said(home):
    promoted(home, 1)
    deciding(home)._aliases.point(MODEL, "champion", 2)  # type: ignore[union-attr]
    deciding(home).put_back(act=False)
    text = page(home)
    assert "moved by hand" in text
    assert "The alias champion was found at version 2; by the last decision it is version 1" in text


def test_a_chain_that_was_changed_shows_no_decision(home):
    promoted(home, 1)
    path = home / "promotions" / f"{MODEL}.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"reason":"good"', b'"reason":"fine"'))
    text = page(home)
    assert "are not as they were written" in text
    assert (
        "fine" not in text.partition("Who decides")[0].partition("not as they")[2].partition(":")[2]
    )


def test_what_people_wrote_is_escaped(home):
    evil = '<script>alert(1)</script>"\u202e'
    work = deciding(home)
    made = work.propose(look_up(home, MODEL, 1))
    vote = Vote("east", f"{MODEL}-1", digest_of(1), None, "yes", ("people",), {}, overruled=evil)
    missing = {"north": evil, "south": evil}
    work.vote(made, Ballot(f"{MODEL}-vote", (vote,), missing))
    deciding(home).decide(1, approves=False, reason=evil, by="root", how="shell")
    text = page(home)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "\u202e" not in text


def test_a_runs_page_has_the_gain_of_each_silo(home):
    promoted(home, 1)
    work = deciding(home)
    made = work.propose(look_up(home, MODEL, 2))
    figures = {"gain/champion": 0.0321, "low/champion": -0.0123, "high/champion": 0.0777}
    old = ballot(2, champion=1)
    votes = tuple(
        Vote(e.silo, e.run, e.candidate, e.champion, e.verdict, e.reasons, figures)
        for e in old.votes
    )
    work.vote(made, Ballot(old.run_id, votes, {}))
    text = page(home, f"/runs/{MODEL}-2")
    for value in figures.values():
        assert f"{value:g}" in text
    assert "better than the champion" in text
    assert "better than the champion" not in page(home, f"/runs/{MODEL}-1")
