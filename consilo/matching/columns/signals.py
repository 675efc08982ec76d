"""How alike the columns of two tables are, by one sign at a time: matrices of shares.

Every function takes the cards of both sides and returns a matrix (one side, other side) from 0 to
1, and with the sides changed its transpose. What many columns say counts for less everywhere (the
inverse document frequency, over the columns of both sides): ``tumor`` in an oncology standard,
``yes`` among codes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from consilo.matching.columns.cards import Card, Histograms, edges
from consilo.matching.columns.words import Floats, is_generated, stem, word_likeness, words

_NO_ANSWER = frozenset(
    ("", "na", "n/a", "nan", "none", "null", "other", "unknown", "unspecified", "missing")
) | {"not reported", "not available", "not applicable", "not evaluated", "not collected"}
"""Codes that any column may have, so that they say nothing of what it means."""
_CODE_DOUBT = 2.0
"""Evidence that a code list must bring to count half: one shared ``yes`` proves little."""
_SAME_CODE = 0.35
"""Below this, two codes share letters and nothing else."""
_CODES_READ = 80
_DESCRIBED = 0.85
"""A description says less surely than a name what a column is."""
_NUMERIC = frozenset({"float", "integer"})
_POWER = re.compile(r"(?<![A-Za-z0-9_])([A-Za-zµ]+)([23])(?![A-Za-z0-9_])")
"""``mm2``: pint writes it ``mm**2``."""


def by_name(ones: Sequence[Card], others: Sequence[Card]) -> Floats:
    """Compare names word by word; the best synonym counts, and a name found in a description."""
    first, second = _named(ones), _named(others)
    told = [words(card.description) for card in (*ones, *others)]
    spelled = [*(text for _, text in first), *(text for _, text in second)]
    vocabulary = sorted({word for each in (*spelled, *told) for word in each})
    if not vocabulary:
        return np.zeros((len(ones), len(others)))
    place = {word: index for index, word in enumerate(vocabulary)}
    weights = _rarity(spelled, vocabulary)
    alike = word_likeness(vocabulary)

    def near(texts: Sequence[Sequence[str]]) -> Floats:
        nearness = np.zeros((len(texts), len(vocabulary)))
        for row, text in enumerate(texts):
            if text:
                nearness[row] = alike[[place[word] for word in text]].max(axis=0)
        return nearness

    def held(texts: Sequence[Sequence[str]]) -> Floats:
        rarities = np.zeros((len(texts), len(vocabulary)))
        for row, text in enumerate(texts):
            columns = [place[word] for word in text]
            rarities[row, columns] = weights[columns]
        return rarities

    texts = [text for _, text in first], [text for _, text in second]
    held_first, held_second = held(texts[0]), held(texts[1])
    overlaps = held_first @ near(texts[1]).T, near(texts[0]) @ held_second.T
    sizes = held_first.sum(axis=1)[:, None], held_second.sum(axis=1)[None, :]
    covered = [_share(each, size) for each, size in zip(overlaps, sizes, strict=True)]
    both = (overlaps[0] + overlaps[1]) / np.maximum(sizes[0] + sizes[1], 1e-12)
    larger, smaller = np.maximum(*covered), np.minimum(*covered)
    scores = 0.5 * both + 0.5 * larger * np.minimum(1.0, 0.5 + smaller)
    best = _best(scores, first, second, (len(ones), len(others)))
    described = (
        _best(
            _share(held_first @ near(told[len(ones) :]).T, sizes[0]),
            first,
            list(enumerate(told[len(ones) :])),
            best.shape,
        ),
        _best(
            _share(near(told[: len(ones)]) @ held_second.T, sizes[1]),
            list(enumerate(told[: len(ones)])),
            second,
            best.shape,
        ),
    )
    return np.asarray(np.maximum(best, _DESCRIBED * np.maximum(*described)))


def by_codes(ones: Sequence[Card], others: Sequence[Card]) -> Floats:
    """Compare code lists: how much of one is found in the other, spelled alike."""
    first, second = [_codes(card) for card in ones], [_codes(card) for card in others]
    likeness = np.zeros((len(ones), len(others)))
    vocabulary = sorted({code for each in (*first, *second) for code in each})
    if not vocabulary or not any(first) or not any(second):
        return likeness
    vectors = _tfidf(vocabulary, analyzer="char_wb", ngram_range=(1, 4))
    weights = _rarity([*first, *second], vocabulary)
    place = {code: index for index, code in enumerate(vocabulary)}
    rows = [[place[code] for code in each] for each in first]
    columns = [[place[code] for code in each] for each in second]
    for row, mine in enumerate(rows):
        if not mine:
            continue
        alike = (vectors[mine] @ vectors.T).toarray()
        alike[alike < _SAME_CODE] = 0.0
        for column, theirs in enumerate(columns):
            if not theirs:
                continue
            block = alike[:, theirs]
            shares = (
                (weights[mine] * block.max(axis=1)).sum() / (weights[mine].sum() + _CODE_DOUBT),
                (weights[theirs] * block.max(axis=0)).sum() / (weights[theirs].sum() + _CODE_DOUBT),
            )
            likeness[row, column] = max(shares)  # one study uses few of a standard's codes
    return np.minimum(likeness, 1.0)


def by_text(ones: Sequence[Card], others: Sequence[Card]) -> Floats:
    """Compare all words of name, description and codes together (TF-IDF, cosine)."""
    texts = [_text(card) for card in (*ones, *others)]
    if not any(texts):
        return np.zeros((len(ones), len(others)))
    vectors = _tfidf(texts, token_pattern=r"\S+")
    return np.asarray((vectors[: len(ones)] @ vectors[len(ones) :].T).toarray())


def by_kind(ones: Sequence[Card], others: Sequence[Card]) -> Floats:
    """Compare what columns hold: numbers or codes, in units of one dimension or not."""
    return np.array([[_kinds(one, other) for other in others] for one in ones], np.float64).reshape(
        len(ones), len(others)
    )


def by_values(
    ones: Sequence[Card],
    others: Sequence[Card],
    first: Histograms,
    second: Histograms,
) -> tuple[Floats, Floats]:
    """Compare noisy histograms; return the likeness, and 1 where both sides have one, else 0.

    The likeness of numbers is 1 less the largest distance of the cumulative shares (Kolmogorov and
    Smirnov's); of codes it is the shared part of the shares.
    """
    scores, known = np.zeros((2, len(ones), len(others)))
    for row, one in enumerate(ones):
        for column, other in enumerate(others):
            if one.key in first and other.key in second:
                likeness = _overlap(one, first[one.key], other, second[other.key])
                if likeness is not None:
                    scores[row, column], known[row, column] = likeness, 1.0
    return scores, known


def _overlap(one: Card, mine: Floats, other: Card, theirs: Floats) -> float | None:
    if mine.sum() <= 0 or theirs.sum() <= 0:
        return None
    if one.range is not None and other.range is not None:
        at = np.union1d(edges(one.range), edges(other.range))
        shares = [
            np.interp(at, edges(span), np.concatenate([[0.0], np.cumsum(counts)]) / counts.sum())
            for span, counts in ((one.range, mine), (other.range, theirs))
        ]
        return float(1.0 - np.abs(shares[0] - shares[1]).max())
    if one.range is None and other.range is None:
        first = dict(zip(map(_code, one.codes), mine / mine.sum(), strict=True))
        second = dict(zip(map(_code, other.codes), theirs / theirs.sum(), strict=True))
        return float(sum(min(first[code], second[code]) for code in first.keys() & second.keys()))
    return None


def _named(cards: Sequence[Card]) -> list[tuple[int, tuple[str, ...]]]:
    return [
        (row, tuple(dict.fromkeys(words(name))) if not is_generated(name) else ())
        for row, card in enumerate(cards)
        for name in (card.name, *card.synonyms)
    ]


def _best(
    scores: Floats,
    first: Sequence[tuple[int, Sequence[str]]],
    second: Sequence[tuple[int, Sequence[str]]],
    shape: tuple[int, ...],
) -> Floats:
    """Return for each pair of columns the best of its names."""
    best = np.zeros(shape)
    rows = np.array([row for row, _ in first])[:, None]
    columns = np.array([column for column, _ in second])[None, :]
    np.maximum.at(best, (rows, columns), scores)
    return np.asarray(np.clip(best, 0.0, 1.0))


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(
        part, whole, out=np.zeros_like(part), where=np.broadcast_to(whole > 0, part.shape)
    )


def _rarity(texts: Sequence[Sequence[str]], vocabulary: Sequence[str]) -> Floats:
    counts = Counter(word for text in texts for word in set(text))
    return np.array([np.log(1 + len(texts) / (counts[word] + 1)) for word in vocabulary])


def _tfidf(texts: Sequence[str], **settings: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, **settings).fit_transform(texts)


def _code(code: str) -> str:
    return " ".join(code.replace("_", " ").lower().split())


def _codes(card: Card) -> list[str]:
    """Return the codes that say something, remarks in brackets aside."""
    if card.type in _NUMERIC:
        return []
    cleaned = (re.sub(r"\(.*?\)", " ", code).strip() or code for code in map(_code, card.codes))
    return sorted({c for c in cleaned if c not in _NO_ANSWER and not re.fullmatch(r"[\d.]+", c)})


def _text(card: Card) -> str:
    terms = [*words(card.name) * 3, *words(card.description)]
    terms += [word for code in sorted(_codes(card))[:_CODES_READ] for word in words(code)]
    return " ".join(stem(word) for word in terms)


def _kinds(one: Card, other: Card) -> float:
    if one.unit and other.unit and one.type in _NUMERIC and other.type in _NUMERIC:
        return 1.0 if _one_dimension(one.unit, other.unit) else 0.2
    numeric = [card.type in _NUMERIC for card in (one, other)]
    typed = [card.type is not None for card in (one, other)]
    if all(typed):
        if one.type == other.type or all(numeric):
            return 1.0
        return 0.25 if any(numeric) or "date" in (one.type, other.type) else 0.8
    # Who lists no codes and names no type may hold anything, codes less likely than numbers.
    coded = any(
        card.codes and not number for card, number in zip((one, other), numeric, strict=True)
    )
    return 0.35 if coded else 0.9 if any(numeric) else 0.6


@cache
def _one_dimension(one: str, other: str) -> bool:
    if one == other:
        return True
    import pint

    registry = pint.get_application_registry()
    first, second = (_POWER.sub(r"\1**\2", unit) for unit in (one, other))
    try:
        return bool(registry.Unit(first).is_compatible_with(second))
    except Exception:  # pint: a unit that it does not know
        return False
