"""A coordinator keeps back what a restored silo has signed; its partners show it all the same.

The machine of one silo is laid anew from a backup, so that its log, its ledger and all else it
keeps are older; the coordinator has erased the heads that it knows, so that the silo would spend
its budget twice.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace

import pytest
from three_silos import KEY, NAMES, run_of, silos_in
from typer.testing import CliRunner

from consilo.cli import build
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.standing import ASKS, NOTHING, from_word
from consilo.record.chain import verify
from consilo.runs.horizontal import run_all
from consilo.wire.parcel import Parcel
from silos.silo import Silo

PRIVATE = {"privacy": {"epsilon": 3.0, "delta": 1e-3}}
Change = Callable[[dict[str, str]], dict[str, str]]


def run(tmp_path, silos, name, change=lambda name, answer: answer, **changes):
    """Do a run whose coordinator knows no head of an earlier one."""
    (tmp_path / "runs" / "silo-heads.json").unlink(missing_ok=True)
    return run_all(run_of(tmp_path / "runs" / name, silos, change, **changes))


def faults(tmp_path, name):
    entries = verify(tmp_path / "runs" / name / "record.jsonl")
    headers = [h for e in entries if e["kind"] == "replies" for h in e["body"]["headers"]]
    return {h["silo"]: h["reason"] for h in headers if h["status"] == "fault"}


@pytest.fixture
def restored(tmp_path):
    """Three silos; east spent in a run, and is laid anew as it was before that run."""
    silos = silos_in(tmp_path)
    for name in ("zero", "one"):  # in the first, partners learn that each states what it holds
        assert run(tmp_path, silos, name).status == "complete"
    shutil.copytree(tmp_path / "east", tmp_path / "backup")
    assert run(tmp_path, silos, "spent", **PRIVATE).status == "complete"
    shutil.rmtree(tmp_path / "east")
    shutil.copytree(tmp_path / "backup", tmp_path / "east")
    silos["east"] = Silo.open(tmp_path / "east", partners=silos["east"].letters.partners)
    assert not silos["east"].account.ledger.entries()
    return silos


def edited(change: Change, receivers=("east",)):
    """Return a coordinator that changes what it says beside a request, and signs it."""

    def of(name, answer):
        def asked(parcel):
            header = Header.decode(parcel.header)
            told = change(dict(header.attestations))
            return answer(
                Parcel(replace(header, attestations=told).signed(KEY).encode(), parcel.body)
            )

        return asked if name in receivers else answer

    return of


def test_partners_show_a_restored_silo_what_it_signed(tmp_path, restored):
    for name in ("two", "three"):  # and it stays so
        assert run(tmp_path, restored, name, **PRIVATE).status != "complete"
        assert "silo ledger accept" in faults(tmp_path, name)["east"]
    assert not restored["east"].account.ledger.entries()
    command = ["silo", "ledger", "accept", "--json", "--dir", str(tmp_path / "east")]
    accepted = json.loads(CliRunner().invoke(build(), command).stdout)["accepted"]
    assert accepted["lines"] > 0
    for name in ("four", "five"):
        assert run(tmp_path, restored, name, **PRIVATE).status == "complete"


def test_what_was_lost_after_people_decided_is_found_again(tmp_path, restored):
    """Their log is shorter than the one that was lost; partners keep what it says all the same."""
    run(tmp_path, restored, "two", **PRIVATE)
    assert restored["east"].history.accept()["what"] == "log"
    shutil.rmtree(tmp_path / "backup")
    shutil.copytree(tmp_path / "east", tmp_path / "backup")
    assert run(tmp_path, restored, "three", **PRIVATE).status == "complete"
    shutil.rmtree(tmp_path / "east")
    shutil.copytree(tmp_path / "backup", tmp_path / "east")
    restored["east"] = Silo.open(tmp_path / "east", partners=restored["east"].letters.partners)
    assert run(tmp_path, restored, "four", **PRIVATE).status != "complete"
    assert "silo ledger accept" in faults(tmp_path, "four")["east"]


def _none(told):
    return {name: word for name, word in told.items() if name in NAMES}


def _no_partner_holds(told):
    return {name: word for name, word in told.items() if name[-1] not in "#!$"}


def _holds_nothing(told):
    return {n: ("0:" if n.endswith("#") else "" if n.endswith("!") else w) for n, w in told.items()}


def _by_another(told):
    swap = {"north": "south", "south": "north"}
    return {swap.get(n[:-1], n[:-1]) + n[-1] if n[-1] in "#!$" else n: w for n, w in told.items()}


@pytest.mark.parametrize(
    "change",
    [
        _none,
        _no_partner_holds,
        _holds_nothing,
        _by_another,
    ],
)
def test_what_partners_hold_cannot_be_left_out_or_made_up(tmp_path, restored, change):
    assert run(tmp_path, restored, "two", edited(change), **PRIVATE).status != "complete"
    assert not restored["east"].account.ledger.entries()


def test_what_partners_held_in_an_earlier_run_is_not_taken_for_this_one(tmp_path):
    silos = silos_in(tmp_path)
    seen: dict[str, str] = {}

    def keep(told):
        seen.update({n: w for n, w in told.items() if n[-1] in "#!$"})
        return told

    assert run(tmp_path, silos, "zero", edited(keep)).status == "complete"
    old = dict(seen)
    assert {n[-1] for n in old} == {"#", "!", "$"}
    replayed = edited(lambda told: {**told, **{n: w for n, w in old.items() if n in told}})
    assert run(tmp_path, silos, "one").status == "complete"
    assert run(tmp_path, silos, "two", replayed).status != "complete"


def test_only_what_a_partner_signed_is_kept_and_only_the_newest(tmp_path):
    silos = silos_in(tmp_path)
    assert run(tmp_path, silos, "zero").status == "complete"
    before = silos["east"].gate.standings.store.standings()
    assert set(before) == {"north", "south"}
    assert all(each.states and each.standing.lines > 0 for each in before.values())

    def forged(told):
        longer = {n: f"{10**9}:{'0' * 64}" for n in told if n.endswith("=") and n != ASKS}
        return {**told, **longer}

    def older(told):
        of = {n: each.standing for n, each in before.items()}
        again = {f"{n}=": each.place for n, each in of.items()}
        return {**told, **again, **{f"{n}~": each.signature for n, each in of.items()}}

    assert run(tmp_path, silos, "one", edited(forged)).status == "complete"
    assert silos["east"].gate.standings.store.standings() == before
    assert run(tmp_path, silos, "two").status == "complete"
    after = silos["east"].gate.standings.store.standings()
    assert all(after[n].standing.lines > before[n].standing.lines for n in before)
    assert run(tmp_path, silos, "three", edited(older)).status == "complete"
    assert silos["east"].gate.standings.store.standings() == after


def test_a_partner_cannot_stop_a_silo_with_what_that_silo_did_not_sign(tmp_path):
    """A partner may state what it likes to hold; it needs the silo's own signature to tell."""
    silos = silos_in(tmp_path)
    assert run(tmp_path, silos, "zero").status == "complete"
    store = silos["north"].gate.standings.store
    kept = store.standings()["east"]
    made_up = replace(kept.standing, lines=10**6, head="f" * 64)
    store.keep_standings([replace(kept, standing=made_up)])
    assert run(tmp_path, silos, "one").status == "complete"
    assert not (tmp_path / "east" / "forgotten.json").exists()


def test_who_does_not_ask_is_told_as_before(tmp_path):
    """A coordinator of an earlier release gets the attestation alone, and asks on."""
    silos = silos_in(tmp_path)
    words: list[str] = []

    def old(name, answer):
        def asked(parcel):
            header = Header.decode(parcel.header)
            told = {n: w for n, w in header.attestations.items() if n in NAMES}
            reply = answer(
                Parcel(replace(header, attestations=told).signed(KEY).encode(), parcel.body)
            )
            words.append(ReplyHeader.decode(reply.header).attestation)
            return reply

        return asked

    for name in ("zero", "one"):
        assert run(tmp_path, silos, name, old).status == "complete"
    assert {len(word) for word in words} == {128}


@pytest.mark.parametrize(
    "word",
    ["", ";", "a;b", "a;1:2", "a;x:y:z", "a;-1:h:s", "a;1:h:s;b:c", "a;²:h:s", "a;1:h:s;n:1:h:s"],
)
def test_what_is_malformed_behind_an_attestation_is_left_out(word):
    attestation, own, held = from_word(word)
    assert attestation == word.split(";")[0]
    assert own is None or own.lines == 1
    assert held == {}
    assert own is not NOTHING
