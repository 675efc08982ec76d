"""Rows of one silo → entities, and the values that stand for them under each key of a recipe.

Rows that share the value of a key with ``duplicates: same`` are one entity, and so on through
chains of them. A value that belongs to several entities stands for none. Values leave this module
as 32-byte digests only.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

from consilo.jobs.recipe import Digests, Recipe

if TYPE_CHECKING:
    import pandas as pd

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Values:
    """The distinct, unambiguous values of one key, sorted by ``place``.

    Args:
        digests: uint8, [values, 32].
        places: uint32, [values]: a keyed hash of the digest; shards are ranges of it.
        rows: int64, [values]: the first row that has the value.
        entities: int64, [values]: whose it is.
    """

    digests: np.ndarray[tuple[int, int], np.dtype[np.uint8]]
    places: np.ndarray[tuple[int], np.dtype[np.uint32]]
    rows: Ints
    entities: Ints

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.rows)

    def bounds(self, num_shards: int) -> Ints:
        """Return where each shard begins, and the end: [shards + 1]."""
        edges = (np.arange(1, num_shards, dtype=np.uint64) << np.uint64(32)) // np.uint64(
            num_shards
        )
        inner = np.searchsorted(self.places, edges.astype(np.uint32))
        return np.concatenate([[0], inner, [len(self)]]).astype(np.int64)

    def to_bytes(self) -> bytes:
        """Return the values as bytes; `from_bytes` is the inverse."""
        buffer = io.BytesIO()
        for each in (self.digests, self.places, self.rows, self.entities):
            np.save(buffer, each, allow_pickle=False)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Values:
        """Return what `to_bytes` wrote."""
        buffer = io.BytesIO(data)
        return cls(*(np.load(buffer, allow_pickle=False) for _ in range(4)))


@dataclass(frozen=True)
class People:
    """What a silo's rows are under a recipe.

    Args:
        num_rows: of the silo.
        num_entities: after rows of one entity were joined.
        ambiguous: how many values stand for several entities, by key.
        keys: the values, by key.
        num_ambiguous: entities that cannot be matched: each of their values stands for others too.
        num_without: entities that cannot be matched: they have no value of any key.
    """

    num_rows: int
    num_entities: int
    ambiguous: tuple[int, ...]
    keys: tuple[Values, ...]
    num_ambiguous: int = 0
    num_without: int = 0


def people(frame: pd.DataFrame, recipe: Recipe, *, shard_key: bytes) -> People:
    """Return the entities among canonical rows and their values.

    Args:
        frame: canonical rows.
        recipe: what the keys are.
        shard_key: up to 64 bytes; the same in all silos.
    """
    # A column at a time, and as digests: a million values as objects would be half a gigabyte.
    columns = [recipe.digests(frame, number) for number in range(len(recipe.keys))]
    same = [
        column for key, column in zip(recipe.keys, columns, strict=True) if key.duplicates == "same"
    ]
    entities = _joined(len(frame), same)
    made = [_distinct(column, entities, shard_key) for column in columns]
    everybody = len(np.unique(entities))
    valued = len(np.unique(np.concatenate([entities[column.rows] for column in columns])))
    unique = len(np.unique(np.concatenate([values.entities for values, _ in made])))
    return People(
        num_rows=len(frame),
        num_entities=everybody,
        ambiguous=tuple(count for _, count in made),
        keys=tuple(values for values, _ in made),
        num_ambiguous=valued - unique,
        num_without=everybody - valued,
    )


def shuffle(count: int, key: bytes) -> Ints:
    """Return a permutation that whoever lacks the 32-byte key cannot tell from a random one.

    Numbers are ordered by 64 bits each of a ChaCha20 key stream; the same key, the same order.
    """
    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    drawn = np.frombuffer(stream.update(bytes(8 * count)), "<u8")
    return np.argsort(drawn, kind="stable").astype(np.int64)


def sketch(values: Values, key: bytes) -> tuple[np.ndarray[tuple[int], np.dtype[np.uint64]], str]:
    """Return the 1024 smallest keyed hashes of a set, and a keyed hash of the whole set.

    The first tells how alike two sets are (bottom-k sketch, Cohen and Kaplan, 2007), the second
    whether they are the same.

    Args:
        values: the set.
        key: the silo's own secret, so that neither tells anything to anybody else.
    """
    raw = values.digests.tobytes()
    drawn = bytearray()
    for at in range(0, len(raw), 32):
        drawn += hashlib.blake2b(raw[at : at + 32], digest_size=8, key=key).digest()
    found = np.sort(np.frombuffer(drawn, "<u8")).astype(np.uint64)
    whole = hashlib.blake2b(found.astype("<u8").tobytes(), digest_size=16, key=key).hexdigest()
    return found[:1024], whole


def _joined(num_rows: int, columns: list[Digests]) -> Ints:
    """Return the entity of each row: the number of its first row (union-find)."""
    if not columns:
        return np.arange(num_rows, dtype=np.int64)
    parent = list(range(num_rows))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for column in columns:
        first, which = _grouped(column)
        shared = column.rows[first][which] != column.rows
        pairs = np.stack([column.rows[first][which][shared], column.rows[shared]], axis=1)
        for other, row in pairs.tolist():
            one, two = sorted((root(row), root(other)))
            parent[two] = one
    return np.array([root(row) for row in range(num_rows)], np.int64)


def _distinct(column: Digests, entities: Ints, shard_key: bytes) -> tuple[Values, int]:
    """Return the values of one entity each, and how many have several."""
    first, which = _grouped(column)
    whose = entities[column.rows]
    several = np.zeros(len(first), bool)
    several[which[whose != whose[first][which]]] = True
    kept = first[~several]
    digests = column.digests[kept]
    raw = digests.tobytes()
    places = np.empty(len(kept), np.uint32)
    for at in range(len(kept)):
        digest = raw[32 * at : 32 * at + 32]
        place = hashlib.blake2b(digest, digest_size=4, key=shard_key).digest()
        places[at] = int.from_bytes(place, "little")
    order = np.argsort(places, kind="stable")
    rows = column.rows[kept][order]
    return Values(digests[order], places[order], rows, entities[rows]), int(several.sum())


def _grouped(column: Digests) -> tuple[Ints, Ints]:
    """Return where each distinct digest is first, and which of them each one is."""
    whole = column.digests.view(np.dtype((np.void, 32))).reshape(-1)
    _, first, which = np.unique(whole, return_index=True, return_inverse=True)
    return first.astype(np.int64), which.reshape(-1).astype(np.int64)
