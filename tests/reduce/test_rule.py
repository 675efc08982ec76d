import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import IncompatibleJob, JobInvalid, TooFewRows
from consilo.jobs.job import ReduceSpec
from consilo.kernel.steps import Reply
from consilo.reduce.mean import WeightedMean
from consilo.reduce.rule import Gathered, rule_of

MODULE = """
import numpy as np

def trimmed(vectors, weights, share=0.1):
    return {k: np.mean([v[k] for v in vectors], axis=0) for k in vectors[0]}

class Folding:
    gives, linear, passes = "sum", True, 2
    def __init__(self, clip=1.0):
        self.clip = clip
    def __call__(self, members, verb, payload, *, vectors, quorum):
        yield from ()

class Odd:
    gives, linear, passes = "everything", "yes", 0
    def __call__(self, *args, **settings):
        return None
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_rules.py").write_text(MODULE)
    return (tmp_path,)


def ran(rule, replies, vectors):
    generator = rule(("a", "b", "c"), "train", {}, vectors=vectors, quorum=None)
    next(generator)
    try:
        generator.send(iter(replies))
    except StopIteration as stop:
        return stop.value
    raise AssertionError("one pass only")


def median(vectors, weights):
    return {k: np.median([each[k] for each in vectors], axis=0) for k in vectors[0]}


def reply(name, value, rows=1, other=0.0):
    delta = {"w": np.full(2, value, np.float32)}
    fields = {"delta": delta, "control": {"c": np.array([other])}, "num_examples": rows}
    return Reply(name, fields, 0.1)


@given(st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=2), st.floats(-1e30, 1e30))
def test_a_minority_cannot_move_the_median_out_of_the_others_hull(honest, attack):
    replies = [reply("a", honest[0]), reply("b", honest[1]), reply("c", attack)]
    found = ran(Gathered("m:median", median, {}), replies, {"delta": "num_examples"})
    assert (min(honest) <= found.means["delta"]["w"]).all()
    assert (found.means["delta"]["w"] <= max(honest)).all()
    assert found.means["delta"]["w"].dtype == np.float32
    assert set(found.replies["a"].fields) == {"control", "num_examples"}


@pytest.mark.parametrize("rule", [WeightedMean(), Gathered("m:median", median, {})])
def test_each_vector_is_combined_by_its_own_weight(rule):
    replies = [reply("a", 1.0, 3, 5.0), reply("b", 1.0, 1, 7.0)]
    found = ran(rule, replies, {"delta": "num_examples", "control": None})
    np.testing.assert_array_equal(found.means["delta"]["w"], [1.0, 1.0])
    assert found.means["control"]["c"][0] == 6.0
    assert dict(found.replies["b"].fields) == {"num_examples": 1}


def test_who_has_no_rows_is_not_ranked():
    rule = Gathered("m:median", median, {})
    found = ran(rule, [reply("a", 1.0), reply("b", 9.0, 0)], {"delta": "num_examples"})
    np.testing.assert_array_equal(found.means["delta"]["w"], [1.0, 1.0])
    with pytest.raises(TooFewRows, match="holds a row to learn from"):
        ran(rule, [reply("a", 1.0, 0)], {"delta": "num_examples"})


def test_a_rule_is_a_function_or_a_reduce_with_its_settings(folder):
    made = rule_of(ReduceSpec(rule="my_rules:trimmed", args={"share": 0.2}), folder)
    assert (made.gives, made.linear, made.passes) == ("vectors", False, 1)
    folding = rule_of(ReduceSpec(rule="my_rules:Folding", args={"clip": 2.0}), folder)
    assert (folding.gives, folding.linear, folding.passes) == ("sum", True, 2)
    assert isinstance(rule_of(ReduceSpec()), WeightedMean)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ({"rule": "my_rules:trimmed", "args": {"shares": 1}}, "shares"),
        ({"rule": "my_rules:Folding", "args": {"clipp": 1}}, "clipp"),
        ({"rule": "my_rules:Odd"}, "gives is 'everything', expected 'sum' or 'vectors'"),
        ({"rule": "my_rules:trimed"}, "did you mean 'trimmed'"),
        ({"rule": "elsewhere:rule"}, "was not found"),
    ],
    ids=str,
)
def test_what_is_no_rule_is_refused(folder, spec, why):
    with pytest.raises((IncompatibleJob, JobInvalid), match=why):
        rule_of(ReduceSpec(**spec), folder)


@pytest.mark.parametrize(
    ("made", "why"),
    [(lambda v, w: {}, "differ in the entries w"), (lambda v, w: 1 / 0, "ZeroDivisionError")],
)
def test_what_a_rule_makes_is_a_vector_or_is_refused(made, why):
    with pytest.raises(IncompatibleJob, match=why):
        Gathered("m:odd", made, {}).combine([{"w": np.ones(2)}], [1.0])
