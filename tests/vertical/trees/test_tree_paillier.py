"""Paillier's cryptosystem: what comes back, what adds up, what is refused."""

import multiprocessing as mp

import gmpy2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.errors import ReplyInvalid
from consilo.vertical.trees.paillier import PrivateKey, PublicKey

KEY = PrivateKey.generate(512)  # small: the arithmetic is the same at any size
HALF = 2 ** (KEY.public.room - 1)
integers = st.integers(-HALF + 1, HALF - 1)


@given(integers)
def test_a_number_comes_back(value):
    (sealed,) = KEY.encrypt([value])
    assert KEY.decrypt(sealed) == value


@given(st.lists(st.integers(-(2**200), 2**200), min_size=1, max_size=6))
def test_products_are_sums_and_powers_of_two_shift(values):
    sealed, modulus = KEY.encrypt(values), KEY.public.square
    product = gmpy2.mpz(1)
    for each in sealed:
        product = product * each % modulus
    assert KEY.decrypt(product) == sum(values)
    assert [KEY.decrypt(each) for each in KEY.public.shifted(sealed, 40)] == [
        value << 40 for value in values
    ]
    assert [KEY.decrypt(each) for each in KEY.public.inverses(sealed)] == [-v for v in values]
    (blinded,) = KEY.public.blinded([product])
    assert blinded != product
    assert KEY.decrypt(blinded) == sum(values)


def test_many_powers_made_in_threads_are_in_their_places():
    values = list(range(-21, 20))
    sealed = KEY.public.blinded(KEY.encrypt(values))
    assert [KEY.decrypt(each) for each in sealed] == values
    assert [KEY.decrypt(each) for each in KEY.public.shifted(sealed, 3)] == [8 * v for v in values]


def test_many_numbers_encrypted_in_processes_are_in_their_places():
    values = list(range(-2501, 2500))
    sealed = KEY.encrypt(values)
    assert [KEY.decrypt(each) for each in sealed] == values
    assert (
        len({int(each) for each in KEY.encrypt([0] * 4000)}) == 4000
    )  # no process draws another's
    assert mp.active_children() == []


def test_decryption_is_the_papers():
    """The oracle: L(c^lambda mod n^2) / lambda mod n, without the remainders of p and q."""
    p, q, n = KEY.p, KEY.q, KEY.public.n
    exponent = gmpy2.lcm(p - 1, q - 1)
    for value in (0, 1, 12345678901234567890, HALF - 1):
        (sealed,) = KEY.encrypt([value])
        raised = (gmpy2.powmod(sealed, exponent, n * n) - 1) // n
        assert raised * gmpy2.invert(exponent, n) % n == value == KEY.decrypt(sealed)


def test_the_random_part_is_a_uniform_residue():
    """With small primes all n-th residues can be counted: each turns up, about as often."""
    small = PrivateKey(gmpy2.mpz(11), gmpy2.mpz(17), gmpy2.mpz(2), gmpy2.mpz(3))
    n, modulus = 11 * 17, (11 * 17) ** 2
    residues = {pow(x, n, modulus) for x in range(1, n) if x % 11 and x % 17}
    assert len(residues) == 160
    drawn = [int(each) for each in small.encrypt([0] * 16_000)]
    assert set(drawn) == residues
    counts = np.unique(drawn, return_counts=True)[1]
    # Chi squared with 159 degrees of freedom: above 250 once in 200,000 times.
    assert np.sum((counts - 100) ** 2 / 100) < 250


def test_a_key_is_made_as_it_should_be():
    key = PrivateKey.generate(1024)
    assert key.public.n.bit_length() == 1024
    for prime, root in ((key.p, key.root_p), (key.q, key.root_q)):
        assert (prime.bit_length(), gmpy2.is_prime(prime, 40)) == (512, True)
        assert gmpy2.powmod(root, (prime - 1) // 2, prime) == prime - 1
    assert PrivateKey.from_payload(key.to_payload()) == key
    assert PublicKey.from_bytes(key.public.to_bytes(), sender="bank", min_bits=1024) == key.public


def test_the_same_number_looks_different_each_time():
    assert len(set(KEY.encrypt([5] * 50))) == 50


def test_what_is_no_key_or_no_ciphertext_is_refused():
    key = KEY.public
    with pytest.raises(ReplyInvalid, match="no modulus of 2048 bits"):
        PublicKey.from_bytes(key.to_bytes(), sender="bank")
    even = np.frombuffer(b"\xff" * 63 + b"\xfe", np.uint8)
    with pytest.raises(ReplyInvalid, match="no modulus"):
        PublicKey.from_bytes(even, sender="bank", min_bits=512)
    wired = key.wired(KEY.encrypt([1, 2]))
    assert [KEY.decrypt(each) for each in key.unwired(wired, sender="shop")] == [1, 2]
    for bad in (wired[:, 1:], np.full_like(wired, 255), np.zeros_like(wired), wired.astype(int)):
        with pytest.raises(ReplyInvalid, match="shop"):
            key.unwired(bad, sender="shop")
