import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import TooFewRows
from consilo.kernel.steps import Reply, Stream
from consilo.reduce.mean import WeightedMean, finish, fold

vectors = st.lists(
    st.tuples(
        st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=3), st.integers(0, 1000)
    ),
    min_size=1,
    max_size=6,
).filter(lambda pairs: any(weight for _, weight in pairs))


def mean(pairs) -> np.ndarray:
    total, mass = None, 0
    for values, weight in pairs:
        total = fold(total, {"w": np.array(values, np.float32)}, weight)
        mass += weight
    return finish(total, mass)["w"]


@given(vectors)
def test_the_mean_equals_numpys(pairs):
    values, weights = [each for each, _ in pairs], [weight for _, weight in pairs]
    expected = np.average(np.array(values, np.float64), axis=0, weights=weights)
    np.testing.assert_allclose(mean(pairs), expected, rtol=1e-6, atol=1e-6)
    assert mean(pairs).dtype == np.float32


@given(vectors, st.randoms())
def test_the_order_of_silos_does_not_matter(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    np.testing.assert_allclose(mean(shuffled), mean(pairs), rtol=1e-6, atol=1e-6)


@given(vectors, st.integers(1, 50))
def test_scaling_every_weight_changes_nothing(pairs, factor):
    scaled = [(values, weight * factor) for values, weight in pairs]
    np.testing.assert_allclose(mean(scaled), mean(pairs), rtol=1e-6, atol=1e-6)


@given(vectors)
def test_the_mean_lies_within_the_hull(pairs):
    inside = np.array([values for values, weight in pairs if weight], np.float32)
    assert (mean(pairs) >= inside.min(axis=0) - 1e-4).all()
    assert (mean(pairs) <= inside.max(axis=0) + 1e-4).all()


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=4), st.integers(1, 2**40))
def test_one_silo_is_the_identity(values, weight):
    np.testing.assert_array_equal(mean([(values, weight)]), np.array(values, np.float32))


def test_the_sum_is_kept_in_doubles_from_the_first_silo_to_the_last():
    """It was kept in floats from the second silo on, so that the order of silos mattered."""
    large, small = np.float32(2**24), np.float32(1.0)
    parts = [({"w": np.array([large])}, 1), ({"w": np.array([small / 3])}, 3)]
    total = None
    for vector, weight in parts:
        total = fold(total, vector, weight)
    assert total["w"][0] == float(large) + 3 * float(small / 3)


def test_fold_leaves_the_silos_vector_alone():
    vector = {"w": np.ones(2, np.float32)}
    total = fold(None, vector, 3)
    fold(total, vector, 4)
    np.testing.assert_array_equal(vector["w"], np.ones(2))
    np.testing.assert_array_equal(total["w"], np.full(2, 7.0))


def combine(replies):
    generator = WeightedMean()(
        ("a", "b"), "train", {}, vectors={"delta": "num_examples"}, quorum=None
    )
    step = next(generator)
    assert isinstance(step, Stream)
    try:
        generator.send(iter(replies))
    except StopIteration as stop:
        return stop.value
    raise AssertionError("one pass only")


def reply(name, value, rows):
    fields = {"delta": {"w": np.full(2, value, np.float32)}, "num_examples": rows, "loss": value}
    return Reply(name, fields, 0.1)


def test_replies_are_folded_and_the_vector_is_let_go():
    reduced = combine([reply("a", 1.0, 1), reply("b", 4.0, 2)])
    np.testing.assert_allclose(reduced.means["delta"]["w"], [3.0, 3.0])
    assert list(reduced.replies) == ["a", "b"]
    assert dict(reduced.replies["b"].fields) == {"num_examples": 2, "loss": 4.0}


@settings(deadline=None)
@given(st.sampled_from([[], [reply("a", 1.0, 0)]]))
def test_nobody_with_a_row_is_too_few_rows(replies):
    with pytest.raises(TooFewRows, match="no silo that answered holds a row"):
        combine(replies)
