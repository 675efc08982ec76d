"""Matches by several keys → one to one: stronger keys first, what is ambiguous is not matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Edges:
    """What matched by one key.

    Args:
        left: int64, [matches]: entities of this side.
        right: int64, [matches]: entities of the other side.
    """

    left: Ints
    right: Ints


@dataclass(frozen=True)
class Pairs:
    """The pairs that stand: each entity of either side in one at most.

    Args:
        left: int64, [pairs].
        right: int64, [pairs].
        key: int64, [pairs]: the strongest key that matched them.
        edge: int64, [pairs]: which match of that key it was.
    """

    left: Ints
    right: Ints
    key: Ints
    edge: Ints


def one_to_one(keys: Sequence[Edges]) -> Pairs:
    """Return the pairs that matches by keys, the strongest first, leave standing.

    By each key in turn: who is in a pair already is out; of the others, those who match exactly one
    entity that matches nobody else make a pair.

    >>> first, second = Edges(np.array([0, 1, 1]), np.array([5, 6, 7])), Edges(
    ...     np.array([0, 1, 2]), np.array([8, 6, 9]))
    >>> pairs = one_to_one([first, second])
    >>> pairs.left.tolist(), pairs.right.tolist(), pairs.key.tolist()
    ([0, 1, 2], [5, 6, 9], [0, 1, 1])
    """
    found: list[tuple[Ints, ...]] = []
    lefts, rights = _none(), _none()
    for number, edges in enumerate(keys):
        free = ~(np.isin(edges.left, lefts) | np.isin(edges.right, rights))
        places = np.flatnonzero(free)
        couples, first = np.unique(
            np.stack([edges.left[places], edges.right[places]]), axis=1, return_index=True
        )
        alone = _alone(couples[0]) & _alone(couples[1])
        left, right, edge = couples[0][alone], couples[1][alone], places[first[alone]]
        lefts, rights = np.concatenate([lefts, left]), np.concatenate([rights, right])
        found.append((left, right, np.full(len(left), number, np.int64), edge))
    return Pairs(*(np.concatenate(parts).astype(np.int64) for parts in zip(*found, strict=True)))


def _alone(names: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return which entries occur once."""
    _, where, counts = np.unique(names, return_inverse=True, return_counts=True)
    alone: np.ndarray[Any, Any] = counts[where.reshape(-1)] == 1
    return alone


def _none() -> Ints:
    return np.empty(0, np.int64)
