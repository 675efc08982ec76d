"""The group that keys are blinded in: Curve25519, hashed to by Elligator 2.

A value becomes a point of the prime-order subgroup (SHA-512, then libsodium's
``crypto_core_ed25519_from_uniform``: Elligator 2 and the cofactor cleared), is carried by its
Montgomery coordinate ``u``, and is blinded by X25519 (RFC 7748): blindings commute. A value is
never taken as a coordinate itself, since whether it lies on the curve or on its twist survives
blinding and tells a bit. The map reaches about half of the points; it is the nonuniform encoding of
RFC 9380 (section 10.1), and its points can be sampled and inverted, which is what the proof of
Diffie-Hellman PSI (decisional Diffie-Hellman, random oracle) needs of it.

What a partner sends is checked before use: whole elements, canonical, no element twice, none of
small order. A point of the twist, which is not told apart, gives away nothing: the twist is as
strong, and scalars are multiples of its cofactor.

Why not openmined-psi: it takes 93 µs to hash and blind a value and 65 µs to blind another's (P-256,
CPU, one core), this 61 µs and 35 µs, and an element has 32 bytes; `benchmarks/psi.py` measures both
in the same run. It also gives no way to look at elements before they are multiplied.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import nacl.bindings as sodium
import numpy as np

from consilo.errors import Refused

ELEMENT = 32
TAG = 16
"""Bytes of a doubly blinded element that are compared: 2^-48 for a false match at 2^40 pairs."""
_P = 2**255 - 19
_PIECE = 1024

Elements = np.ndarray[tuple[int, int], np.dtype[np.uint8]]
"""uint8, [elements, 32]."""


def new_scalar() -> bytes:
    """Return a secret to blind with; X25519 clamps it."""
    return secrets.token_bytes(ELEMENT)


def hash_to_group(values: Sequence[bytes], domain: bytes) -> Elements:
    """Return the group elements of values.

    Args:
        values: any bytes.
        domain: what keeps this use apart from any other; the same on both sides.
    """
    head = hashlib.sha512(b"consilo psi hash 1" + len(domain).to_bytes(4, "big") + domain)

    def work(piece: Sequence[bytes]) -> bytes:
        points = []
        for value in piece:
            hasher = head.copy()
            hasher.update(value)
            points.append(sodium.crypto_core_ed25519_from_uniform(hasher.digest()[:ELEMENT]))
        return _montgomery(points)

    return _in_threads(values, work)


def blind(elements: Elements, scalar: bytes) -> Elements:
    """Return every element times a secret.

    Raises:
        Refused: where one is of small order, which no honest side sends.
    """

    def work(piece: Elements) -> bytes:
        whole = piece.tobytes()
        try:
            return b"".join(
                sodium.crypto_scalarmult(scalar, whole[at : at + ELEMENT])
                for at in range(0, len(whole), ELEMENT)
            )
        except RuntimeError:
            raise Refused("a partner sent an element that is no valid point", code="psi") from None

    return _in_threads(elements, work)


def tags(elements: Elements, scalar: bytes) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Return what a partner's blinded elements become under our secret as well: void16, [elements].

    Raises:
        Refused: where an element is no valid point.
    """
    return as_tags(np.ascontiguousarray(blind(elements, scalar)[:, :TAG]))


def as_tags(
    raw: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int], np.dtype[np.void]]:
    """Return rows of 16 bytes as comparable single values."""
    return np.ascontiguousarray(raw).view(np.dtype((np.void, TAG))).reshape(-1)


def checked_elements(found: Elements) -> Elements:
    """Return elements that a partner sent, if they are as they must be.

    Raises:
        Refused: for a part of an element, one twice, one that is not canonical.
    """
    if found.shape[1] != ELEMENT:
        raise Refused("a partner sent parts of elements", code="psi")
    found = np.ascontiguousarray(found)
    # u < 2^255 - 19: the top bit is clear, and not all the others are at their end.
    high = found[:, 31] == 127
    full = high & (found[:, 1:31] == 255).all(axis=1) & (found[:, 0] >= 237)
    if (found[:, 31] > 127).any() or full.any():
        raise Refused("a partner sent an element that is not in canonical form", code="psi")
    if len(np.unique(found.view(np.dtype((np.void, ELEMENT))))) < len(found):
        raise Refused("a partner sent an element twice", code="psi")
    return found


def _montgomery(points: Sequence[bytes]) -> bytes:
    """Return u = (1 + y) / (1 - y) of Edwards points, by one inversion (Montgomery's trick)."""
    ys = [int.from_bytes(each, "little") & ((1 << 255) - 1) for each in points]
    below = [(1 - y) % _P for y in ys]
    products, running = [], 1
    for each in below:
        products.append(running)
        running = running * each % _P
    inverse = pow(running, -1, _P)
    found = [b""] * len(ys)
    for place in range(len(ys) - 1, -1, -1):
        u = (1 + ys[place]) * inverse % _P * products[place] % _P
        inverse = inverse * below[place] % _P
        found[place] = u.to_bytes(ELEMENT, "little")
    return b"".join(found)


def _in_threads(items: Sequence[bytes] | Elements, work: Callable[..., bytes]) -> Elements:
    """Return what ``work`` makes of all items, on every core: libsodium runs outside the lock."""
    pieces = [items[at : at + _PIECE] for at in range(0, len(items), _PIECE)]
    cores = len(os.sched_getaffinity(0))
    if len(pieces) < 2 or cores < 2:
        made = [work(each) for each in pieces]
    else:
        with ThreadPoolExecutor(min(cores, len(pieces))) as pool:
            made = list(pool.map(work, pieces))
    return np.frombuffer(b"".join(made), np.uint8).reshape(len(items), ELEMENT)
