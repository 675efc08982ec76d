"""Silos vote on a candidate, each on its own held-out rows; the record has what each said."""

from __future__ import annotations

import shutil
from dataclasses import replace

import clinic
import pytest
import voting

from consilo.contracts.report import CheckReport
from consilo.decisions.rules import VoteRules
from consilo.decisions.vote import Ballot
from consilo.errors import IncompatibleJob
from consilo.kernel.headers import ReplyHeader
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read, verify
from consilo.runs.checkpoint import CHECKPOINT
from consilo.runs.votes.vote import read_ballot, trained_by
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack, unpack

JOB = clinic.job(evaluation={"holdout": 0.5}, protocol={"rounds": 2})


@pytest.fixture(scope="module")
def hosts():
    return clinic.hosts(clinic.frames(400, 400, 400))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("runs") / "good"


@pytest.fixture(scope="module")
def model(hosts, place):
    return voting.trained(JOB, hosts, place)


def verdicts(ballot: Ballot) -> dict[str, str]:
    return {each.silo: each.verdict for each in ballot.votes}


def test_without_a_champion_a_model_is_held_against_one_answer_for_everybody(
    hosts, model, tmp_path
) -> None:
    ballot, result = voting.voted(model, hosts, tmp_path / "v")
    assert verdicts(ballot) == dict.fromkeys(hosts, "yes")
    assert ballot.missing == {}
    assert result.status == "complete"
    for vote in ballot.votes:
        assert (vote.run, vote.candidate, vote.champion) == ("good", model.model.digest, None)
        assert vote.reasons == ("not_worse",)
        assert vote.figures["low/constant"] > 0.2
        assert 150 < vote.figures["rows"] < 250
    bad, _ = voting.voted(voting.spoilt(model), hosts, tmp_path / "bad")
    assert verdicts(bad) == dict.fromkeys(hosts, "no")
    assert {each.reasons for each in bad.votes} == {("worse_than_constant",)}


def test_a_candidate_is_held_against_the_champion_on_the_same_rows(hosts, model, tmp_path) -> None:
    worse = voting.spoilt(model)
    same, _ = voting.voted(model, hosts, tmp_path / "a", champion=model)
    assert verdicts(same) == dict.fromkeys(hosts, "yes")
    assert same.votes[0].figures["gain/champion"] == 0
    better, _ = voting.voted(model, hosts, tmp_path / "b", champion=worse)
    assert verdicts(better) == dict.fromkeys(hosts, "yes")
    assert better.votes[0].champion == worse.model.digest
    down, _ = voting.voted(worse, hosts, tmp_path / "c", champion=model)
    assert verdicts(down) == dict.fromkeys(hosts, "no")
    assert down.votes[0].reasons == ("worse_than_champion",)


def test_a_silo_that_did_not_train_votes_too(hosts, model, tmp_path) -> None:
    late = {**hosts, "zenith": clinic.hosts({"zenith": clinic.frame(400, seed=9)})["zenith"]}
    ballot, _ = voting.voted(model, late, tmp_path / "v")
    assert verdicts(ballot)["zenith"] == "yes"


def test_thirty_rows_do_not_vote(model, tmp_path) -> None:
    few = clinic.hosts({"tiny": clinic.frame(60)})
    ballot, _ = voting.voted(voting.spoilt(model), few, tmp_path / "v", champion=model)
    (vote,) = ballot.votes
    assert (vote.verdict, vote.reasons, vote.figures) == ("abstain", ("few_rows",), {})


def test_a_model_trained_alone_counts_where_the_job_asks_for_it(hosts, tmp_path) -> None:
    job = JOB.changed(compare=["local"])
    model = voting.trained(job, hosts, tmp_path / "runs" / "local")
    ballot, _ = voting.voted(model, hosts, tmp_path / "v")
    assert "no" not in verdicts(ballot).values()
    assert all("gain/local" in each.figures for each in ballot.votes)
    assert not any("gain/constant" in each.figures for each in ballot.votes)
    down, _ = voting.voted(voting.spoilt(model), hosts, tmp_path / "w")
    assert {each.reasons for each in down.votes} == {("worse_than_local",)}


def test_a_champion_that_held_out_other_rows_is_not_compared(hosts, model, tmp_path) -> None:
    other = voting.trained(
        clinic.job(evaluation={"holdout": 0.4}), hosts, tmp_path / "runs" / "other"
    )
    ballot, _ = voting.voted(model, hosts, tmp_path / "v", champion=other)
    assert {(each.verdict, each.reasons) for each in ballot.votes} == {("abstain", ("other_rows",))}


def test_a_champion_of_another_architecture_is(hosts, model, tmp_path) -> None:
    job = JOB.changed(model={"name": "consilo.learners.tabular:MLP", "args": {"hidden": [4]}})
    other = voting.trained(job, hosts, tmp_path / "runs" / "mlp")
    ballot, _ = voting.voted(model, hosts, tmp_path / "v", champion=other)
    assert all("gain/champion" in each.figures for each in ballot.votes)


def test_who_is_away_or_breaks_the_contract_is_missing_and_the_rest_vote(
    hosts, model, tmp_path
) -> None:
    broken = CheckReport(
        contract="clinic@1", contract_digest=clinic.contract().digest, verdict="failed", findings=()
    )
    some = {**hosts, **clinic.hosts({"bad": clinic.frame(200)}, report=broken)}
    ballot, result = voting.voted(model, some, tmp_path / "v")
    assert set(ballot.missing) == {"bad"}
    assert "contract" in ballot.missing["bad"]
    assert len(ballot.votes) == 3
    assert result.status == "degraded"
    nobody, result = voting.voted(model, clinic.hosts({"x": clinic.frame(9)}, refusal="closed"),
                                  tmp_path / "w")  # fmt: skip
    assert nobody.votes == ()
    assert "closed" in nobody.missing["x"]
    assert result.status == "failed"


def test_the_record_tells_each_vote_and_reads_back(hosts, model, tmp_path) -> None:
    ballot, _ = voting.voted(model, hosts, tmp_path / "v", champion=model)
    entries = read(tmp_path / "v" / "record.jsonl")
    assert verify(tmp_path / "v" / "record.jsonl")["status"] == "complete"
    assert [each["body"]["silo"] for each in entries if each["kind"] == "voted"] == sorted(hosts)
    (named,) = [each["body"] for each in entries if each["kind"] == "candidate"]
    assert named["params"] == named["champion"]["params"] == model.model.digest
    assert read_ballot(tmp_path / "v") == ballot
    assert Ballot.from_json(ballot.to_json()) == ballot


def test_rules_of_the_silo_decide_what_leaves_and_whether_people_do(hosts, model, tmp_path) -> None:
    rows = clinic.frames(400)
    quiet = clinic.hosts(rows, rules=VoteRules(figures="verdict"))
    (vote,) = voting.voted(model, quiet, tmp_path / "v")[0].votes
    assert (vote.verdict, vote.figures) == ("yes", {})
    people = clinic.hosts(rows, rules=VoteRules(decided_by="people"))
    (vote,) = voting.voted(model, people, tmp_path / "w")[0].votes
    assert (vote.verdict, vote.reasons) == ("abstain", ("people_first",))
    epsilon = clinic.hosts(rows, rules=VoteRules(max_epsilon=1.0))
    (vote,) = voting.voted(model, epsilon, tmp_path / "x")[0].votes
    assert (vote.verdict, vote.reasons) == ("no", ("epsilon",))


def test_a_run_without_a_model_is_told_so(place, tmp_path) -> None:
    with pytest.raises(IncompatibleJob, match="no run of this name"):
        trained_by(tmp_path / "nothing", clinic.contract())
    other = clinic.contract(clinic.CONTRACT.replace("max: 120", "max: 121"))
    with pytest.raises(IncompatibleJob, match="under another clinic@1"):
        trained_by(place, other)
    shutil.copytree(place, tmp_path / "good")
    (tmp_path / "good" / CHECKPOINT).unlink()
    with pytest.raises(IncompatibleJob, match="not kept here any more"):
        trained_by(tmp_path / "good", clinic.contract())


def test_a_vote_on_another_model_than_the_one_sent_does_not_count(hosts, model, tmp_path) -> None:
    def liar(parcel):
        reply = answerer(hosts["east"])(parcel)
        fields = unpack(reply.body)
        if "about" not in fields:
            return reply
        fields["about"]["candidate"] = "0" * 64
        body = pack(fields)
        header = ReplyHeader.decode(reply.header)
        return Parcel(replace(header, content=digest(body)).encode(), body)

    ballot, _ = voting.voted(model, {"east": liar, "north": hosts["north"]}, tmp_path / "v")
    assert [each.silo for each in ballot.votes] == ["north"]
    assert "another model" in ballot.missing["east"]
