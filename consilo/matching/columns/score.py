"""One score for two columns: the weighted mean of what names, codes, words, kinds and values say.

The weights are fixed. They were found on the five GDC studies, each time on four and tried on the
fifth (`benchmarks/feature_match.py` repeats that); ``docs/vertical.md`` has the figures. A score is
no probability: it orders candidates for a person.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from consilo.matching.columns.cards import Card, Histograms
from consilo.matching.columns.signals import by_codes, by_kind, by_name, by_text, by_values
from consilo.matching.columns.words import Floats

WEIGHTS: Mapping[str, float] = {"name": 1.0, "codes": 1.0, "text": 0.25, "kind": 0.3}
"""What each sign weighs; a sign that a pair does not have counts as 0."""
VALUES = 0.5
"""What histograms weigh, for the pairs that have them on both sides."""
LEAST = 0.3
"""Below this nothing is proposed: the kinds agree, and hardly a word does."""
_SHOWN = 0.15
"""Below this a candidate is not worth a look."""


@dataclass(frozen=True)
class Candidate:
    """A column of the other side that may mean the same.

    Args:
        key: which.
        score: from 0 to 1.
        signs: what each sign says by itself.
    """

    key: str
    score: float
    signs: Mapping[str, float]


@dataclass(frozen=True)
class Proposed:
    """What is proposed for one column.

    Args:
        key: of the column.
        chosen: the candidate of the assignment that is best altogether; None where nothing fits.
        candidates: the best ones, the best first, whoever else may want them.
        label: whether either side says that it is a label.
    """

    key: str
    chosen: str | None
    candidates: tuple[Candidate, ...]
    label: bool = False


def signs(ones: Sequence[Card], others: Sequence[Card]) -> dict[str, Floats]:
    """Return each sign's matrix (one side, other side)."""
    return {
        "name": by_name(ones, others),
        "codes": by_codes(ones, others),
        "text": by_text(ones, others),
        "kind": by_kind(ones, others),
    }


def combined(by_sign: Mapping[str, Floats], weights: Mapping[str, float] = WEIGHTS) -> Floats:
    """Return the weighted mean of the signs."""
    total = sum(weights.values())
    return np.asarray(sum(weights[name] * by_sign[name] for name in weights) / total)


def with_values(
    scores: Floats, ones: Sequence[Card], others: Sequence[Card], first: Histograms,
    second: Histograms,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Return the scores with what histograms say of them, and what those say alone."""
    likeness, known = by_values(ones, others, first, second)
    share = VALUES / (VALUES + sum(WEIGHTS.values()))
    return scores + known * share * (likeness - scores), likeness


def propose(
    ones: Sequence[Card],
    others: Sequence[Card],
    *,
    top: int = 10,
    first: Histograms | None = None,
    second: Histograms | None = None,
) -> list[Proposed]:
    """Return, for each column of ``ones``, the best of ``others``.

    Args:
        ones: the columns of one side.
        others: those of the other side.
        top: how many candidates a column gets.
        first: noisy histograms of ``ones``.
        second: those of ``others``.
    """
    from scipy.optimize import linear_sum_assignment

    if not ones or not others:
        return [Proposed(each.key, None, (), each.label) for each in ones]
    by_sign = signs(ones, others)
    scores = combined(by_sign)
    if first and second:
        scores, by_sign["values"] = with_values(scores, ones, others, first, second)
    keys = [each.key for each in others]
    # Ties are broken by name, so that the order of columns changes nothing.
    rank = np.argsort(np.argsort(keys, kind="stable"), kind="stable")
    rows, columns = linear_sum_assignment(-_settled(scores, [each.key for each in ones], keys))
    chosen = {
        int(row): int(column)
        for row, column in zip(rows, columns, strict=True)
        if scores[row, column] >= LEAST
    }
    proposed = []
    for row, card in enumerate(ones):
        best = np.lexsort((rank, -np.round(scores[row], 9)))[:top]
        candidates = tuple(
            Candidate(
                keys[index],
                round(float(scores[row, index]), 4),
                {name: round(float(each[row, index]), 4) for name, each in by_sign.items()},
            )
            for index in best
            if scores[row, index] >= _SHOWN
        )
        picked = chosen.get(row)
        label = card.label or (picked is not None and others[picked].label)
        proposed.append(
            Proposed(card.key, None if picked is None else keys[picked], candidates, label)
        )
    return proposed


def _settled(scores: Floats, ones: Sequence[str], others: Sequence[str]) -> Floats:
    """Return scores in which the assignment is unique: a hair more for what comes first by name."""
    size = max(len(ones), len(others))
    first = np.argsort(np.argsort(ones, kind="stable"), kind="stable")
    second = np.argsort(np.argsort(others, kind="stable"), kind="stable")
    ranks = np.outer(first + 1, second + 1)
    return np.asarray(np.round(scores, 9) - 1e-10 * ranks / size**2)
