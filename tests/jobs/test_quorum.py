import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import QuorumLost, Refused
from consilo.jobs.quorum import Deadline, Quorum
from consilo.wire.parcel import Fault

ROWS = {"a": 60, "b": 30, "c": 10}


def require(quorum, *answered, missing=None):
    quorum.require(answered, missing=missing or {}, num_examples=ROWS, where="round 3")


def test_a_quorum_counts_silos():
    require(Quorum(2), "a", "b")
    with pytest.raises(QuorumLost, match=r"round 3: .*no quorum: 1 of at least 2 silos answered"):
        require(Quorum(2), "a")


def test_a_quorum_weighs_rows():
    require(Quorum(1, min_data_share=0.6), "a")
    with pytest.raises(QuorumLost, match="they hold 40% of the rows, at least 60% needed"):
        require(Quorum(1, min_data_share=0.6), "b", "c")


def test_a_quorum_names_the_mandatory():
    require(Quorum(1, mandatory=("c",)), "c")
    with pytest.raises(QuorumLost, match="mandatory: c"):
        require(Quorum(1, mandatory=("c",)), "a", "b")


def test_every_fault_and_everybody_missing_is_told_at_once():
    quorum = Quorum(3, 0.9, ("a",))
    missing = {"a": Fault("crashed", "gone"), "c": Fault("deadline", "late")}
    with pytest.raises(QuorumLost, match=r"1 of at least 3.*mandatory: a.*30%") as lost:
        require(quorum, "b", missing=missing)
    assert lost.value.missing == {"a": "crashed: gone", "c": "deadline: late"}


def test_where_a_mandatory_silo_lacks_the_others_reasons_are_not_the_cause():
    missing = {"a": Fault("refused", "no"), "c": Fault("deadline", "late")}
    with pytest.raises(Refused, match="round 3: refused by a, so") as failed:
        require(Quorum(1, mandatory=("a",)), "b", missing=missing)
    assert failed.value.missing == {"a": "refused: no"}


def test_without_known_rows_the_share_is_not_judged():
    Quorum(1, min_data_share=0.9).require(["a"], missing={}, num_examples={}, where="before")


times = st.lists(st.floats(0, 1e4), max_size=8)
histories = st.dictionaries(st.sampled_from("abc"), times, max_size=3)


@given(histories)
def test_a_fixed_deadline_learns_nothing(history):
    assert Deadline(fixed_s=7.0).seconds(history) == 7.0


@given(histories)
def test_a_learnt_deadline_is_never_under_what_the_slowest_healthy_silo_needed(history):
    found = Deadline().seconds(history)
    assert found >= 30.0
    assert all(found >= 1.5 * each for some in history.values() for each in some)


@given(histories, st.floats(0, 1e4))
def test_a_silo_that_is_not_known_yet_never_shortens_it(history, more):
    found = Deadline().seconds({**history, "d": []})
    assert found >= Deadline().seconds(history) or not any(history.values())
    assert found <= max(600.0, Deadline().seconds(history))


def test_a_dead_silo_costs_a_few_rounds_not_the_first_deadline():
    assert Deadline().seconds({}) == Deadline().seconds({"a": []}) == 600.0
    assert Deadline().seconds({"a": [2.0, 10.0]}) == 50.0
    assert Deadline().seconds({"a": [2.0, 10.0], "dead": []}) == 50.0


def test_a_silo_that_is_known_well_gets_a_smaller_margin_and_one_slow_answer_is_allowed_for():
    assert Deadline().seconds({"a": [20.0] * 4}) == 100.0
    assert Deadline().seconds({"a": [20.0] * 64}) == 60.0
    assert Deadline().seconds({"a": [20.0] * 63 + [100.0]}) == 150.0
    assert Deadline().seconds({"fast": [1.0] * 64, "slow": [1000.0] * 64}) == 3000.0
