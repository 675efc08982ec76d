"""Whose rows a silo's rows are, where a job hides subjects: each subject counts as one.

Of a subject at most ``max_rows_per_subject`` rows are used, those with the smallest pseudo-random
numbers by a key of the silo, so that which they are depends on that subject's rows only. Its n rows
then weigh 1/n each.

That is why nothing else has to change for sums: what a subject adds is a mean of what its rows
would add, and a mean of vectors within a ball lies within the ball. A subject, there or not, moves
a weighted sum by no more than a row moves the plain one, and the same noise hides it. The number of
subjects takes the place of the number of rows wherever that is public.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from consilo.horizontal.holdout import Words

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subjects:
    """Whose rows some rows are.

    Args:
        codes: of each row its subject, from 0 in the order in which subjects appear.
    """

    codes: Ints

    @classmethod
    def of(cls, numbers: npt.NDArray[Any]) -> Subjects:
        """Return the subjects of rows that share a number where they share a subject."""
        _, first, place = np.unique(numbers, return_index=True, return_inverse=True)
        order = np.empty(len(first), np.int64)
        order[np.argsort(first)] = np.arange(len(first))
        return cls(order[place.reshape(-1)])

    @property
    def count(self) -> int:
        """How many subjects there are; public."""
        return int(self.codes.max()) + 1 if len(self.codes) else 0

    @property
    def sizes(self) -> Ints:
        """How many rows each subject has: (count,), 1 or more."""
        return np.bincount(self.codes, minlength=self.count)

    @property
    def weights(self) -> Floats:
        """What each row weighs: (rows,), those of one subject 1 together."""
        weights: Floats = 1.0 / self.sizes[self.codes]
        return weights


def at_most(places: Ints, subjects: Words, rows: Words, most: int) -> Ints:
    """Return the places of which no subject has more than ``most``; in the order that they had.

    Args:
        places: of some rows.
        subjects: of every row, the number of its subject.
        rows: of every row, its own pseudo-random number; the smallest are kept.
        most: rows of a subject.
    """
    order = np.lexsort((rows[places], subjects[places]))  # stable: equal rows keep their order
    whose = subjects[places][order]
    starts = np.flatnonzero(np.concatenate([[True], whose[1:] != whose[:-1]])[: len(whose)])
    sizes = np.diff(np.append(starts, len(whose)))
    rank = np.arange(len(whose)) - np.repeat(starts, sizes)
    kept: Ints = places[np.sort(order[rank < most])]
    return kept
