"""Where randomness comes from: one function derives every seed from (run, step, silo).

A seed is public: the coordinator can compute it. What must stay secret from the coordinator (the
noise and the sampling of differential privacy) is keyed by the silo's own secret, see
`consilo.privacy`.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive(*parts: str | int) -> bytes:
    """Return 32 bytes that depend on every part and on their order.

    Each part is hashed with its length, so that ("ab", "c") and ("a", "bc") differ.

    >>> derive(7, "train/1/0", "north") == derive(7, "train/1/0", "north")
    True
    >>> derive("ab", "c") == derive("a", "bc")
    False
    """
    state = hashlib.sha256(b"consilo.seed.1")
    for part in parts:
        data = str(part).encode()
        state.update(len(data).to_bytes(8, "big") + data)
    return state.digest()


def generator(*parts: str | int) -> np.random.Generator:
    """Return a numpy generator (PCG64) seeded by `derive`."""
    return np.random.Generator(np.random.PCG64(int.from_bytes(derive(*parts), "big")))


def seed32(*parts: str | int) -> int:
    """Return a seed in [0, 2**32) for libraries that take no more."""
    return int.from_bytes(derive(*parts)[:4], "big")
