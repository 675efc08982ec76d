"""Each silo's part in each round: what became of it, why, and at which cost."""

from __future__ import annotations

import csv

import clinic
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import CoordinatorUnreachable, RunCancelled
from consilo.kernel.headers import Header, fault_parcel
from consilo.protocols.dispatch import answerer
from consilo.record.participation import OUTCOMES, outcome_of, parts_of
from consilo.record.run_record import read
from consilo.runs.horizontal import run_all
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Fault
from flows.registry.plots import participation as drawn

KEY = Ed25519PrivateKey.generate()
FAULTS = {
    "east": {},
    "north": {2: Fault("deadline", "no answer within 600 s")},
    "south": {
        1: Fault("crashed", "its process died"),
        3: Fault("budget_exhausted", "nothing left"),
    },
    "west": {3: Fault("invalid_reply", "delta: not finite")},
    "zenith": {},
}


def with_faults(host, faults):
    answer = answerer(host)

    def reply(parcel):
        header = Header.decode(parcel.header)
        fault = faults.get(header.round) if header.verb == "train" else None
        if fault is None:
            return answer(parcel)
        return fault_parcel(silo=host.name, step_id=header.step_id, fault=fault)

    return reply


@pytest.fixture
def ended(tmp_path):
    hosts = clinic.hosts(clinic.frames(30, 20, 40, 25, 35))
    answers = {name: with_faults(host, FAULTS[name]) for name, host in hosts.items()}
    settings = {"silos": (*hosts, "absent"), "key": KEY}
    run = clinic.run_of(clinic.job(), answers, tmp_path / "run", **settings)
    return run, run_all(run)


def test_there_is_a_row_for_each_round_and_silo_that_says_all(ended):
    _, result = ended
    parts = {(each.round, each.silo): each for each in result.participation}
    assert len(parts) == len(result.participation) == 3 * 6
    became = {name: [parts[n, name].outcome for n in (1, 2, 3)] for name in result.silos}
    assert became == {
        "absent": ["dropped"] * 3,
        "east": ["trained"] * 3,
        "north": ["trained", "late", "trained"],
        "south": ["dropped", "trained", "refused"],
        "west": ["trained", "trained", "rejected"],
        "zenith": ["trained"] * 3,
    }
    refused = parts[3, "south"]
    assert (refused.code, refused.reason) == ("budget_exhausted", "nothing left")
    assert (refused.invited, refused.checked, refused.approved) == (True, True, False)
    absent = parts[1, "absent"]
    assert (absent.invited, absent.checked, absent.code) == (False, False, "unreachable")
    for each in parts.values():
        assert (each.bytes_down > 0) == each.invited
        trained = each.outcome == "trained"
        assert (each.num_examples > 0) == trained
        assert (each.weight is not None) == trained
        assert (each.code == "") == trained
    for number in (1, 2, 3):
        weights = [each.weight for each in parts.values() if each.round == number]
        assert sum(each or 0.0 for each in weights) == pytest.approx(1.0)


def test_the_record_has_it_and_a_resumed_run_knows_it(ended, tmp_path):
    run, result = ended
    entries = read(run.record.path)
    told = [e["body"]["participation"] for e in entries if e["kind"] == "round"]
    assert [len(each) for each in told] == [6, 6, 6]
    late = next(each for each in told[1] if each["silo"] == "north")
    assert (late["outcome"], late["code"]) == ("late", "deadline")

    hosts = clinic.hosts(clinic.frames(30, 20))
    died = clinic.run_of(clinic.job(), hosts, tmp_path / "died", key=KEY)
    died.admit()
    died.standardize()
    died.train_round()
    again = run_all(clinic.run_of(clinic.job(), hosts, tmp_path / "died", key=KEY, resume=True))
    assert [each.round for each in again.participation] == [1, 1, 2, 2, 3, 3]
    assert all(each.bytes_up for each in again.participation)
    assert result.sentence.startswith("degraded: ")
    assert again.sentence == "complete: all 2 silos took part in each of 3 rounds"
    assert again.to_json()["sentence"] == again.sentence


def test_a_round_that_failed_is_told_too(tmp_path):
    hosts = clinic.hosts(clinic.frames(30, 20))
    faults = {2: Fault("crashed", "its process died")}
    answers = {"east": hosts["east"], "north": with_faults(hosts["north"], faults)}
    job = clinic.job(quorum={"min_silos": 2})
    result = run_all(clinic.run_of(job, answers, tmp_path, key=KEY))
    assert result.status == "failed"
    last = {each.silo: each.outcome for each in result.participation if each.round == 2}
    assert last == {"east": "unused", "north": "dropped"}
    assert result.sentence.startswith("failed: QuorumLost: round 2")


def test_it_is_saved_and_drawn(ended, tmp_path):
    _, result = ended
    written = result.save(tmp_path / "out")
    with open(written["participation"], encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 18
    assert {each["outcome"] for each in rows} < set(OUTCOMES)
    drawn(result, tmp_path / "heat.png")
    assert (tmp_path / "heat.png").stat().st_size > 5000


def test_answers_that_are_taken_as_they_come_weigh_by_how_late_they_are():
    took = {"a": {"num_examples": 30}, "b": {"num_examples": 10}}
    told = {"arrivals": [["a", 4], ["b", 1]], "stale": {"c": {"late": 9}}, "late": ["d"]}
    names = ("a", "b", "c", "d", "e")
    parts = parts_of(4, took, [], silos=names, checked=names, absent={}, weighed=True, told=told)
    assert [each.outcome for each in parts] == [
        "trained",
        "trained",
        "rejected",
        "late",
        "not_asked",
    ]
    assert [each.weight for each in parts] == [0.75, 0.125, None, None, None]
    assert (parts[2].code, parts[2].reason[:26]) == ("stale", "its answer was late by 9 r")
    assert [each.invited for each in parts] == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("deadline", "late"),
        ("unreachable", "dropped"),
        ("crashed", "dropped"),
        ("failed", "dropped"),
        ("refused", "refused"),
        ("bundle_not_approved", "refused"),
        ("too_few_rows", "refused"),
        ("match", "refused"),
        ("partner", "dropped"),
        ("invalid_reply", "rejected"),
        ("bad_update", "rejected"),
        ("stale", "rejected"),
        ("diverged", "rejected"),
        ("contract", "left_out"),
        ("version", "left_out"),
        ("not_asked", "not_asked"),
        ("not_drawn", "not_drawn"),
        ("of a later release", "dropped"),
    ],
)
def test_each_fault_has_an_outcome(code, outcome):
    assert outcome_of(Fault(code, "")) == outcome


@pytest.mark.parametrize("error", [RunCancelled("by hand"), CoordinatorUnreachable("away")])
def test_a_round_is_told_though_nobody_can_be_asked_who_is_there(tmp_path, error):
    class Broken(LocalTransport):
        """Nothing travels any more once an answer of the second round has come."""

        gone = False

        def online(self):
            if self.gone:
                raise error
            return super().online()

        def exchange(self, parcels, *, deadline_s):
            for arrival in super().exchange(parcels, deadline_s=deadline_s):
                yield arrival
                if Header.decode(parcels[arrival.silo].header).round == 2:
                    self.gone = True
                    raise error

    hosts = clinic.hosts(clinic.frames(30, 20))
    answers = {name: answerer(host) for name, host in hosts.items()}
    run = clinic.run_of(clinic.job(), answers, tmp_path, key=KEY, wrap=lambda _: Broken(answers))
    run.admit()
    run.standardize()
    run.train_round()
    with pytest.raises(type(error)):
        run.train_round()
    result = run.close(error)
    assert result.status == "failed"
    assert {each.round for each in result.participation} == {1, 2}
