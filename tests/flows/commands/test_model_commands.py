"""``consilo model`` and ``consilo reviewer`` on a directory where nothing is up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from decided import MODEL, FileRegistry, coordinators_key, promoted, proposed, trained
from typer.testing import CliRunner

from consilo.decisions.promotions import Promotions
from consilo.errors import ConfigInvalid, ConsiloError, DecisionRefused
from flows.commands.review.model import model_app
from flows.commands.review.reviewers import reviewer_app
from flows.tending.champions import champions


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = tmp_path / "coordinator"
    coordinators_key(place)
    for version in (1, 2, 3):
        trained(place, version)
    return place


def say(app: Any, *words: Any) -> Any:
    """Run a command and return its document; its error is raised."""
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    if isinstance(done.exception, ConsiloError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_without_reviewers_a_shell_decides_and_rolls_back_while_nothing_is_up(home):
    proposed(home, 1)
    told = say(model_app, "approve", MODEL, 1, "--dir", home, "--reason", "first")
    assert (told["champion"], told["aliases_moved"]) == (1, False)
    proposed(home, 2)
    say(model_app, "approve", MODEL, 2, "--dir", home, "--reason", "better")
    proposed(home, 3, east="no")
    with pytest.raises(DecisionRefused, match="max_no: east says no"):
        say(model_app, "approve", MODEL, 3, "--dir", home, "--reason", "new")
    told = say(model_app, "reject", MODEL, 3, "--dir", home, "--reason", "east says no")
    assert told["champion"] == 2
    told = say(model_app, "rollback", MODEL, "--dir", home, "--reason", "slow")
    assert (told["champion"], told["previous"]) == (1, None)
    (listed,) = say(model_app, "list", "--dir", home)["models"]
    assert [each["decision"]["verdict"] for each in listed["proposals"]] == [
        *("approved", "approved", "rejected")
    ]
    plain = CliRunner().invoke(model_app, ["list", "--dir", str(home)]).stdout
    assert f"{MODEL}: champion 1 (its alias has not moved yet), previous none" in plain


def test_a_reviewer_signs_on_another_machine_and_the_coordinator_takes_it(home, tmp_path):
    key, elsewhere = tmp_path / "bea.key", tmp_path / "elsewhere"
    elsewhere.mkdir()
    say(reviewer_app, "key", key)
    assert key.stat().st_mode & 0o777 == 0o600
    say(reviewer_app, "add", "bea", "--dir", home, "--key", f"{key}.pub")
    assert [e["name"] for e in say(reviewer_app, "list", "--dir", home)["reviewers"]] == ["bea"]
    proposed(home, 1)
    asked, envelope = elsewhere / "request.json", elsewhere / "envelope.json"
    say(model_app, "request", MODEL, 1, "--dir", home, "--out", asked)
    words = ("--reason", "fair", "--key", key, "--out", envelope)
    say(model_app, "sign", asked, "approve", *words)
    with pytest.raises(DecisionRefused, match="the envelope says approve of version 1, not reject"):
        say(model_app, "reject", MODEL, 1, "--dir", home, "--envelope", envelope)
    told = say(model_app, "approve", MODEL, 1, "--dir", home, "--envelope", envelope)
    assert told["champion"] == 1
    proposed(home, 2)
    told = say(model_app, "approve", MODEL, 2, "--dir", home, "--key", key, "--reason", "x")
    assert told["champion"] == 2
    with pytest.raises(DecisionRefused, match="a rollback needs the signature of one"):
        say(model_app, "rollback", MODEL, "--dir", home, "--reason", "slow")
    told = say(model_app, "rollback", MODEL, "--dir", home, "--reason", "slow", "--key", key)
    assert told["champion"] == 1
    say(reviewer_app, "remove", "bea", "--dir", home, "--reason", "has left")
    assert say(model_app, "list", "--dir", home)["models"][0]["champion"] == 1


def test_a_key_that_others_may_read_or_that_is_none_is_refused(home, tmp_path):
    proposed(home, 1)
    key = tmp_path / "bea.key"
    words = ("approve", MODEL, 1, "--dir", home, "--reason", "x", "--key", key)
    with pytest.raises(ConfigInvalid, match="does not exist"):
        say(model_app, *words)
    say(reviewer_app, "key", key)
    with pytest.raises(ConfigInvalid, match="a key is never written over"):
        say(reviewer_app, "key", key)
    key.chmod(0o644)
    with pytest.raises(ConfigInvalid, match="others may read this key; chmod 600"):
        say(model_app, *words)
    key.chmod(0o600)
    key.write_text("no key")
    with pytest.raises(ConfigInvalid, match="expected an Ed25519 private key"):
        say(model_app, *words)


def found(home: Path, *, act: bool) -> list[tuple[str, str, bool, bool]]:
    registry = FileRegistry(home / "registry.json")
    return [
        (each.kind, each.name, bool(each.done), bool(each.todo))
        for each in champions(registry, home, act=act)
    ]


def test_an_alias_moved_by_hand_is_told_until_it_is_as_decided(home):
    promoted(home, 1)
    assert found(home, act=True) == []
    registry = FileRegistry(home / "registry.json")
    registry.point(MODEL, "champion", 3)
    for act in (False, True, True):
        assert found(home, act=act) == [("alias", f"{MODEL}@champion", False, True)]
    kinds = [each["kind"] for each in Promotions.open(home, MODEL).entries]
    assert kinds.count("found_moved") == 1
    registry.point(MODEL, "champion", 1)
    assert found(home, act=True) == []


def test_an_alias_is_put_back_where_the_champions_job_says_so(home):
    trained(home, 4, aliases="put_back")
    promoted(home, 4)
    registry = FileRegistry(home / "registry.json")
    registry.point(MODEL, "champion", 3)
    assert found(home, act=True) == [("alias", f"{MODEL}@champion", True, False)]
    assert registry.pointing(MODEL) == {"champion": 4}
    assert found(home, act=True) == []


def test_a_decision_that_was_not_done_is_done(home):
    proposed(home, 1)
    say(model_app, "approve", MODEL, 1, "--dir", home, "--reason", "first")
    assert found(home, act=False) == [("decision", MODEL, True, False)]
    assert found(home, act=True) == [("decision", MODEL, True, False)]
    assert FileRegistry(home / "registry.json").pointing(MODEL) == {"champion": 1}
    assert found(home, act=True) == []


def test_a_champion_that_nobody_decided_and_a_chain_that_was_cut_are_told(home):
    registry = FileRegistry(home / "registry.json")
    registry.point(MODEL, "champion", 3)
    assert found(home, act=True) == [("alias", f"{MODEL}@champion", False, True)]
    promoted(home, 1)
    chain = home / "promotions" / f"{MODEL}.jsonl"
    whole = chain.read_bytes()
    (home / "audit.jsonl").unlink()  # so that only the registry knows how long it was
    chain.write_bytes(b"".join(whole.splitlines(keepends=True)[:2]))
    assert found(home, act=True) == [("decisions", MODEL, False, True)]
