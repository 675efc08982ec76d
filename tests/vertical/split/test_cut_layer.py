"""Few bits per number: what arrives, how much travels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import ModelDiverged, ReplyInvalid
from consilo.vertical.split.cut_layer import quantized, restored


def batch(rows, width, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


@given(rows=st.integers(0, 40), width=st.integers(1, 9), bits=st.integers(1, 8))
def test_a_number_moves_by_less_than_a_level(rows, width, bits):
    values = batch(rows, width, rows)
    sent = quantized(values, bits, np.random.default_rng(1))
    found = restored(sent, rows, width)
    assert sent["packed"].nbytes == -(-rows * width * bits // 8)
    if rows:
        level = np.ptp(values, axis=0) / (2**bits - 1)
        assert (np.abs(found - values) <= level * 1.001 + 1e-6).all()


def test_what_arrives_is_right_on_average():
    values = batch(30, 4)
    rng = np.random.default_rng(2)
    found = np.mean([restored(quantized(values, 2, rng), 30, 4) for _ in range(2000)], axis=0)
    assert np.abs(found - values).max() < 0.1


def test_without_bits_nothing_changes():
    values = batch(7, 3)
    assert np.array_equal(restored(quantized(values, None, np.random.default_rng(0)), 7, 3), values)


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"values": np.zeros(5, np.float32)},
        {"values": np.full(6, np.nan, np.float32)},
        {"packed": np.zeros(1, np.uint8), "bits": 3, "low": 0, "step": 1, "more": 1},
        {"packed": np.zeros(0, np.uint8), "bits": 8, "low": np.zeros(3), "step": np.ones(3)},
        {"packed": np.zeros(75, np.uint8), "bits": 100, "low": np.zeros(3), "step": np.ones(3)},
    ],
)
def test_what_is_no_batch_is_refused(wrong):
    with pytest.raises(ReplyInvalid, match="agreed size"):
        restored(wrong, 2, 3)


@pytest.mark.parametrize("bits", [None, 4])
def test_a_training_that_diverged_says_so_where_it_did(bits):
    """The silo that got such a batch was the one that seemed at fault."""
    values = batch(2, 3)
    values[1, 2] = np.inf
    with pytest.raises(ModelDiverged, match=r"lower local\.lr"):
        quantized(values, bits, np.random.default_rng(0))
