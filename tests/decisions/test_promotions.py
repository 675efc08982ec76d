"""What is decided of a model: by whom, under which gates, once; and what the chain lets in."""

from __future__ import annotations

import base64
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from decided import (
    BEGAN,
    MODEL,
    FileRegistry,
    ballot,
    coordinators_key,
    deciding,
    enrolled,
    pointing,
    promoted,
    proposed,
    trained,
    way_back,
    word,
)

from consilo.decisions import candidates
from consilo.decisions.candidates import look_up
from consilo.decisions.deciding import Deciding
from consilo.decisions.promotions import Promotions
from consilo.decisions.reviewers import Enrolment, Reviewers
from consilo.decisions.signed_lines import SignedLines
from consilo.errors import ConfigInvalid, DecisionRefused, RecordTampered
from consilo.record.chain import Chain, read


@pytest.fixture
def home(tmp_path: Path) -> Path:
    coordinators_key(tmp_path)
    for version in (1, 2, 3):
        trained(tmp_path, version)
    return tmp_path


def kinds(home: Path) -> list[str]:
    return [each["kind"] for each in read(home / "promotions" / f"{MODEL}.jsonl")]


def test_a_version_is_proposed_voted_decided_and_the_aliases_follow(home):
    assert pointing(home) == {}
    promoted(home, 1)
    assert pointing(home) == {"champion": 1}
    promoted(home, 3)
    assert pointing(home) == {"champion": 3, "previous": 1}
    assert kinds(home) == ["proposed", "voted", "decided", "moved"] * 2
    found = Promotions.open(home, MODEL)
    assert found.champion is not None
    assert found.champion.version == 3
    assert [each.version for each in found.champions] == [1, 3]
    assert found.waiting == ()


def test_it_is_decided_once(home):
    promoted(home, 1)
    with pytest.raises(DecisionRefused, match=r"was approved .* by root: good; it is decided once"):
        deciding(home).decide(1, approves=False, reason="no", by="root", how="shell")
    proposed(home, 2)
    deciding(home).decide(2, approves=False, reason="too slow", by="root", how="shell")
    assert pointing(home) == {"champion": 1}
    with pytest.raises(DecisionRefused, match="was rejected"):
        deciding(home).decide(2, approves=True, reason="after all", by="root", how="shell")
    again = deciding(home).propose(look_up(home, MODEL, 2))
    assert again.decision is not None
    assert again.decision.verdict == "rejected"
    anew = deciding(home).propose(look_up(home, MODEL, 2), again=True)
    assert anew.decision is None
    assert anew.line != again.line


def test_a_silo_s_no_blocks_and_the_champion_stays(home):
    promoted(home, 1)
    proposal = proposed(home, 2, north="no")
    with pytest.raises(DecisionRefused, match="max_no: north says no: it is worse than the cham"):
        deciding(home).decide(2, approves=True, reason="I want it", by="root", how="shell")
    blocked = deciding(home).block(proposal)
    assert blocked.decision is not None
    assert (blocked.decision.verdict, blocked.decision.how) == ("blocked", "gates")
    assert pointing(home) == {"champion": 1}
    # Its people may overrule it: it is proposed anew, and asked anew.
    proposed(home, 2)
    deciding(home).decide(2, approves=True, reason="north agrees", by="root", how="shell")
    assert pointing(home) == {"champion": 2, "previous": 1}


@pytest.mark.parametrize(
    ("promotion", "votes", "told"),
    [
        ({"quorum": 4}, {}, "quorum: 3 silos have voted, 4 must"),
        ({"mandatory": ["west"]}, {}, "mandatory: has not voted: west"),
        ({"max_no": 1}, {"north": "no", "south": "no"}, "max_no: north says no"),
        (
            {"min_gain": 0.01},
            {"gains": {"east": 0.01, "north": 0.0, "south": 0.01}},
            r"min_gain: roc_auc \+0.0067 over 3 silos, weighted by rows; \+0.01 is wanted",
        ),
        ({"min_gain": 0.01}, {}, "min_gain: no silo tells"),
        (
            {"per_silo_tolerance": 0.05},
            {"gains": {"east": 0.5, "north": -0.06, "south": 0.5}},
            "per_silo_tolerance: roc_auc against the champion, where told: north -0.0600",
        ),
        ({"max_age": "1h"}, {}, "max_age: its run ended"),
    ],
)
def test_each_gate_holds(home, promotion, votes, told):
    promoted(home, 1)
    trained(home, 4, ended=BEGAN - 7200, **promotion)
    proposed(home, 4, **votes)
    with pytest.raises(DecisionRefused, match=told):
        deciding(home).decide(4, approves=True, reason="x", by="root", how="shell")
    assert pointing(home) == {"champion": 1}


def test_gates_that_are_met_are_open(home):
    promoted(home, 1)
    held_to = {"quorum": 3, "mandatory": ["north"], "max_no": 1, "min_gain": 0.0, "max_age": "3h"}
    trained(home, 4, ended=BEGAN - 7200, **held_to)
    proposed(home, 4, south="no", gains={"east": 0.01, "north": -0.02, "south": 0.02})
    made = deciding(home).decide(4, approves=True, reason="x", by="root", how="shell")
    assert made.decision is not None
    assert {each["name"] for each in made.decision.gates} == {
        *("status", "quorum", "mandatory", "max_no", "per_silo_tolerance", "min_gain", "max_age")
    }
    assert all(each["open"] for each in made.decision.gates)


def test_a_degraded_run_needs_that_somebody_accepts_it(home):
    trained(home, 4, status="degraded")
    work = deciding(home)
    proposal = proposed(home, 4)
    assert work.block(proposal).decision is None  # people may open this gate
    with pytest.raises(DecisionRefused, match="south was away; a decision may accept it"):
        work.decide(4, approves=True, reason="x", by="root", how="shell")
    work.decide(4, approves=True, reason="x", by="root", how="shell", accepts_degraded=True)
    assert pointing(home) == {"champion": 4}


def test_where_reviewers_are_enrolled_only_their_signatures_count(home):
    keys = enrolled(home, "bea", "carl")
    proposal = proposed(home, 1)
    with pytest.raises(DecisionRefused, match="counts only when signed by the key of one"):
        deciding(home).decide(1, approves=True, reason="x", by="root", how="shell")
    stranger = word(proposal, Ed25519PrivateKey.generate())
    with pytest.raises(DecisionRefused, match=r"none of an enrolled reviewer .bea, carl."):
        deciding(home).sign(stranger)
    made = deciding(home).sign(word(proposal, keys["carl"]))
    assert made.decision is not None
    assert (made.decision.verdict, made.decision.by) == ("approved", ("carl",))
    assert pointing(home) == {"champion": 1}


def test_k_of_n_must_approve_and_one_who_rejects_is_enough(home):
    keys = enrolled(home, "bea", "carl", "dora")
    for version in (4, 5):
        trained(home, version, approvals=2)
        proposal = proposed(home, version)
        first = deciding(home).sign(word(proposal, keys["bea"]))
        assert first.decision is None
        assert deciding(home).sign(word(proposal, keys["bea"])).decision is None  # twice the same
        said = {4: "approve", 5: "reject"}[version]
        last = deciding(home).sign(word(proposal, keys["dora"], said))
        assert last.decision is not None
        assert last.decision.verdict == {4: "approved", 5: "rejected"}[version]
        assert last.decision.by == {4: ("bea", "dora"), 5: ("dora",)}[version]
    assert pointing(home) == {"champion": 4}


def test_who_started_a_run_does_not_approve_it_alone(home):
    keys = enrolled(home, "alice", "bea")
    trained(home, 4, four_eyes=True, author="alice")
    proposal = proposed(home, 4)
    assert deciding(home).sign(word(proposal, keys["alice"])).decision is None
    made = deciding(home).sign(word(proposal, keys["bea"]))
    assert made.decision is not None
    assert made.decision.by == ("alice", "bea")


def test_four_eyes_and_several_approvals_need_reviewers(home):
    for version, asked in ((4, {"four_eyes": True}), (5, {"approvals": 2})):
        trained(home, version, **asked)
        proposed(home, version)
        with pytest.raises(DecisionRefused, match="nobody is enrolled; 'consilo reviewer add'"):
            deciding(home).decide(version, approves=True, reason="x", by="root", how="shell")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"version": 2}, "about another version: expected 3, found 2|was approved"),
        ({"digest": "0" * 64}, "about another model .the digest"),
        ({"model": "lungs"}, "about another model"),
        ({"federation": "0" * 64}, "about another federation"),
        ({"asks": "0" * 64}, "about another proposal"),
    ],
)
def test_a_word_about_something_else_is_refused(home, changed, told):
    keys = enrolled(home, "bea")
    deciding(home).sign(word(proposed(home, 2), keys["bea"]))
    proposal = proposed(home, 3)
    with pytest.raises(DecisionRefused, match=told):
        deciding(home).sign(word(proposal, keys["bea"], **changed))
    assert pointing(home) == {"champion": 2}


def test_a_word_that_counted_once_does_not_count_again(home):
    keys = enrolled(home, "bea")
    promotion = word(proposed(home, 1), keys["bea"])
    deciding(home).sign(promotion)
    deciding(home).sign(word(proposed(home, 2), keys["bea"]))
    back = way_back(home, keys["bea"])
    deciding(home).roll_back(1, envelope=back)
    assert pointing(home) == {"champion": 1}
    with pytest.raises(DecisionRefused, match=r"was approved .* decided once"):
        deciding(home).sign(promotion)
    # Version 2 is proposed anew and promoted again: the old way back does not fit it.
    deciding(home).sign(word(proposed(home, 2), keys["bea"]))
    with pytest.raises(DecisionRefused, match="about another proposal"):
        deciding(home).roll_back(1, envelope=back)
    assert pointing(home) == {"champion": 2, "previous": 1}


def test_an_envelope_that_was_edited_is_refused(home):
    keys = enrolled(home, "bea")
    envelope = word(proposed(home, 1), keys["bea"], "reject")
    said = json.loads(base64.b64decode(envelope["payload"]))
    said["word"] = "approve"
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    envelope["payload"] = base64.b64encode(text.encode()).decode()
    with pytest.raises(DecisionRefused, match="not signed by bea's key: it was edited"):
        deciding(home).sign(envelope)
    for wrong in (
        {},
        [],
        "text",
        {**envelope, "payloadType": "other"},
        {**envelope, "payload": "e30="},
    ):
        with pytest.raises(DecisionRefused, match="no envelope of a decision"):
            deciding(home).sign(wrong)


def test_what_a_reviewer_decided_stays_when_the_key_is_removed(home):
    keys = enrolled(home, "bea", "carl")
    deciding(home).sign(word(proposed(home, 1), keys["bea"]))
    Enrolment(home, coordinators_key(home)).remove("bea", reason="left")
    assert list(Reviewers.open(home).enrolled) == ["carl"]
    found = Promotions.open(home, MODEL)  # reads, and checks, the old decision
    assert found.champion is not None
    assert found.champion.decision.by == ("bea",)
    with pytest.raises(DecisionRefused, match=r"none of an enrolled reviewer"):
        deciding(home).sign(word(proposed(home, 2), keys["bea"]))
    deciding(home).sign(word(Promotions.open(home, MODEL).waiting[0], keys["carl"]))
    assert pointing(home) == {"champion": 2, "previous": 1}


def test_an_approval_of_one_who_was_removed_before_the_decision_does_not_count(home):
    keys = enrolled(home, "bea", "carl", "dora")
    trained(home, 4, approvals=2)
    proposal = proposed(home, 4)
    deciding(home).sign(word(proposal, keys["bea"]))
    Enrolment(home, coordinators_key(home)).remove("bea", reason="left")
    assert deciding(home).sign(word(proposal, keys["carl"])).decision is None
    made = deciding(home).sign(word(proposal, keys["dora"]))
    assert made.decision is not None
    assert made.decision.by == ("carl", "dora")


def test_a_reviewer_s_name_and_key_are_one_person_s(home):
    keys = enrolled(home, "bea")
    work = Enrolment(home, coordinators_key(home))
    raw = keys["bea"].public_key().public_bytes_raw().hex()
    with pytest.raises(ConfigInvalid, match="the key of reviewer 'bea'"):
        work.add("carl", raw)
    with pytest.raises(ConfigInvalid, match="there is a reviewer 'bea'"):
        work.add("bea", "0" * 64)
    with pytest.raises(ConfigInvalid, match="'carl' is not enrolled; enrolled: bea"):
        work.remove("carl", reason="x")


def test_a_rollback_goes_to_a_former_champion_only(home):
    promoted(home, 1)
    with pytest.raises(DecisionRefused, match=r"there is no former champion"):
        deciding(home).former()
    promoted(home, 2)
    promoted(home, 3)
    with pytest.raises(DecisionRefused, match=r"version 9 is none; former .* last: 1, 2"):
        deciding(home).roll_back(9, reason="x", by="root")
    deciding(home).roll_back(2, reason="slow", by="root")
    assert pointing(home) == {"champion": 2, "previous": 1}
    deciding(home).roll_back(1, reason="slower", by="root")
    assert pointing(home) == {"champion": 1}
    assert "back from version 2 to version 1" in Promotions.open(home, MODEL).changes[-1].told


def test_a_proposal_made_under_another_champion_is_superseded(home):
    first = proposed(home, 1)
    promoted(home, 2)
    found = Promotions.open(home, MODEL).of(1)
    assert found is not None
    assert found.decision is not None
    assert (found.line, found.decision.verdict) == (first.line, "superseded")


def test_a_decision_made_while_the_registry_is_away_moves_the_aliases_later(home):
    proposed(home, 1)
    registry = FileRegistry(home / "registry.json")
    registry.away = True
    work = Deciding(home, MODEL, coordinators_key(home), aliases=registry, now=lambda: BEGAN + 60)
    made = work.decide(1, approves=True, reason="x", by="root", how="shell")
    assert made.decision is not None
    assert Promotions.open(home, MODEL).unmoved == made.decision.line
    with pytest.raises(OSError, match="away"):
        work.settle()
    registry.away = False
    assert work.settle() == ("version 1 is the champion",)
    assert pointing(home) == {"champion": 1}
    assert work.settle() == ()


def test_an_alias_moved_by_hand_is_found_once_and_put_back_where_wanted(home):
    promoted(home, 1)
    promoted(home, 2)
    by_hand = FileRegistry(home / "registry.json")
    by_hand.point(MODEL, "champion", 3)
    work = deciding(home)
    assert work.put_back(act=False) == ({"champion": 3}, True)
    assert work.put_back(act=False) == ({"champion": 3}, False)
    assert kinds(home)[-2:] == ["moved", "found_moved"]
    assert dict(Promotions.open(home, MODEL).found) == {"champion": 3}
    assert work.put_back(act=True) == ({"champion": 3}, False)
    assert pointing(home) == {"champion": 2, "previous": 1}
    assert work.put_back(act=True) == ({}, False)
    by_hand.point(MODEL, "previous", None)
    assert work.put_back(act=False)[0] == {"previous": None}
    by_hand.point(MODEL, "previous", 1)  # by hand, too
    work.put_back(act=False)
    assert kinds(home)[-4:] == ["found_moved", "put_back", "found_moved", "put_back"]


def lines(home: Path) -> list[bytes]:
    return (home / "promotions" / f"{MODEL}.jsonl").read_bytes().splitlines(keepends=True)


def test_a_chain_that_was_edited_reordered_or_cut_is_noticed(home):
    promoted(home, 1)
    path = home / "promotions" / f"{MODEL}.jsonl"
    whole = lines(home)
    for number in range(1, len(whole)):
        path.write_bytes(b"".join(whole[:number]))  # a chain that is whole, and short
        with pytest.raises(RecordTampered, match="its end was cut off"):
            Promotions.open(home, MODEL)
    path.unlink()
    with pytest.raises(RecordTampered, match="it has 0 lines"):
        Promotions.open(home, MODEL)
    path.write_bytes(b"".join(whole).replace(b'"reason":"good"', b'"reason":"fine"'))
    with pytest.raises(RecordTampered, match="line 3: the line was edited"):
        Promotions.open(home, MODEL)
    path.write_bytes(b"".join([whole[1], whole[0], *whole[2:]]))
    with pytest.raises(RecordTampered, match="removed, added or moved"):
        Promotions.open(home, MODEL)
    path.write_bytes(b"".join(whole))
    assert Promotions.open(home, MODEL).champion is not None


def test_lines_of_another_key_or_model_are_not_let_in(home):
    promoted(home, 1)
    trained(home, 1, model="lungs")
    shutil.copy(home / "promotions" / f"{MODEL}.jsonl", home / "promotions" / "lungs.jsonl")
    with pytest.raises(RecordTampered, match="line 1: it proposes a version of heart"):
        Promotions.open(home, "lungs")
    stranger = SignedLines(home, f"promotions/{MODEL}.jsonl")
    stranger.append(Ed25519PrivateKey.generate(), "moved", decision="", aliases={})
    with pytest.raises(RecordTampered, match="a key that is none of the coordinator's"):
        Promotions.open(home, MODEL)


def test_a_decision_that_the_rules_forbid_is_not_let_in_whoever_signed_it(home):
    keys = enrolled(home, "bea", "carl")
    trained(home, 4, approvals=2)
    proposal = proposed(home, 4)
    deciding(home).sign(word(proposal, keys["bea"]))
    forged = SignedLines(home, f"promotions/{MODEL}.jsonl")
    said = {
        "proposal": proposal.line,
        "verdict": "approved",
        "version": 4,
        "digest": proposal.candidate.digest,
        "reason": "",
        "by": ["bea", "carl"],
        "how": "reviewers",
        "gates": [],
        "reviewers": Reviewers.open(home).head,
    }
    forged.append(coordinators_key(home), "decided", **said)
    with pytest.raises(RecordTampered, match="it was approved, and there lack 1 of 2 approvals"):
        Promotions.open(home, MODEL)


def test_the_audit_log_knows_how_far_a_chain_goes(home):
    promoted(home, 1)
    noted = [each for each in read(home / "audit.jsonl") if each["kind"] == "decisions"]
    assert [each["body"]["lines"] for each in noted] == [1, 2, 3, 4]
    assert noted[-1]["body"]["head"] == Chain(home / "promotions" / f"{MODEL}.jsonl").head
    registry = FileRegistry(home / "registry.json")
    assert registry.everywhere()[MODEL][1] == f"4:{noted[-1]['body']['head']}"


def test_a_candidate_is_what_its_run_s_record_says(home):
    assert look_up(home, MODEL).version == 3
    trained(home, 7, status="degraded")
    assert look_up(home, MODEL).version == 3  # the newest that is complete
    assert look_up(home, MODEL, 7).status == "degraded"
    with pytest.raises(DecisionRefused, match=r"version 8: no run .* known: 1, 2, 3, 7"):
        look_up(home, MODEL, 8)
    with pytest.raises(DecisionRefused, match=r"no run .* made a version of it"):
        look_up(home, "lungs")
    record = home / "runs" / f"{MODEL}-2" / "record.jsonl"
    record.write_bytes(record.read_bytes().replace(b"alice", b"aline"))
    with pytest.raises(RecordTampered, match=f"run {MODEL}-2, which made {MODEL} version 2"):
        look_up(home, MODEL, 2)


def test_what_a_candidate_says_comes_back_from_json(home):
    trained(home, 4, quorum=2, max_age="2d", mandatory=["east"])
    found = look_up(home, MODEL, 4)
    assert candidates.Candidate.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_votes_about_another_model_are_refused(home):
    work = deciding(home)
    proposal = work.propose(look_up(home, MODEL, 2))
    with pytest.raises(DecisionRefused, match="the votes of east, north, south"):
        work.vote(proposal, ballot(1))
    other = replace(ballot(2).votes[0], candidate="0" * 64)
    with pytest.raises(DecisionRefused, match="the votes of east are"):
        work.vote(proposal, replace(ballot(2), votes=(other,)))


def test_votes_against_a_champion_that_nobody_decided_are_refused(home):
    promoted(home, 1)
    work = deciding(home)
    proposal = work.propose(look_up(home, MODEL, 2))
    with pytest.raises(DecisionRefused, match="another model than the champion that was decided"):
        work.vote(proposal, ballot(2, champion=3))


def test_a_word_said_again_by_who_did_not_hear_that_it_decided_is_no_fault(home):
    keys = enrolled(home, "bea")
    envelope = word(proposed(home, 1), keys["bea"])
    registry = FileRegistry(home / "registry.json")
    registry.away = True
    work = Deciding(home, MODEL, coordinators_key(home), aliases=registry, now=lambda: BEGAN + 60)
    work.sign(envelope)
    assert pointing(home) == {}
    deciding(home).sign(envelope)
    assert pointing(home) == {"champion": 1}
    assert kinds(home) == ["proposed", "voted", "signed", "decided", "moved"]
