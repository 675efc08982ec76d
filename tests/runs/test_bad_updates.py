"""Updates that cannot be honest work are not counted, and it is said why."""

from __future__ import annotations

import clinic
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import UpdateRejected
from consilo.horizontal.fedavg import FedAvg
from consilo.kernel.headers import Header, ReplyHeader
from consilo.kernel.updates import LEAST_KNOWN, Updates
from consilo.protocols.dispatch import answerer
from consilo.record.run_record import read
from consilo.runs.horizontal import run_all
from consilo.wire import params as tree
from consilo.wire.parcel import Parcel
from consilo.wire.payload import pack, unpack

KEY = Ed25519PrivateKey.generate()
TRAIN = FedAvg.verbs()["train"]
ROUNDS = {"protocol": {"name": "fedavg", "rounds": 4}}


def changing(host, change, rounds, *, rows=None):
    """A silo whose update is changed on its way, in some rounds, and the rows that it states."""
    answer, sent = answerer(host), {}

    def reply(parcel):
        made = answer(parcel)
        header = Header.decode(parcel.header)
        if header.verb != "train" or ReplyHeader.decode(made.header).status != "ok":
            return made
        fields = dict(unpack(made.body))
        sent[header.round] = fields["delta"]
        if header.round in rounds:
            fields["delta"] = change(fields["delta"], sent)
            fields["num_examples"] = rows or fields["num_examples"]
        return Parcel(made.header, pack(fields))

    return reply


def times(factor):
    return lambda delta, sent: {n: v * np.float32(factor) for n, v in delta.items()}


BAD = {
    "exploding": times(1e5),
    "zero": times(0.0),
    "replayed": lambda delta, sent: sent[1],
    "not finite": times(np.nan),
    "another shape": lambda delta, sent: {n: v.reshape(-1)[:1] for n, v in delta.items()},
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_update_is_not_counted_and_it_is_said_why(kind, tmp_path):
    hosts = clinic.hosts(clinic.frames(30, 20, 40))
    others = {name: hosts[name] for name in ("east", "south")}
    answers = {**others, "north": changing(hosts["north"], BAD[kind], (3,))}
    with np.errstate(invalid="ignore"):
        result = run_all(clinic.run_of(clinic.job(**ROUNDS), answers, tmp_path / "bad", key=KEY))
    assert result.status == "degraded"
    assert result.silos["north"].rounds == (1, 2, 4)
    (bad,) = [each for each in result.participation if each.outcome == "rejected"]
    assert (bad.round, bad.silo) == (3, "north")
    if kind in ("exploding", "zero", "replayed"):
        assert bad.code == "bad_update"
        assert bad.reason.startswith(f"{kind}: ")
        assert f"missed round 3: {kind}: " in result.reason
    else:
        assert bad.code == "invalid_reply"
    line = next(
        e["body"] for e in read(tmp_path / "bad" / "record.jsonl")
        if e["kind"] == "round" and e["body"]["round"] == 3
    )  # fmt: skip
    assert line["faults"] == {"north": bad.code}


def test_a_job_may_keep_them(tmp_path):
    hosts = clinic.hosts(clinic.frames(30, 20, 40))
    answers = {**hosts, "north": changing(hosts["north"], BAD["zero"], (3,))}
    job = clinic.job(**ROUNDS, reduce={"outliers": "keep"})
    assert job.young_keys() == {"reduce.outliers": 3}
    result = run_all(clinic.run_of(job, answers, tmp_path, key=KEY))
    assert result.status == "complete", result.reason


def test_where_the_quorum_needs_it_the_run_says_so(tmp_path):
    hosts = clinic.hosts(clinic.frames(30, 20))
    answers = {**hosts, "north": changing(hosts["north"], BAD["exploding"], (3, 4))}
    job = clinic.job(**ROUNDS, quorum={"min_silos": 2})
    result = run_all(clinic.run_of(job, answers, tmp_path, key=KEY))
    assert result.reason.startswith(
        "UpdateRejected: round 3: an update that cannot be honest work came from north"
    )
    assert "'reduce: {outliers: keep}' counts such updates" in result.reason


def test_a_run_that_died_judges_as_if_it_had_not(tmp_path):
    def made(name):
        hosts = clinic.hosts(clinic.frames(30, 20, 40))
        return {**hosts, "north": changing(hosts["north"], BAD["exploding"], (3,))}, tmp_path / name

    job = clinic.job(**ROUNDS)
    whole = run_all(clinic.run_of(job, *made("whole"), key=KEY))
    answers, place = made("died")
    died = clinic.run_of(job, answers, place, key=KEY)
    died.admit()
    died.standardize()
    died.train_round()
    died.train_round()
    again = run_all(clinic.run_of(job, answers, place, key=KEY, resume=True))
    assert again.silos["north"].rounds == whole.silos["north"].rounds == (1, 2, 4)
    assert tree.digest(again.params) == tree.digest(whole.params)


# The judge itself.


def update(norm, rows=10):
    return {"delta": {"w": np.array([norm, 0.0], np.float64)}, "num_examples": rows}


def told(updates, silo, round, fields, *, model=None):
    """Judge an answer in a round; the model moves a little in each, unless one is said."""
    asked = {"params": {"w": np.array([0.0, 1e-9 * (round if model is None else model)])}}
    updates.require_like(TRAIN, fields, asked, silo=silo, round=round, step="0")


@given(
    st.lists(
        st.lists(st.floats(1e-3, 1e-1), min_size=3, max_size=3, unique=True),
        min_size=1,
        max_size=6,
        unique_by=tuple,
    )
)
def test_silos_whose_norms_differ_a_hundredfold_are_all_counted(rounds):
    updates, seen = Updates(), set()
    for number, norms in enumerate(rounds, start=1):
        for silo, norm in zip("abc", norms, strict=True):
            if (silo, norm) not in seen:
                told(updates, silo, number, update(norm))
            seen.add((silo, norm))


def test_the_same_question_again_is_judged_alike():
    updates = Updates()
    for number in (1, 2, 3):
        for _ in range(2):
            told(updates, "a", number, update(float(number)))


def test_an_honest_silo_without_rows_and_a_model_that_has_converged_are_no_bad_ones():
    updates = Updates()
    told(updates, "a", 1, update(1.0))
    told(updates, "b", 2, update(0.0, rows=0))
    with pytest.raises(UpdateRejected, match="zero"):
        told(updates, "b", 2, update(0.0))
    still = Updates()
    for number in (1, 2, 3):
        told(still, "a", number, update(0.0))


def test_where_training_has_come_to_rest_nothing_and_the_same_again_are_honest():
    updates = Updates()
    for number, norm in ((1, 1.0), (2, 1e-3)):
        for silo, factor in (("a", 1.0), ("b", 0.9), ("c", 0.8)):
            told(updates, silo, number, update(norm * factor))
    with pytest.raises(UpdateRejected, match="zero"):
        told(updates, "a", 3, update(0.0))
    for silo, norm in (("a", 1e-6), ("b", 2e-6), ("c", 1e-3)):
        told(updates, silo, 3, update(norm))
    told(updates, "c", 4, update(0.0))
    told(updates, "a", 4, update(1e-6))
    with pytest.raises(UpdateRejected, match="replayed"):
        told(updates, "b", 4, update(0.9))


def test_where_updates_cancel_out_the_same_again_is_honest():
    """Their sum is nothing, so that the model does not move and each is asked the same again."""
    updates = Updates()
    for number in (1, 2, 3):
        told(updates, "a", number, update(1.0), model=7)
        told(updates, "b", number, update(-1.0), model=7)
    with pytest.raises(UpdateRejected, match="replayed: the update is that of round 1"):
        told(updates, "a", 4, update(1.0), model=8)
    # To and fro between two models: as it was in the round of the same one.
    for number in (4, 5, 6, 7):
        told(updates, "a", number, update(2.0 + number % 2), model=10 + number % 2)
    with pytest.raises(UpdateRejected, match="replayed: the update is that of round 4"):
        told(updates, "a", 8, update(2.0), model=11)


def constant(sign):
    """A change of an update to one that is the same in each round."""
    return lambda delta, sent: {n: np.full_like(v, 0.5 * sign) for n, v in delta.items()}


@pytest.mark.parametrize("cancels", [True, False])
def test_a_run_whose_silos_cancel_out_loses_none_of_them(cancels, tmp_path):
    hosts = clinic.hosts(clinic.frames(30, 30))
    every = range(1, 5)
    answers = {
        "east": changing(hosts["east"], constant(1), every, rows=20),
        "north": changing(hosts["north"], constant(-1 if cancels else 2), every, rows=20),
    }
    result = run_all(clinic.run_of(clinic.job(**ROUNDS), answers, tmp_path, key=KEY))
    rejected = {(each.round, each.silo) for each in result.participation
                if each.outcome == "rejected"}  # fmt: skip
    lines = [e["body"] for e in read(tmp_path / "record.jsonl") if e["kind"] == "round"]
    if cancels:
        assert result.status == "complete", result.reason
        assert (len({each["params"] for each in lines}), len(lines), rejected) == (1, 4, set())
    else:
        assert {silo for _, silo in rejected} == {"east", "north"}
        assert "replayed: the update is that of round 1" in result.reason


def test_a_history_of_the_release_before_is_taken():
    before = {"train.delta.0": {"1": {"a": [1.0, 1.0, 7]}, "2": {"a": [4.0, 2.0, 8]}}}
    updates = Updates()
    updates.take(before)
    assert updates.to_payload() == before
    told(updates, "a", 3, update(1.0))
    assert len(updates.to_payload()["train.delta.0"]["3"]["a"]) == 6


def test_with_little_history_the_bound_is_wide():
    updates = Updates()
    for number in range(1, LEAST_KNOWN + 1):
        told(updates, "a", number, update(1.0 + number))
        if number < LEAST_KNOWN:
            told(updates, "b", number + 1, update(1e9 + number))
            updates._known["train.delta.0"][number + 1].pop("b")
    with pytest.raises(UpdateRejected, match="exploding"):
        told(updates, "b", LEAST_KNOWN + 1, update(1e9))
    told(updates, "b", LEAST_KNOWN + 1, update(90.0))


def test_the_history_outlives_its_process():
    updates, other = Updates(), Updates()
    told(updates, "a", 1, update(0.1 + 0.2))
    other.take(updates.to_payload())
    with pytest.raises(UpdateRejected, match="replayed: the update is that of round 1"):
        told(other, "a", 2, update(0.1 + 0.2))
    told(other, "b", 2, update(0.1 + 0.2))  # another silo may come to the same


def test_other_numbers_of_the_same_size_and_sum_are_no_replay():
    """Updates of signs, of which many have equal norms and sums."""
    updates = Updates()
    first = {"delta": {"w": np.array([0.1, -0.1], np.float32)}, "num_examples": 10}
    told(updates, "a", 1, first)
    told(updates, "a", 2, {**first, "delta": {"w": np.array([-0.1, 0.1], np.float32)}})
    with pytest.raises(UpdateRejected, match="that of round 1"):
        told(updates, "a", 3, first)
