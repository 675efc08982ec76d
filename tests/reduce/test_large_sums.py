"""Sums of large entries are kept in 48 bits."""

import numpy as np
import pytest

from consilo.reduce.mean import finish, fold

SIZE = (1 << 16) + 7


def folded(vectors, weights):
    total = None
    for vector, weight in zip(vectors, weights, strict=True):
        total = fold(total, {"w": vector}, weight)
    return finish(total, sum(weights))["w"]


def test_a_large_mean_is_that_of_doubles():
    rng = np.random.default_rng(0)
    vectors = [rng.standard_normal((SIZE, 2)).astype(np.float32) * 10.0**k for k in range(-3, 4)]
    weights = [float(each) for each in rng.integers(1, 1000, len(vectors))]
    expected = np.average(np.array(vectors, np.float64), axis=0, weights=weights)
    found = folded(vectors, weights)
    assert found.dtype == np.float32
    assert found.shape == (SIZE, 2)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)
    assert (found != expected.astype(np.float32)).mean() < 1e-3  # rounded the other way at a tie


def test_one_silo_is_the_identity_for_large_entries_too():
    values = np.random.default_rng(1).standard_normal(SIZE).astype(np.float32)
    np.testing.assert_array_equal(folded([values], [7.0]), values)
    np.testing.assert_array_equal(values, values.copy())


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_other_dtypes_and_a_silo_without_rows(kind):
    ones = np.ones(SIZE, kind)
    np.testing.assert_array_equal(folded([ones, 3 * ones, 9 * ones], [1.0, 1.0, 0.0]), 2.0)


def test_what_is_too_large_becomes_infinite():
    huge = np.full(SIZE, 3e38, np.float64)
    assert np.isinf(folded([huge * 10], [1.0])).all()
