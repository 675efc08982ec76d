"""A partner that waits for what the other sends, alone or with the coordinator, to send it back.

The one that is deceived is an honest `Side`; the other does what it likes with what it was sent.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from consilo.errors import Refused
from consilo.jobs.match import MatchQuestion
from consilo.jobs.recipe import Recipe
from consilo.matching import group
from consilo.matching.entities import Values, people, sketch
from consilo.matching.side import Side, turns_name, values_name
from silos.gate.matchmaking import Matchmaking
from silos.gate.policy import MatchingRules

PEOPLE = [f"patient-{n}" for n in range(60)]
GUESSES = ["patient-42", *(f"nonsense-{n}" for n in range(59))]
"""One true question, padded: one is common."""


class View:
    """What a side sees of its silo."""

    def __init__(self, name: str, run: str = "r") -> None:
        self.name = name
        self.rooms: dict[str, bytes] = {}
        self.secrets = SimpleNamespace(secret=lambda _: hashlib.sha256(name.encode()).digest())
        manifest = SimpleNamespace(digest="m")
        self.header = SimpleNamespace(run_id=run, manifest=manifest, protocol="psi")

    def kept(self, name):
        return self.rooms.get(name)

    def keep(self, name, content):
        self.rooms[name] = content


def values(names) -> Values:
    digests = np.array([np.frombuffer(hashlib.sha256(n.encode()).digest(), "u1") for n in names])
    size = len(names)
    places = np.sort(np.random.default_rng(0).integers(0, 2**32, size, dtype=np.uint32))
    return Values(digests, places, np.arange(size), np.arange(size))


class Party:
    """One side, with keys of its own; ``shards`` are (key, shard) of each turn."""

    def __init__(self, name, partner, names, size, shards=((0, 0),), run="r"):
        self.view = View(name, run)
        self.partner, self.shards = partner, list(shards)
        keys = 1 + max(key for key, _ in shards)
        for key in range(keys):
            self.view.keep(values_name(key), values(names).to_bytes())
        self.state = {
            "theirs": {partner: {"values": [size] * keys}},
            "mine": {"values": [len(names)] * keys, "recipe": "rh"},
            "scalars": {partner: group.new_scalar().hex()},
        }

    @property
    def side(self) -> Side:
        return Side(self.view, self.state, self.partner, self.shards)

    def turn(self, step, content):
        return self.side.turn(step, content)


def tag_rows(*raws) -> np.ndarray:
    return np.array([np.frombuffer(each, np.uint8) for each in raws])


WAYS = [("spoke", "hub"), ("hub", "spoke")]


@pytest.fixture(params=WAYS, ids=["a hub that rushes", "a spoke that rushes"])
def pair(request):
    """The honest side; the other, which has the program's keys too, so as to act by them."""
    honest, liar = request.param
    return (
        Party(honest, liar, PEOPLE, len(GUESSES)),
        Party(liar, honest, GUESSES, len(PEOPLE)),
    )


def begun(pair):
    """Return what each has sent after both have blinded, and have committed to tags."""
    honest, liar = pair
    first = [each.turn(0, {}) for each in pair]
    return honest.turn(1, first[1]), liar.turn(1, first[0])


def test_two_that_follow_the_protocol_count_who_is_common(pair):
    honest, liar = pair
    committed = begun(pair)
    opened = honest.turn(2, committed[1]), liar.turn(2, committed[0])
    assert set(opened[0]) == {"tags", "nonce"}
    honest.turn(3, opened[1])
    liar.turn(3, opened[0])
    assert honest.side.num_matched == liar.side.num_matched == [1]


def test_no_tag_is_sent_before_the_other_has_committed(pair):
    honest, _ = pair
    said = begun(pair)[0]
    assert set(said) == {"commitment"}
    for nothing in ({}, {"commitment": ""}, {"commitment": 7}, {"commitment": "a" * 65}):
        fresh = Party(honest.view.name, honest.partner, PEOPLE, len(GUESSES))
        fresh.view.rooms, fresh.state = dict(honest.view.rooms), honest.state
        with pytest.raises(Refused, match="committed to no tags"):
            fresh.turn(2, nothing)


def test_tags_that_are_sent_back_are_found_out(pair):
    honest, liar = pair
    committed = begun(pair)
    theirs = honest.turn(2, committed[1])
    own = liar.turn(2, committed[0])
    echoed = [each.tobytes() for each in theirs["tags"]][:50]
    kept = [each.tobytes() for each in own["tags"] if each.tobytes() not in echoed][:10]
    back = tag_rows(*sorted([*echoed, *kept]))
    for nonce in (own["nonce"], theirs["nonce"], "", None, 7):
        with pytest.raises(Refused, match="committed to"):
            honest.turn(3, {"tags": back, "nonce": nonce})


def test_a_commitment_that_was_heard_is_not_ones_own(pair):
    honest, _ = pair
    said = begun(pair)[0]
    theirs = honest.turn(2, said)  # its own, sent back
    with pytest.raises(Refused, match="committed to"):
        honest.turn(3, theirs)


def test_the_coordinator_may_not_ask_a_turn_twice_to_change_a_commitment(pair):
    honest, liar = pair
    committed = begun(pair)
    theirs = honest.turn(2, committed[1])
    # Now the liar knows the tags, and would commit to them.
    own = liar.side._commitment(0, liar.view.name, bytes(32), theirs["tags"])
    with pytest.raises(Refused, match="two different letters"):
        honest.turn(2, {"commitment": own})
    with pytest.raises(Refused, match="committed to"):
        honest.turn(3, {"tags": theirs["tags"], "nonce": bytes(32).hex()})
    # The same letter again is answered with the same bytes.
    again = honest.turn(2, committed[1])
    np.testing.assert_array_equal(again["tags"], theirs["tags"])
    assert again["nonce"] == theirs["nonce"]


def test_nor_to_blind_other_elements_under_the_same_turn(pair):
    honest, liar = pair
    begun(pair)
    others = Party(liar.view.name, honest.view.name, GUESSES, len(PEOPLE)).turn(0, {})
    with pytest.raises(Refused, match="two different letters"):
        honest.turn(1, others)


@pytest.mark.parametrize("shards", [((0, 0), (0, 1)), ((0, 0), (1, 0))], ids=["shard", "key"])
def test_an_element_comes_once_in_a_match(shards):
    # Its tag is known from the first time, and could be committed to in the second.
    honest = Party("spoke", "hub", PEOPLE, 60, shards)
    honest.turn(0, {})
    scalar = group.new_scalar()
    digests = [hashlib.sha256(each.encode()).digest() for each in GUESSES]
    points = group.blind(group.hash_to_group(digests, b"any"), scalar)
    first = points[:30] if shards[1] == (0, 1) else points
    honest.turn(1, {"blinded": first})
    second = np.concatenate([first[:1], points[31:]]) if shards[1] == (0, 1) else points[::-1]
    with pytest.raises(Refused, match="twice"):
        honest.turn(2, {"blinded": second, "commitment": "0" * 64})


def test_a_commitment_is_for_one_turn_of_one_run(pair):
    honest, liar = pair
    tags = np.zeros((3, 16), np.uint8)
    made = honest.side._commitment(0, "hub", bytes(32), tags)
    elsewhere = Party(honest.view.name, liar.view.name, PEOPLE, 60, run="another")
    others = {
        honest.side._commitment(1, "hub", bytes(32), tags),
        honest.side._commitment(0, "spoke", bytes(32), tags),
        honest.side._commitment(0, "hub", bytes(31) + b"\1", tags),
        honest.side._commitment(0, "hub", bytes(32), tags[:2]),
        elsewhere.side._commitment(0, "hub", bytes(32), tags),
    }
    assert made not in others
    assert len(others) == 5
    assert liar.side._commitment(0, "hub", bytes(32), tags) == made
    assert turns_name("hub") != turns_name("spoke")


@pytest.mark.parametrize(
    "keys",
    [
        {"name": "the same under another name"},
        {"parts": [{"column": "mail", "steps": ["trim", "upper"]}]},
        {"duplicates": "same"},
    ],
    ids=str,
)
def test_another_recipe_does_not_make_nearly_the_same_people_others(tmp_path, keys) -> None:
    """The check compared matches of one recipe only, and the coordinator writes the recipe."""
    matches = Matchmaking(
        tmp_path,
        MatchingRules(min_set_size=10, queries_per_partner=9),
        lambda dataset, purpose: "",
        lambda: datetime(2026, 11, 27, tzinfo=UTC),
    )

    def begin(run: str, mails: range, key: dict) -> None:
        recipe = Recipe.model_validate([{"parts": [{"column": "mail"}], **key}])
        frame = pd.DataFrame({"mail": [f"{number}@example.org" for number in mails]})
        found = people(frame, recipe, shard_key=b"run")
        drawn, whole = sketch(found.keys[0], b"key of the silo")
        question = MatchQuestion(
            run_id=run,
            handle="joint",
            partners=("bank",),
            recipe_hash=recipe.hash,
            contract="people@1",
            dataset="people",
            purpose="research",
            num_entities=found.num_entities,
            sketch=drawn,
            set_digest=whole,
        )
        matches.begin_match(question)

    begin("first", range(500), {})
    with pytest.raises(Refused, match="single people"):
        begin("second", range(499), keys)
    begin("third", range(500), keys)
    begin("fourth", range(400), keys)
