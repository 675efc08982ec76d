"""Answers are taken as they come: FedBuff, and rounds that go on without who is late."""

import clinic
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paced import Paced, arrivals

from consilo.errors import CoordinatorUnreachable, IncompatibleJob, JobInvalid
from consilo.jobs.job import Job
from consilo.record.run_record import read
from consilo.wire import params as tree

KEY = Ed25519PrivateKey.generate()
SIZES = (60, 50, 40, 40)
FAST = ("east", "north", "south")
SLOW_WEST = [
    *([name, number] for number in range(1, 7) for name in FAST),
    *(["east", 7], ["north", 7], ["west", 1], ["south", 7], ["east", 8], ["north", 8]),
]
"""Who answers, and to which round's question, where three answers make a round; eight rounds."""


def job(rounds=6, protocol=None, **changes):
    return clinic.job(
        protocol={"name": "fedbuff", "rounds": rounds, "buffer": 2, **(protocol or {})}, **changes
    )


def hosts():
    return clinic.hosts(clinic.frames(*SIZES))


def test_a_slow_silo_holds_nobody_up_and_its_rows_count(tmp_path):
    slow = {"west": 0.4, "east": 0.02, "north": 0.02, "south": 0.02}
    run = clinic.run_of(
        job(30, {"buffer": 3}), hosts(), tmp_path / "a", key=KEY, wrap=lambda t: Paced(t, slow)
    )
    result = clinic.finished(run)
    assert result.status == "complete", result.reason
    came = arrivals(tmp_path / "a")
    late = [(number, asked) for number, each in came.items() for n, asked in each if n == "west"]
    assert late, "its rows never counted"
    assert any(number > asked for number, asked in late)
    assert all(len(each) >= 3 for each in came.values())
    assert result.metrics["roc_auc"] > 0.8
    asked = [each for each in result.exchanges if each.verb == "train"]
    assert sum(map(len, came.values())) == len(asked)  # no answer is paid for nothing
    for name in result.silos:
        rounds = [number for each in came.values() for n, number in each if n == name]
        assert len(rounds) == len(set(rounds))  # of one round a silo is asked once


def replayed(came, directory, **changes):
    made = []

    def wrap(inner):
        made.append(Paced(inner, script=[each for number in sorted(came) for each in came[number]]))
        return made[0]

    run = clinic.run_of(job(len(came), **changes), hosts(), directory, key=KEY, wrap=wrap)
    made[0].follow(run)
    return clinic.finished(run)


def test_the_recorded_order_of_arrival_replays_to_the_same_bits(tmp_path):
    slow = {"west": 0.15, "east": 0.01, "north": 0.02, "south": 0.03}
    run = clinic.run_of(job(8), hosts(), tmp_path / "a", key=KEY, wrap=lambda t: Paced(t, slow))
    result = clinic.finished(run)
    again = replayed(arrivals(tmp_path / "a"), tmp_path / "b")
    assert again.status == result.status == "complete"
    assert arrivals(tmp_path / "b") == arrivals(tmp_path / "a")
    assert tree.digest(again.params) == tree.digest(result.params)


def test_a_run_that_died_asks_the_same_again_and_its_record_replays(tmp_path):
    slow = {"west": 0.2, "east": 0.01, "north": 0.02, "south": 0.03}
    silos, died = hosts(), []

    def cut(inner):
        died.append(Paced(inner, slow, cut=11))
        return died[0]

    run = clinic.run_of(job(8), silos, tmp_path / "a", key=KEY, wrap=cut)
    with pytest.raises(CoordinatorUnreachable):
        clinic.finished(run)
    out = dict(run.state.pending["out"])
    assert out, "nobody was under way"
    on = Paced(None, slow)

    def go_on(inner):
        on.inner = inner
        return on

    run = clinic.run_of(job(8), silos, tmp_path / "a", key=KEY, wrap=go_on, resume=True)
    assert run.rounds_left
    result = clinic.finished(run)
    assert result.status == "complete", result.reason
    asked = {(silo, number): step for silo, number, step in died[0].asked}
    twice = [each for each in on.asked if each[:2] in asked]
    assert {silo for silo, *_ in twice} >= set(out)
    assert all(asked[each[:2]] == each[2] for each in twice)  # the same ids, the same bytes
    again = replayed(arrivals(tmp_path / "a"), tmp_path / "b")
    assert tree.digest(again.params) == tree.digest(result.params)


def test_privacy_is_paid_by_the_number_of_answers(tmp_path):
    silos, made = hosts(), []
    privacy = {"epsilon": 5.0, "delta": 1e-3, "accountant": "rdp"}
    private = job(8, {"buffer": 3}, privacy=privacy)

    def wrap(inner):
        made.append(Paced(inner, script=[*SLOW_WEST]))
        return made[0]

    run = clinic.run_of(private, silos, tmp_path, key=KEY, wrap=wrap)
    made[0].follow(run)
    result = clinic.finished(run)
    assert result.status == "complete", result.reason
    answers = {name: 0 for name in silos}
    for each in arrivals(tmp_path).values():
        for name, _ in each:
            answers[name] += 1
    assert answers == {"east": 8, "north": 8, "south": 7, "west": 1}
    assert {n: len(host.spends["r1"]) for n, host in silos.items()} == answers
    assert result.silos["west"].epsilon < result.silos["east"].epsilon <= 5.0


def test_an_answer_that_is_too_stale_is_recorded_and_not_used(tmp_path):
    slow = {"west": 0.5, "east": 0.01, "north": 0.01, "south": 0.01}
    run = clinic.run_of(
        job(40, {"buffer": 3, "max_staleness": 1}),
        hosts(),
        tmp_path,
        key=KEY,
        wrap=lambda t: Paced(t, slow),
    )
    clinic.finished(run)
    entries = [each["body"] for each in read(tmp_path / "record.jsonl") if each["kind"] == "round"]
    assert any(each["stale"].get("west", {}).get("late", 0) > 1 for each in entries)
    for each in entries:
        assert all(each["round"] - asked <= 1 for _, asked in each["arrivals"])


def test_a_silo_that_is_spared_at_the_end_is_asked_where_nobody_else_answers(tmp_path):
    # All that is under way fails in the last round, and the slow one was not asked for it.
    later = [[name, number] for number in range(9, 13) for name in FAST]
    script = [*SLOW_WEST, *later, ["west", 12]]
    made, some = [], job(12, {"buffer": 3}, quorum={"min_silos": 1})

    def wrap(inner):
        made.append(Paced(inner, script=script, faults={(name, 12) for name in FAST}))
        return made[0]

    run = clinic.run_of(some, hosts(), tmp_path, key=KEY, wrap=wrap)
    made[0].follow(run)
    assert clinic.finished(run).status == "degraded"
    came = arrivals(tmp_path)
    assert came[7][-1] == ["west", 1]
    assert came[12] == [["west", 12]]
    assert not script


def test_a_silo_that_was_gone_is_back_at_the_next_round(tmp_path):
    run = clinic.run_of(
        job(5),
        hosts(),
        tmp_path,
        key=KEY,
        wrap=lambda t: Paced(t, {"east": 0.01}, faults={("east", 1)}),
    )
    result = clinic.finished(run)
    used = [each for some in arrivals(tmp_path).values() for each in some if each[0] == "east"]
    assert ["east", 1] not in used
    assert used
    assert result.status == "degraded"


def test_a_late_answer_is_taken_into_the_round_in_which_it_comes(tmp_path):
    slow = {"west": 2.5}
    late = clinic.job(
        protocol={"name": "fedadam", "rounds": 5, "server_lr": 0.1},
        quorum={"min_silos": 2, "deadline": 1.0, "late": "next_round"},
    )
    run = clinic.run_of(late, hosts(), tmp_path, key=KEY, wrap=lambda t: Paced(t, slow))
    result = clinic.finished(run)
    assert result.status == "complete", result.reason
    came = arrivals(tmp_path)
    assert all(len(each) >= 2 for each in came.values())
    assert any(n == "west" and asked < number for number, each in came.items() for n, asked in each)


def test_who_is_waited_for_has_no_deadline():
    waits = clinic.job(quorum={"late": "wait"})
    assert waits.deadline.seconds({}) == waits.deadline.seconds({"a": [1.0]}) == 24 * 3600
    with pytest.raises(JobInvalid, match="'wait' has no deadline"):
        clinic.job(quorum={"late": "wait", "deadline": 5})
    spread = {"name": "spread", "kind": "analytics", "contract": "clinic@1"}
    with pytest.raises(JobInvalid, match="has no round that a late answer"):
        Job.from_json({**spread, "quorum": {"late": "next_round"}})


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"quorum": {"late": "next_round"}, "reduce": {"rule": "rules:m"}}, "late answers are ave"),
        (
            {"protocol": {"name": "fedbuff"}, "quorum": {"late": "next_round"}},
            "fedbuff takes late answers by itself",
        ),
        ({"protocol": {"buffer": 3}}, "protocol.buffer: fedavg does not read it"),
    ],
)
def test_what_does_not_fit_is_refused(changes, told, tmp_path):
    with pytest.raises(IncompatibleJob, match=told):
        clinic.run_of(clinic.job(**changes), hosts(), tmp_path)
