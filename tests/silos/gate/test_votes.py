"""Votes of real silos: policy, people, ledger, audit log, signatures; and what one may ask."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import clinic
import clinic_silo
import numpy as np
import pytest
import voting
from typer.testing import CliRunner

from consilo.decisions.rules import FairnessRule, VoteRules
from consilo.decisions.vote import Vote
from consilo.errors import ConfigInvalid, RecordTampered
from consilo.kernel.loop import Party
from consilo.record.chain import linked, read
from consilo.record.run_record import RunRecord
from consilo.runs.votes.vote import read_ballot
from silos.commands.app import app
from silos.kept.votes import Votes
from silos.simulation.simulation import acquainted

ROWS = clinic.frames(400, 400)
JOB = clinic.job(evaluation={"holdout": 0.5}, protocol={"rounds": 2})
PRIVATE = JOB.changed(
    privacy={"epsilon": 9.0, "delta": 1e-4, "metrics_epsilon": 5.0, "accountant": "rdp"},
    features={"standardize": "contract"},
    promotion={"metric": "accuracy"},
)
BUDGET = "privacy:\n  budgets: {'*': {epsilon: %s, delta: 1.0e-4}}\n"


def policy(place: Path, more: str) -> None:
    (place / "policy.yaml").write_text(clinic_silo.POLICY + more)


def silos(place: Path, more: str = "", rows=ROWS):
    for name, each in rows.items():
        if not (place / name).exists():
            clinic_silo.make(place / name, each, name=name)
        policy(place / name, more)
    return acquainted({name: place / name for name in rows}, place, voting.KEY, ())


def vote(model, hosts, place: Path, **settings) -> dict[str, Vote]:
    parties = {name: Party(each.signing_key) for name, each in hosts.items()}
    ballot, _ = voting.voted(model, hosts, place, parties=parties, **settings)
    assert ballot.missing == {}
    assert read_ballot(place) == ballot
    return {each.silo: each for each in ballot.votes}


def noted(host, kind: str = "voted") -> list[dict]:
    entries = read(host.directory / "audit.jsonl")
    return [each["body"] for each in entries if each["kind"] == kind]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    hosts = clinic.hosts(ROWS)
    return voting.trained(JOB, hosts, tmp_path_factory.mktemp("runs") / "good")


@pytest.fixture(scope="module")
def hidden(tmp_path_factory):
    """A private job's model: one that was trained well, as a long training would have it."""
    hosts = clinic.hosts(ROWS)
    found = voting.trained(PRIVATE, hosts, tmp_path_factory.mktemp("runs") / "hidden")
    plain = voting.trained(
        JOB.changed(features={"standardize": "contract"}, local={"lr": 2.0, "epochs": 10}),
        hosts,
        tmp_path_factory.mktemp("runs") / "plain",
    )
    return replace(found, model=replace(found.model, params=plain.model.params))


def test_silos_vote_signed_by_their_policy_and_their_logs_say_so(model, tmp_path) -> None:
    hosts = silos(tmp_path)
    votes = vote(model, hosts, tmp_path / "v")
    assert {each.verdict for each in votes.values()} == {"yes"}
    for name, host in hosts.items():
        (line,) = noted(host)
        assert (line["run"], line["trained"]) == ("v", "good")
        assert (line["candidate"], line["verdict"]) == (model.model.digest, "yes")
        assert host.votes.given()[0].vote == votes[name]


def test_what_is_said_of_a_model_in_use_is_no_vote_and_people_have_no_part_in_it(
    model, tmp_path
) -> None:
    hosts = silos(tmp_path, "votes: {max_epsilon: 1.0}\n")  # the model has no privacy at all
    north = hosts["north"]
    north.votes.overrule("good", "no", "ward b is new")
    parties = {name: Party(each.signing_key) for name, each in hosts.items()}
    good, bad = model, voting.spoilt(model)
    asked = {"parties": parties, "monitors": True}
    still, _ = voting.voted(good, hosts, tmp_path / "m1", champion=bad, **asked)
    behind, _ = voting.voted(bad, hosts, tmp_path / "m2", champion=good, **asked)
    assert {each.verdict for each in still.votes} == {"yes"}
    assert {each.reasons for each in behind.votes} == {("worse_than_champion",)}
    assert north.votes.given() == []
    assert [each.vote.verdict for each in north.votes.readings("good")] == ["yes", "no"]
    assert noted(north) == []
    assert [each["verdict"] for each in noted(north, "monitored")] == ["yes", "no"]
    assert read_ballot(tmp_path / "m1", monitors=True) == still
    with pytest.raises(RecordTampered, match="is no vote"):
        read_ballot(tmp_path / "m1")
    votes = vote(good, hosts, tmp_path / "v", champion=bad)
    assert {each.verdict for each in votes.values()} == {"no"}
    assert votes.pop("north").reasons == ("people",)
    assert {each.reasons for each in votes.values()} == {("epsilon",)}
    with pytest.raises(RecordTampered, match="is no vote"):
        read_ballot(tmp_path / "v", monitors=True)
    told = CliRunner().invoke(app, ["vote", "--dir", str(north.directory), "--json"])
    assert [len(json.loads(told.output)[each]) for each in ("votes", "monitored")] == [1, 2]


def test_a_vote_that_a_silo_has_not_signed_is_found_out(model, tmp_path) -> None:
    """Whoever has the coordinator's key rewrites the whole record, and lacks the silos'."""
    vote(model, silos(tmp_path), tmp_path / "v")
    path = tmp_path / "v" / "record.jsonl"
    entries, prev, lines = read(path), "0" * 64, []
    for each in entries[:-1]:
        body = each["body"]
        if each["kind"] == "voted" and body["silo"] == "north":
            body["vote"]["verdict"] = body["fields"]["judged"]["verdict"] = "no"
        line, prev = linked(each["seq"], each["time"], each["kind"], body, prev)
        lines.append(line)
    path.write_bytes(b"".join(lines))
    closing = {k: v for k, v in entries[-1]["body"].items() if k not in ("entries", "public_key")}
    record, _ = RunRecord.reopen(path, voting.KEY)
    del closing["signature"]
    record.close(**closing)
    with pytest.raises(RecordTampered, match="north has not signed"):
        read_ballot(tmp_path / "v")


def test_people_overrule_before_and_after_the_silo_was_asked(model, tmp_path) -> None:
    hosts = silos(tmp_path)
    north, runner = str(tmp_path / "north"), CliRunner()
    done = runner.invoke(app, ["vote", "good", "--no", "--reason", "ward b is new", "--dir", north])
    assert done.exit_code == 0, done.output
    votes = vote(model, hosts, tmp_path / "v")
    assert (votes["north"].verdict, votes["north"].reasons) == ("no", ("people",))
    assert votes["north"].overruled == "ward b is new"
    assert votes["east"].verdict == "yes"
    runner.invoke(app, ["vote", "good", "--abstain", "--reason", "not sure", "--dir", north])
    assert vote(model, hosts, tmp_path / "w")["north"].verdict == "abstain"
    runner.invoke(app, ["vote", "good", "--policy", "--dir", north])
    assert vote(model, hosts, tmp_path / "x")["north"].verdict == "yes"
    assert [each["verdict"] for each in noted(hosts["north"], "overruled")] == ["no", "abstain", ""]
    shown = runner.invoke(app, ["vote", "--json", "--dir", north])
    told = json.loads(shown.stdout)
    assert [each["verdict"] for each in told["votes"]] == ["no", "abstain", "yes"]
    assert "low/constant" in told["votes"][-1]["figures"]
    assert "low/constant" in runner.invoke(app, ["vote", "--dir", north]).stdout


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["good", "--no"], "--reason"),
        (["good", "--no", "--yes", "--reason", "x"], "one of --yes"),
        (["--no", "--reason", "x"], "which model"),
        (["good", "--reason", "x"], "--reason belongs"),
        (["../good", "--no", "--reason", "x"], "no name of a run"),
    ],
)
def test_a_word_of_people_is_whole_or_none(tmp_path, asked, said) -> None:
    clinic_silo.make(tmp_path / "north")
    with pytest.raises(ConfigInvalid, match=said):
        CliRunner().invoke(
            app, ["vote", *asked, "--dir", str(tmp_path / "north")], catch_exceptions=False
        )
    assert Votes(tmp_path / "north", None, None).words() == {}


def test_the_same_question_is_answered_again_and_counted_once_and_others_are_limited(
    model, tmp_path
) -> None:
    """Whoever has the coordinator's key asks with models of its choice: so many a day."""
    hosts = silos(tmp_path, "votes: {per_day: 3}\n")
    first = vote(model, hosts, tmp_path / "a")
    assert vote(model, hosts, tmp_path / "b") == first
    found = [
        vote(voting.spoilt(model, by=0.01 * (number + 1)), hosts, tmp_path / f"c{number}")["east"]
        for number in range(4)
    ]
    assert [each.reasons for each in found[2:]] == [("per_day",)] * 2
    assert all(each.figures for each in found[:2])
    assert not any(each.figures for each in found[2:])
    assert vote(model, hosts, tmp_path / "d") == first


def test_the_policys_limit_of_judged_models_holds_for_votes_too(model, tmp_path) -> None:
    hosts = silos(tmp_path, "evaluation: {per_day: 1}\n")
    assert vote(model, hosts, tmp_path / "a")["east"].verdict == "yes"
    again = vote(voting.spoilt(model), hosts, tmp_path / "b")["east"]
    assert (again.verdict, again.reasons) == ("abstain", ("policy",))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("privacy: {required: yes}\n", "unpaid"),
        ("privacy: {exact_statistics: no}\n", "policy"),
        ("min_cohort: 3\n", "policy"),
        ("votes: {min_rows: 500}\n", "few_rows"),
    ],
)
def test_what_the_policy_keeps_back_is_an_abstention_that_no_row_has_a_part_in(
    model, tmp_path, more, reason
) -> None:
    for each in vote(model, silos(tmp_path, more), tmp_path / "v").values():
        assert (each.verdict, each.reasons, each.figures) == ("abstain", (reason,), {})


def test_a_private_vote_is_noisy_and_paid_and_what_cannot_be_paid_abstains(
    hidden, tmp_path
) -> None:
    hosts = silos(tmp_path, BUDGET % 10)
    votes = vote(hidden, hosts, tmp_path / "a")
    for name, host in hosts.items():
        assert votes[name].verdict == "yes", votes[name]
        (charge,) = [each for each in host.account.ledger.entries() if each["kind"] == "reserved"]
        assert charge["body"]["mechanism"] == "gaussian_figures"
        assert charge["body"]["run_id"] == "a"
    again = vote(hidden, hosts, tmp_path / "b")
    assert again == votes
    entries = hosts["east"].account.ledger.entries()
    assert len([each for each in entries if each["kind"] == "reserved"]) == 1
    other = vote(voting.spoilt(hidden), hosts, tmp_path / "c")["east"]
    assert other.verdict in ("no", "abstain")
    broke = [
        vote(voting.spoilt(hidden, by=0.01 * n), hosts, tmp_path / f"d{n}")["east"]
        for n in range(1, 5)
    ]
    assert (broke[-1].verdict, broke[-1].reasons) == ("abstain", ("budget",))
    assert broke[-1].figures == {}


def test_what_noise_cannot_judge_is_no_yes(hidden, tmp_path) -> None:
    hosts = silos(tmp_path, BUDGET % 10 + "votes: {max_ece: 0.9}\n")
    for each in vote(hidden, hosts, tmp_path / "a").values():
        assert (each.verdict, each.reasons) == ("abstain", ("calibration_unjudged",))
    unknown = replace(hidden.model, job=PRIVATE.changed(promotion={"metric": "f1"}))
    found = vote(replace(hidden, model=unknown), hosts, tmp_path / "b")
    assert {each.reasons for each in found.values()} == {("metric_private",)}
    unpaid = replace(hidden.model, job=PRIVATE.changed(privacy={"metrics_epsilon": None}))
    found = vote(replace(hidden, model=unpaid), hosts, tmp_path / "c")
    assert {each.reasons for each in found.values()} == {("unpaid",)}


def test_a_model_that_cost_more_than_the_policy_bears_is_none(hidden, tmp_path) -> None:
    hosts = silos(tmp_path, BUDGET % 30 + "votes: {max_epsilon: 8}\n")
    found = vote(hidden, hosts, tmp_path / "a")
    assert {(each.verdict, each.reasons) for each in found.values()} == {("no", ("epsilon",))}
    assert not hosts["east"].account.ledger.entries()


def test_groups_that_the_contract_declares_are_treated_alike_or_it_is_a_no(tmp_path) -> None:
    contract = clinic.contract(clinic.CONTRACT + "groups: [smoker]\n")
    rows = {name: each.copy() for name, each in ROWS.items()}
    for each in rows.values():
        smokes = each["smoker"].to_numpy()
        rng = np.random.default_rng(0)
        each.loc[smokes, "ill"] = rng.integers(0, 2, int(smokes.sum()))  # nothing tells them
    hosts = clinic.hosts(rows)
    model = voting.trained(JOB, hosts, tmp_path / "runs" / "g", contract=contract)
    for each in hosts.values():
        each.rules = VoteRules(fairness=FairnessRule(metric="roc_auc", gap=0.1))
    ballot, _ = voting.voted(model, hosts, tmp_path / "v", contract=contract)
    for each in ballot.votes:
        assert (each.verdict, each.reasons) == ("no", ("unfair",)), each.figures
        assert each.figures["gap/smoker"] > 0.2
