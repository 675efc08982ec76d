"""How alike two column names are: abbreviations, order, case and endings aside."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from rapidfuzz import fuzz
from rapidfuzz.distance import JaroWinkler

from consilo.contracts.contract import Column
from consilo.matching.columns.words import is_generated, words

__all__ = ["is_generated", "likeness", "words"]

_DESCRIBED = 0.85
"""A description says less surely than a name what a column is."""


def likeness(local: str, column: Column) -> float:
    """Return how well a local name fits a contract's column, from 0 to 1.

    Compared with the column's name, its synonyms and, for less, its description.
    """
    if is_generated(local):
        return 0.0
    named = max(_alike(local, name) for name in (column.name, *column.synonyms))
    described = _contained(words(local), words(column.description)) if column.description else 0.0
    return max(named, _DESCRIBED * described)


def _alike(one: str, other: str) -> float:
    if one == other:
        return 1.0
    if words(one) == words(other) or "".join(words(one)) == "".join(words(other)):
        return 0.99
    first, second = words(one), words(other)
    sorted_text = fuzz.token_sort_ratio(" ".join(first), " ".join(second)) / 100
    aligned = (_contained(first, second) + _contained(second, first)) / 2
    return 0.98 * max(aligned, sorted_text)


def _contained(some: Sequence[str], others: Sequence[str]) -> float:
    """Return how well each of ``some`` is found among ``others``, long words counting more."""
    if not some or not others:
        return 0.0
    weights = [min(len(word), 6) for word in some]
    fits = [max(_same_word(word, other) for other in others) for word in some]
    return sum(w * f for w, f in zip(weights, fits, strict=True)) / sum(weights)


@cache
def _same_word(one: str, other: str) -> float:
    if one == other:
        return 1.0
    short, long = sorted((one, other), key=len)
    if len(short) >= 3 and long.startswith(short):
        return 0.9
    if len(short) == 1 or short.isdigit() or long.isdigit():
        return 0.0
    near = float(JaroWinkler.similarity(one, other))
    # Below this, two words share letters and nothing else.
    return near if near >= 0.82 else 0.0
