"""Laws of the draws: probabilities, unbiased estimates, bounds, and what they depend on."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.jobs.cohort import CohortSpec
from consilo.kernel.steps import Reply, Stream
from consilo.reduce.draw import Draw, after, begin, draw, longest_wait, planned, turn
from consilo.reduce.drawn_mean import DrawnMean
from consilo.reduce.mean import WeightedMean

ROWS = {"ash": 10, "birch": 200, "cedar": 35, "elm": 60, "fir": 5, "oak": 90}
BY_CHANCE = [
    CohortSpec(size=3),
    CohortSpec(size=3, by="rows"),
    CohortSpec(rate=0.4, by="poisson"),
]
ALL = [*BY_CHANCE, CohortSpec(size=3, by="availability")]


def drawn(spec, rows=ROWS, *, round=1, seed=0, **settings):
    return draw(spec, begin(rows), round=round, seed=seed, **settings)


def combine(rule, answers, *, weight="num_examples"):
    """Drive a reduction over silo → (vector, rows)."""
    step = rule(
        tuple(answers), "train", {}, vectors={"delta": weight, "buffers": weight}, quorum=None
    )
    assert isinstance(next(step), Stream)
    replies = [
        Reply(
            name,
            {
                "delta": {"w": np.float32([value])},
                "buffers": {"b": np.float32([value])},
                "num_examples": rows,
            },
            0.0,
        )
        for name, (value, rows) in answers.items()
    ]
    try:
        step.send(replies)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("a reduction asks once")


@pytest.mark.parametrize("settings", [{}, {"always": ("fir",)}, {"least": 3}], ids=str)
@pytest.mark.parametrize("spec", BY_CHANCE, ids=lambda each: each.by)
def test_each_silo_is_drawn_as_often_as_its_chance_says(spec, settings):
    count, times = 3000, dict.fromkeys(ROWS, 0)
    for seed in range(count):
        for name in drawn(spec, seed=seed, **settings).names:
            times[name] += 1
    chances = drawn(spec, **settings).chances
    for name, chance in chances.items():
        error = math.sqrt(chance * (1 - chance) / count)
        assert abs(times[name] / count - chance) <= 4.5 * error, (name, times[name] / count, chance)


@pytest.mark.parametrize("weight", ["num_examples", None])
@pytest.mark.parametrize("spec", BY_CHANCE, ids=lambda each: each.by)
def test_over_seeds_the_estimate_is_the_mean_over_all_silos(spec, weight):
    values = dict(zip(ROWS, (3.0, -1.0, 8.0, 0.5, -20.0, 2.0), strict=True))
    full = combine(WeightedMean(), {n: (values[n], ROWS[n]) for n in ROWS}, weight=weight)
    found = []
    for seed in range(1500):
        each = drawn(spec, seed=seed, least=2)
        answers = {n: (values[n], ROWS[n]) for n in each.names}
        reduced = combine(DrawnMean(each), answers, weight=weight)
        found.append(float(reduced.means["delta"]["w"][0]))
        assert reduced.told["weights"].keys() == answers.keys()
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - full.means["delta"]["w"][0]) <= 4 * error


def test_without_probabilities_the_mean_of_the_drawn_would_be_biased():
    """The estimate above is no formality: the mean by rows of who was drawn misses the mean."""
    values = dict(zip(ROWS, (3.0, -1.0, 8.0, 0.5, -20.0, 2.0), strict=True))
    full = combine(WeightedMean(), {n: (values[n], ROWS[n]) for n in ROWS})
    found = []
    for seed in range(1500):
        names = drawn(CohortSpec(size=2), seed=seed).names
        reduced = combine(WeightedMean(), {n: (values[n], ROWS[n]) for n in names})
        found.append(float(reduced.means["delta"]["w"][0]))
    error = np.std(found) / math.sqrt(len(found))
    assert abs(np.mean(found) - full.means["delta"]["w"][0]) > 5 * error


@pytest.mark.parametrize("spec", ALL, ids=lambda each: each.by)
@given(order=st.permutations(sorted(ROWS)), round=st.integers(1, 50), seed=st.integers(0, 9))
@settings(max_examples=25)
def test_a_draw_does_not_depend_on_the_order_of_names(spec, order, round, seed):
    shuffled = {name: ROWS[name] for name in order}
    assert drawn(spec, shuffled, round=round, seed=seed) == drawn(spec, round=round, seed=seed)


@pytest.mark.parametrize("spec", ALL, ids=lambda each: each.by)
def test_rounds_and_seeds_draw_others(spec):
    assert len({drawn(spec, round=each).names for each in range(1, 30)}) > 5
    assert len({drawn(spec, seed=each).names for each in range(30)}) > 3


@pytest.mark.parametrize("spec", ALL, ids=lambda each: each.by)
@pytest.mark.parametrize("size", [6, 7])
def test_where_all_are_drawn_the_mean_is_the_mean_to_the_bit(spec, size):
    whole = {"rate": 1.0} if spec.by == "poisson" else {"size": size}
    each = drawn(spec.model_copy(update=whole))
    assert each.names == tuple(sorted(ROWS))
    answers = {n: (0.1 * place, ROWS[n]) for place, n in enumerate(ROWS)}
    for there in (answers, {n: answers[n] for n in list(answers)[:4]}):  # two do not answer
        ours, plain = combine(DrawnMean(each), there), combine(WeightedMean(), there)
        for name in ("delta", "buffers"):
            for key, value in plain.means[name].items():
                assert ours.means[name][key].tobytes() == value.tobytes()


@given(
    rows=st.lists(st.integers(0, 500), min_size=1, max_size=12),
    size=st.integers(1, 12),
    seed=st.integers(0, 99),
)
def test_by_rows_as_many_are_drawn_as_wanted_each_once_in_proportion(rows, size, seed):
    named = {f"s{place}": count for place, count in enumerate(rows)}
    holders = sum(count > 0 for count in rows)
    each = drawn(CohortSpec(size=size, by="rows"), named, seed=seed)
    assert len(set(each.names)) == len(each.names) == min(size, holders)
    assert math.isclose(sum(each.chances.values()), min(size, holders), abs_tol=1e-9)
    part = [name for name in named if 0 < each.chances[name] < 1]
    for one, other in itertools.pairwise(part):
        assert math.isclose(each.chances[one] * named[other], each.chances[other] * named[one])
    assert all(named[name] for name in each.names)


@given(count=st.integers(1, 40), rate=st.floats(0.01, 1.0), least=st.integers(0, 8))
def test_by_poisson_a_draw_is_never_below_the_quorum(count, rate, least):
    named = {f"s{place}": 10 for place in range(count)}
    spec = CohortSpec(rate=rate, by="poisson")
    each = drawn(spec, named, least=least)
    assert len(each.names) >= min(least, count)
    chance = each.chances["s0"]
    assert rate - 1e-9 <= chance <= 1 + 1e-9
    if least == 0:
        assert math.isclose(chance, rate, rel_tol=1e-9)


def test_buffers_are_averaged_with_weights_that_sum_to_one():
    """By the other weights a variance of 1 in each silo would become another, or negative."""
    for seed in range(20):
        each = drawn(CohortSpec(size=2), seed=seed)
        reduced = combine(
            DrawnMean(each, convex=("buffers",)), {n: (1.0, ROWS[n]) for n in each.names}
        )
        np.testing.assert_allclose(reduced.means["buffers"]["b"], 1.0, rtol=1e-6)
    assert abs(reduced.means["delta"]["w"][0] - 1.0) > 0.01


def test_who_was_drawn_and_did_not_answer_is_stood_for_by_who_did():
    each = Draw(1, ("a", "b"), dict.fromkeys("abcd", 0.5), {"a": 10, "b": 10, "c": 10, "d": 10})
    both = combine(DrawnMean(each), {"a": (4.0, 10), "b": (4.0, 10)})
    one = combine(DrawnMean(each), {"a": (4.0, 10)})
    assert both.means["delta"]["w"] == one.means["delta"]["w"] == 4.0


def answers_of(seed):
    """Who is away in which round, at random."""
    rng = np.random.default_rng(seed)
    moody = dict(zip(ROWS, rng.uniform(0, 1, len(ROWS)), strict=True))
    return lambda name: bool(rng.random() < moody[name])


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("every", [None, 3, 5])
@pytest.mark.parametrize("always", [(), ("oak",)])
def test_by_availability_nobody_waits_longer_than_the_bound(seed, every, always):
    spec = CohortSpec(size=3, by="availability", every=every)
    bound = longest_wait(spec, len(ROWS), always=len(always))
    assert bound == (every or 4 * turn(spec, len(ROWS), always=len(always)))
    is_there, kept, last = answers_of(seed), begin(ROWS), dict.fromkeys(ROWS, 0)
    for number in range(1, 120):
        each = draw(spec, kept, round=number, seed=seed, always=always)
        assert set(always) <= set(each.names)
        assert len(each.names) == 3
        last |= dict.fromkeys(each.names, number)
        assert max(number - each for each in last.values()) < bound
        answered = [name for name in each.names if is_there(name)]
        kept = after(spec, kept, each, answered=answered, gone=())


def test_by_availability_who_answered_is_preferred():
    spec = CohortSpec(size=2, by="availability", every=20)
    kept, times = begin(ROWS), dict.fromkeys(ROWS, 0)
    for number in range(1, 201):
        each = draw(spec, kept, round=number, seed=1)
        kept = after(spec, kept, each, answered=set(each.names) - {"elm"}, gone=())
        for name in each.names:
            times[name] += 1
    assert times["elm"] <= 200 / 10
    assert all(times[name] > 2 * times["elm"] for name in ROWS if name != "elm")


@pytest.mark.parametrize("spec", ALL, ids=lambda each: each.by)
def test_no_silo_is_drawn_oftener_than_its_cap_and_who_said_no_is_not_drawn(spec):
    capped = spec.model_copy(update={"most_rounds": 4})
    kept, times = begin(ROWS), dict.fromkeys(ROWS, 0)
    for number in range(1, 40):
        each = draw(capped, kept, round=number, seed=3)
        assert not set(each.names) & set(each.done)
        gone = ("oak",) if number == 2 else ()
        kept = after(capped, kept, each, answered=each.names, gone=gone)
        for name in each.names:
            times[name] += 1
            assert name != "oak" or number <= 2
    assert max(times.values()) == 4
    assert not each.names


@pytest.mark.parametrize("spec", ALL, ids=lambda each: each.by)
def test_what_is_planned_is_what_comes_if_all_answer(spec):
    kept, times = begin(ROWS), dict.fromkeys(ROWS, 0)
    for number in range(1, 11):
        each = draw(spec, kept, round=number, seed=7)
        kept = after(spec, kept, each, answered=each.names, gone=())
        for name in each.names:
            times[name] += 1
    assert planned(spec, ROWS, rounds=range(1, 11), seed=7) == times
