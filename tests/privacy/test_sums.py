"""Sums of known sensitivity: by brute force over neighbouring tables, and what is made of them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from consilo.privacy.noise import SecretStream
from consilo.privacy.sums import Sums, noisy_histogram

LOW = np.array([0.0, -5.0, 2.0])
HIGH = np.array([120.0, 5.0, 2.0])  # the last column has one value only
CELL = st.one_of(
    st.floats(-1e9, 1e9), st.just(math.nan), st.just(math.inf), st.sampled_from([0.0, 120.0, -5.0])
)
TABLE = arrays.arrays(np.float64, st.tuples(st.integers(1, 6), st.just(3)), elements=CELL)


def sums(values, codes=None):
    kwargs = {} if codes is None else {"codes": codes, "num_classes": 4}
    return Sums.of(values, low=LOW, high=HIGH, **kwargs)


@given(TABLE, st.data())
def test_no_neighbouring_table_is_further_away_than_the_sensitivity(values, data):
    codes = np.array(data.draw(st.lists(st.integers(0, 3), min_size=len(values), max_size=6)))
    codes = codes[: len(values)]
    for mine in (None, codes):
        whole = sums(values, mine)
        for row in range(len(values)):
            kept = np.arange(len(values)) != row
            less = sums(values[kept], None if mine is None else mine[kept])
            apart = np.linalg.norm(whole.vector - less.vector)
            assert apart <= whole.sensitivity * (1 + 1e-12)


def test_the_sensitivity_is_reached_and_no_larger_than_it_must_be():
    corner = np.array([[120.0, -5.0, 2.0]])
    found = Sums.of(corner[:, :2], low=LOW[:2], high=HIGH[:2], codes=np.array([1]), num_classes=4)
    assert np.linalg.norm(found.vector) == pytest.approx(found.sensitivity)
    assert found.sensitivity == pytest.approx(math.sqrt(2 * 1.25 + 1))


def test_without_noise_the_moments_are_those_of_the_clipped_rows_gaps_and_all():
    rng = np.random.default_rng(0)
    values = np.column_stack([rng.normal(60, 40, 500), rng.normal(0, 4, 500), np.full(500, 2.0)])
    values[rng.random(values.shape) < 0.2] = np.nan
    clipped = np.clip(values, LOW, HIGH)
    count, mean, m2 = sums(values).moments()
    np.testing.assert_array_equal(count, (~np.isnan(values)).sum(axis=0))
    np.testing.assert_allclose(mean, np.nanmean(clipped, axis=0), rtol=1e-12)
    expected = np.nanvar(clipped, axis=0) * count
    np.testing.assert_allclose(m2, expected, rtol=1e-9, atol=1e-9)


@given(TABLE, TABLE)
def test_sums_of_two_tables_are_those_of_one(left, right):
    both = sums(np.concatenate([left, right]))
    parts = sums(left).plus(sums(right))
    np.testing.assert_allclose(parts.vector, both.vector, atol=1e-9)
    assert parts.rows == both.rows


@given(TABLE, st.floats(0.1, 1e4))
def test_noise_makes_no_impossible_moments(values, sigma):
    codes = np.zeros(len(values), np.int64)
    noisy = sums(values, codes).noisy(sigma, SecretStream(bytes(32), "test"))
    count, mean, m2 = noisy.moments()
    assert ((count >= 0) & (count <= len(values)) & (count == np.rint(count))).all()
    known = count > 0
    assert ((mean >= LOW) & (mean <= HIGH))[known].all()
    half = (HIGH - LOW) / 2
    assert ((m2 >= 0) & (m2 <= count * half**2 * (1 + 1e-9))).all()
    assert (noisy.class_counts() >= 0).all()
    assert noisy.class_counts().dtype == np.int64


def test_the_noise_has_the_stated_deviation():
    table = np.full((50, 3), np.nan)
    exact = sums(table, np.zeros(50, np.int64))
    found = [
        exact.noisy(2.0, SecretStream(bytes(32), str(n))).vector - exact.vector for n in range(400)
    ]
    std = 2.0 * exact.sensitivity
    assert np.std(found) == pytest.approx(std, rel=0.05)
    assert abs(np.mean(found)) < 5 * std / math.sqrt(np.size(found))


def test_a_histograms_noise_grows_with_the_number_of_columns():
    counts = {str(n): np.full(2000, 1e6) for n in range(9)}
    found = noisy_histogram(counts, 2.0, SecretStream(bytes(32), "test"))
    spread = np.std(np.concatenate(list(found.values())))
    assert spread == pytest.approx(2.0 * 3.0, rel=0.05)
    assert (noisy_histogram({"a": np.zeros(99)}, 5.0, SecretStream(bytes(32), "x"))["a"] >= 0).all()
