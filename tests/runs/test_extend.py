"""A finished run is gone on with as a new one, from its last state, with one ε for both."""

from __future__ import annotations

import json
from dataclasses import replace

import clinic
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import (
    BudgetExhausted,
    IncompatibleJob,
    JobInvalid,
    RecordTampered,
    RunNotResumable,
)
from consilo.horizontal.learning import run_epsilon
from consilo.kernel.headers import Header
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read, verify
from consilo.runs.continued import extended
from consilo.runs.horizontal import run_all
from consilo.wire import params as tree
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest

KEY = Ed25519PrivateKey.generate()
PRIVATE = {"epsilon": 4.0, "delta": 1e-3, "accountant": "rdp"}


def silos():
    hosts = clinic.hosts(clinic.frames(40, 30))
    for place, host in enumerate(hosts.values()):
        for run in ("one", "two", "three"):
            host.run_secrets[run] = bytes([place]) * 32
    return hosts


def job(rounds, **changes):
    protocol = {"name": "fedadam", "rounds": rounds, "server_lr": 0.1}
    return clinic.job(protocol=protocol, **changes)


def finished(runs, name, job_, hosts, **settings):
    run = clinic.run_of(job_, hosts, runs / name, run_id=name, key=KEY, **settings)
    return run, run_all(run)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run of five rounds that nobody interrupted."""
    return finished(tmp_path_factory.mktemp("whole"), "whole", job(5), silos())[1]


@pytest.fixture
def one(tmp_path):
    hosts = silos()
    _, result = finished(tmp_path, "one", job(2), hosts)
    assert result.status == "complete", result.reason
    return hosts


def test_two_and_three_rounds_make_the_model_of_five(one, whole, tmp_path):
    more = extended(tmp_path, "one", rounds=3)
    assert more.protocol.rounds == 5
    _, result = finished(tmp_path, "two", more, one)
    assert result.status == "complete", result.reason
    assert tree.digest(result.params) == tree.digest(whole.params)
    assert [each["round"] for each in result.rounds] == [3, 4, 5]
    for name, each in result.silos.items():
        assert each.rounds == (3, 4, 5)
        assert each.metrics == whole.silos[name].metrics
        assert each.metrics_before
    assert result.history.index.tolist() == [2, 3, 4, 5]
    entries = read(tmp_path / "two" / "record.jsonl")
    verify(tmp_path / "two" / "record.jsonl", KEY.public_key().public_bytes_raw())
    link = entries[0]["body"]["job"]["continues"]
    last = read(tmp_path / "one" / "record.jsonl")[-1]
    assert link == {"runs": ["one"], "rounds": 2, "record": last["hash"]}
    assert "standardized" not in [each["kind"] for each in entries]


def test_what_was_extended_can_be_extended(one, whole, tmp_path):
    finished(tmp_path, "two", extended(tmp_path, "one", rounds=1), one)
    more = extended(tmp_path, "two", rounds=2)
    assert more.earlier_runs == ("one", "two")
    _, result = finished(tmp_path, "three", more, one)
    assert tree.digest(result.params) == tree.digest(whole.params)


def test_one_that_died_is_resumed_as_any_other(one, whole, tmp_path):
    more = extended(tmp_path, "one", rounds=3)
    for _ in range(2):
        again = (tmp_path / "two").exists()
        run = clinic.run_of(more, one, tmp_path / "two", run_id="two", key=KEY, resume=again)
        run.admit()
        run.train_round()
    again = clinic.run_of(more, one, tmp_path / "two", run_id="two", key=KEY, resume=True)
    assert again.rounds_left == 1
    result = run_all(again)
    assert result.status == "complete", result.reason
    assert tree.digest(result.params) == tree.digest(whole.params)


# Privacy.


@pytest.fixture
def private(tmp_path):
    hosts = silos()
    _, result = finished(tmp_path, "one", job(2, privacy=PRIVATE), hosts)
    assert result.status == "complete", result.reason
    return hosts


def rows_of(host, *runs):
    return [row for run in runs for _, _, row in host.spends.get(run, [])]


def test_both_runs_together_cost_what_was_asked_and_all_is_reserved_first(private, tmp_path):
    more = extended(tmp_path, "one", rounds=3, epsilon=6.0)
    run = clinic.run_of(more, private, tmp_path / "two", run_id="two", key=KEY)
    run.admit()
    before = {name: list(host.spends["two"]) for name, host in private.items()}
    assert all(len(each) == 1 for each in before.values())
    run.train_all()
    run.evaluate()
    result = run.close()
    assert result.status == "complete", result.reason
    assert {name: host.spends["two"] for name, host in private.items()} == before
    (reserved,) = [e["body"] for e in read(run.record.path) if e["kind"] == "reserved"]
    for name, host in private.items():
        cost, _ = run_epsilon(rows_of(host, "one", "two"), more.privacy)
        assert 0.97 * 6.0 < cost <= 6.0
        assert result.silos[name].epsilon == pytest.approx(cost)
        assert reserved["silos"][name]["epsilon"] == pytest.approx(cost)
    assert reserved["runs"] == ["one"]


def test_a_third_run_counts_the_first_two(private, tmp_path):
    finished(tmp_path, "two", extended(tmp_path, "one", rounds=1, epsilon=5.0), private)
    more = extended(tmp_path, "two", rounds=1, epsilon=6.0)
    _, result = finished(tmp_path, "three", more, private)
    for name, host in private.items():
        cost, _ = run_epsilon(rows_of(host, "one", "two", "three"), more.privacy)
        assert result.silos[name].epsilon == pytest.approx(cost)
        assert cost <= 6.0


def test_the_price_must_be_said_and_be_more(private, tmp_path):
    for epsilon in (None, 4.0, 1.0):
        with pytest.raises(IncompatibleJob, match="above the 4 that its job allowed"):
            extended(tmp_path, "one", rounds=3, epsilon=epsilon)


def poor(account, charge, admit):
    """Reserve nothing."""
    raise BudgetExhausted("the privacy account cannot pay")


def test_what_no_silo_can_pay_is_refused_before_anything_runs(private, tmp_path):
    for host in private.values():
        host.reserve = poor
    run, result = finished(
        tmp_path, "two", extended(tmp_path, "one", rounds=3, epsilon=6.0), private
    )
    assert result.status == "failed"
    assert result.reason.startswith("BudgetExhausted")
    assert not any(each.verb == "train" for each in run.exchanges)


def test_what_leaves_nothing_is_refused(private, tmp_path):
    less = extended(tmp_path, "one", rounds=3, epsilon=6.0).changed(privacy={"epsilon": 3.5})
    _, result = finished(tmp_path, "two", less, private)
    assert result.reason.startswith("BudgetExhausted")
    assert "leave nothing of ε 3.5, which is for all of them together" in result.reason
    assert not any(host.spends.get("two") for host in private.values())


def test_a_silo_that_cannot_pay_takes_no_part_and_says_so(private, tmp_path):
    more = extended(tmp_path, "one", rounds=3, epsilon=6.0)
    private["north"].reserve = poor
    run, result = finished(tmp_path, "two", more, private)
    assert result.status == "degraded"
    assert result.silos["north"].status == "refused"
    assert ("north", "train") not in {(each.silo, each.verb) for each in run.exchanges}


def watched(name, answer, asked):
    """Return a silo's answers; what north is asked to train on is noted."""

    def reply(parcel):
        header = Header.decode(parcel.header)
        if header.verb == "train" and name == "north":
            asked.append((header, parcel))
        return answer(parcel)

    return reply


def test_a_round_that_is_paid_for_is_trained_once_and_no_other(private, tmp_path):
    # Else a coordinator could ask for as many as it likes at the price of three.
    more = extended(tmp_path, "one", rounds=3, epsilon=6.0)
    asked = []
    answers = {}
    for name, host in private.items():
        answers[name] = watched(name, answerer(host), asked)
    finished(tmp_path, "two", more, answers)
    (_, before), (header, parcel) = asked[-2:]
    private["north"].replies.clear()
    for changed in (
        {"content": digest(before.body)},
        {"scope": f"{header.round}/1/train"},
        {"round": 3, "scope": "3/0/train"},
        {"round": 6, "scope": "6/0/train"},
        {"round": 2, "scope": "2/0/train"},
    ):
        body = before.body if "content" in changed else parcel.body
        other = Parcel(replace(header, **changed).encode(), body)
        reply = json.loads(answerer(private["north"])(other).header)
        assert (reply["status"], reply["code"]) == ("fault", "refused"), changed


def test_no_round_is_trained_again_where_a_silo_forgot_that_it_was(private, tmp_path):
    """What a run keeps lapses after 30 days, its reservation never: the noise was drawn anew."""
    more = extended(tmp_path, "one", rounds=3, epsilon=6.0)
    asked = []
    answers = {name: watched(name, answerer(host), asked) for name, host in private.items()}
    finished(tmp_path, "two", more, answers)
    (_, before), (header, _) = asked[-2:]
    north = private["north"]
    north.replies.clear()
    spent = rows_of(north, "two")
    # The coordinator briefs it again.
    north.state = {
        key: each
        for key, each in north.state.items()
        if key[0] != "two" or key[1].startswith("brief")
    }
    other = replace(header, content=digest(before.body))
    reply = json.loads(answerer(north)(Parcel(other.encode(), before.body)).header)
    assert (reply["status"], reply["code"]) == ("fault", "refused")
    assert "no longer holds which of them" in reply["reason"]
    assert rows_of(north, "two") == spent


def test_figures_that_are_paid_for_are_within_the_same_price(tmp_path):
    hosts = silos()
    privacy = {**PRIVATE, "metrics_epsilon": 1.0}
    finished(tmp_path, "one", job(2, privacy=privacy), hosts)
    more = extended(tmp_path, "one", rounds=2, epsilon=7.0)
    _, result = finished(tmp_path, "two", more, hosts)
    assert result.status == "complete", result.reason
    for host in hosts.values():
        assert len(rows_of(host, "two")) == 2
        cost, _ = run_epsilon(rows_of(host, "one", "two"), more.privacy)
        assert 0.97 * 7.0 < cost <= 7.0 * (1 + 1e-6)


# What cannot be gone on with.


def test_what_has_not_ended_or_is_not_here_is_refused(one, tmp_path):
    with pytest.raises(RunNotResumable, match="no run of this name"):
        extended(tmp_path, "nowhere", rounds=3)
    clinic.run_of(job(2), one, tmp_path / "two", run_id="two", key=KEY)
    with pytest.raises(RunNotResumable, match=r"has not ended; go on with it: .*--resume two"):
        extended(tmp_path, "two", rounds=3)
    with pytest.raises(IncompatibleJob, match="this one has no ε"):
        extended(tmp_path, "one", rounds=3, epsilon=1.0)


def test_another_job_or_another_state_is_refused(one, tmp_path):
    more = extended(tmp_path, "one", rounds=3)

    def opened(job_):
        return clinic.run_of(job_, one, tmp_path / "two", run_id="two", key=KEY)

    with pytest.raises(IncompatibleJob, match="was run by another job: local differ"):
        opened(more.changed(local={"lr": 9.0}))
    wrong = {**more.continues.model_dump(), "record": "0" * 64}
    with pytest.raises(RecordTampered, match="ends with another line"):
        opened(more.changed(continues=wrong))
    with pytest.raises(IncompatibleJob, match="has done 2, the job says 1"):
        opened(more.changed(continues={**more.continues.model_dump(), "rounds": 1}))
    checkpoint = tmp_path / "one" / "checkpoint.safetensors"
    finished(tmp_path / "x", "other", job(2, seed=5), silos())
    checkpoint.write_bytes((tmp_path / "x" / "other" / checkpoint.name).read_bytes())
    with pytest.raises(RecordTampered, match="its last state is not the one"):
        opened(more)
    assert not (tmp_path / "two").exists()


def test_a_job_says_what_it_goes_on_with_only_where_rounds_are_left():
    continues = {"runs": ["one"], "rounds": 3, "record": "0" * 64}
    with pytest.raises(JobInvalid, match="nothing is left to train"):
        job(3, continues=continues)
    with pytest.raises(JobInvalid, match="once a run"):
        job(
            4,
            continues=continues,
            features={"standardize": "silo"},
            privacy={**PRIVATE, "statistics_epsilon": 0.5},
        )
    assert job(4, continues=continues).young_keys() == {"continues": 3}
