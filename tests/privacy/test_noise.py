from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from consilo.privacy.noise import ReproducibleStream, SecretStream, add_gaussian, exact_log

KEY = hashlib.sha256(b"test").digest()


def test_normal_numbers_are_gaussian() -> None:
    found = SecretStream(KEY, "ks").normal(200_000, 2.0)
    assert stats.kstest(found / 2.0, "norm").pvalue > 0.01
    assert stats.kstest(found[::2] + found[1::2], "norm", args=(0, 2.0 * 2**0.5)).pvalue > 0.01
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.01
    assert abs(np.corrcoef(found[:-1] ** 2, found[1:] ** 2)[0, 1]) < 0.01


def test_uniform_numbers_are_uniform() -> None:
    found = SecretStream(KEY, "uniform").uniform(200_000)
    assert found.min() >= 0
    assert found.max() < 1
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_the_bytes_are_pinned() -> None:
    """Any change of these breaks the idempotence of steps that a silo already answered."""
    stream = SecretStream(KEY, "pinned")
    assert stream.bytes(8).hex() == "ddfa62e01d7f68aa"
    numbers = SecretStream(KEY, "pinned").normal(1000)
    assert hashlib.sha256(numbers.astype("<f8").tobytes()).hexdigest()[:16] == "35f67e5bf7813524"


def test_the_key_stream_is_chacha20() -> None:
    """RFC 8439, appendix A.1, test vector 1: the primitive, apart from our derivation."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    cipher = Cipher(algorithms.ChaCha20(bytes(32), bytes(16)), mode=None)
    assert cipher.encryptor().update(bytes(8)).hex() == "76b8e0ada0f13d90"


def test_a_question_keys_secret_noise_and_no_noise_that_can_be_made_again() -> None:
    for kind, is_moved in ((SecretStream, True), (ReproducibleStream, False)):
        one, other = (kind(KEY, "a").child("noise", question) for question in ("1", "2"))
        assert (one.bytes(32) != other.bytes(32)) == is_moved
        apart = kind(KEY, "a").child("sampling", "1").child("deeper", "3")
        again = kind(KEY, "a").child("sampling", "1").child("deeper", "4")
        assert (apart.bytes(32) != again.bytes(32)) == is_moved
        assert kind(KEY, "b").bytes(32) != kind(KEY, "a").bytes(32)


def test_key_and_context_separate_streams() -> None:
    stream = SecretStream(KEY, "a")
    numbers = stream.normal(100)
    assert np.array_equal(numbers, SecretStream(KEY, "a").normal(100))
    others = [
        SecretStream(KEY, "b"),
        SecretStream(bytes(32), "a"),
        stream.child("a"),
        stream.child("b"),
        SecretStream(KEY, "ab").child("c"),
        SecretStream(KEY, "a").child("bc"),
    ]
    firsts = {each.bytes(16) for each in others}
    assert len(firsts) == len(others)
    assert np.array_equal(stream.child("x").normal(5), SecretStream(KEY, "a").child("x").normal(5))


def test_the_key_is_not_shown() -> None:
    assert KEY.hex() not in repr(SecretStream(KEY, "a"))
    with pytest.raises(ValueError, match="32 bytes"):
        SecretStream(b"short", "a")


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), 7, (2, 3, 4), 100_001])
def test_shapes(shape: int | tuple[int, ...]) -> None:
    expected = (shape,) if isinstance(shape, int) else shape
    assert SecretStream(KEY, "s").normal(shape).shape == expected
    assert (
        add_gaussian(np.ones(expected, np.float32), 1.0, SecretStream(KEY, "s")).shape == expected
    )


@given(st.floats(1e-300, 1.0, exclude_max=True))
def test_exact_log_is_the_log(value: float) -> None:
    assert exact_log(np.array([value]))[0] == pytest.approx(np.log(value), rel=1e-15, abs=1e-17)


@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=5),
    st.floats(1e-3, 1e3),
)
def test_reachable_sums_do_not_depend_on_the_value(values: list[float], std: float) -> None:
    spacing = 2.0 ** (np.floor(np.log2(std)) - 30)
    noisy = add_gaussian(np.array(values), std, SecretStream(KEY, "grid"))
    assert np.array_equal(noisy / spacing, np.rint(noisy / spacing))
    plain = np.array(values) + SecretStream(KEY, "grid").normal(len(values), std)
    assert np.allclose(noisy, plain, rtol=0, atol=1.01 * spacing)


def test_no_noise_changes_nothing() -> None:
    values = np.array([0.1, -3.7], np.float32)
    assert np.array_equal(add_gaussian(values, 0.0, SecretStream(KEY, "z")), values)
