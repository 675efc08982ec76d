"""Sums over rows whose L2 sensitivity is known: what private statistics add their noise to.

Each row is clipped to the contract's ranges and scaled to u in [-1, 1]. Per numeric column it adds
``(0, u, u**2 - 1/2)``, or ``(1, 0, 0)`` where the value is missing; per class of the target 1 or 0.
One row, added or removed, so changes the vector of all sums by an L2 norm of at most
``sqrt(5/4 * columns + 1)``, without a target's classes ``sqrt(5/4 * columns)``: a column's three
numbers have a squared norm of ``u**2 + (u**2 - 1/2)**2 <= 5/4``, or 1. The shift by 1/2 halves the
largest ``u**2``, and counting what is missing costs nothing where nothing is.

Where subjects are hidden, the n rows of one weigh 1/n each: what it adds is a mean of what its rows
would add, and so lies within the same ball. One subject, added or removed, moves the weighted sums
by the same L2 norm at most, and their number is public in place of that of the rows.

The number of rows is public. Everything that `Sums.moments` makes of noisy sums is post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from consilo.privacy.noise import SecretStream, add_gaussian, noise_std

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class Sums:
    """Sums over the rows of a table.

    Args:
        missing: per column, how many values are missing.
        first: per column, the sum of u.
        second: per column, the sum of u**2 - 1/2 over the values that are there.
        classes: rows per class; empty without.
        rows: how many there are, or how many subjects; public.
        low: per column, the least value.
        high: per column, the largest value.
    """

    missing: Floats
    first: Floats
    second: Floats
    classes: Floats
    rows: int
    low: Floats
    high: Floats

    @classmethod
    def of(
        cls,
        values: Floats,
        *,
        low: Floats,
        high: Floats,
        codes: np.ndarray[Any, Any] | None = None,
        num_classes: int = 0,
        weights: Floats | None = None,
        rows: int | None = None,
    ) -> Sums:
        """Return the sums over the rows of ``values``.

        Args:
            values: (rows, columns); NaN is missing; what lies outside the range counts as its end.
            low: one per column.
            high: one per column.
            codes: one per row: the number of its class, from 0.
            num_classes: how many there are.
            weights: what each row counts, those of one subject 1 together; None is 1 each.
            rows: how many are public; by default those of ``values``.
        """
        center, half = _scale(low, high)
        there = ~np.isnan(values)
        scaled = np.where(there, (np.clip(values, low, high) - center) / half, 0.0)
        parts = [(~there).astype(np.float64), scaled, np.where(there, scaled**2 - 0.5, 0.0)]
        if weights is not None:
            parts = [each * weights[:, None] for each in parts]
        missing, first, second = (each.sum(axis=0) for each in parts)
        counts = (
            np.zeros(num_classes)
            if codes is None
            else np.bincount(codes, weights=weights, minlength=num_classes)
        )
        return cls(
            missing=missing,
            first=first,
            second=second,
            classes=counts.astype(np.float64),
            rows=len(values) if rows is None else rows,
            low=low,
            high=high,
        )

    def plus(self, other: Sums) -> Sums:
        """Return the sums over the rows of both."""
        return Sums(
            self.missing + other.missing,
            self.first + other.first,
            self.second + other.second,
            self.classes + other.classes,
            self.rows + other.rows,
            self.low,
            self.high,
        )

    @property
    def vector(self) -> Floats:
        """All sums in a fixed order."""
        return np.concatenate([self.missing, self.first, self.second, self.classes])

    @property
    def sensitivity(self) -> float:
        """Most that one row, or one subject, added or removed, changes `vector`: L2 norm."""
        return math.sqrt(1.25 * len(self.first) + (1.0 if len(self.classes) else 0.0))

    def noisy(self, sigma: float, stream: SecretStream) -> Sums:
        """Return the sums with Gaussian noise of ``sigma`` times the sensitivity on each."""
        exact = self.vector
        std = noise_std(sigma, sensitivity=self.sensitivity, size=exact.size)
        found = add_gaussian(exact, std, stream)
        columns = len(self.first)
        missing, first, second, classes = np.split(found, [columns, 2 * columns, 3 * columns])
        return Sums(missing, first, second, classes, self.rows, self.low, self.high)

    def moments(self) -> tuple[Floats, Floats, Floats]:
        """Return count, mean and sum of squared deviations per column, in the columns' units.

        Noise is kept from making them impossible: a count lies between 0 and the number of rows, a
        mean within the range, a variance between 0 and what the range allows.
        """
        center, half = (self.low + self.high) / 2.0, (self.high - self.low) / 2.0
        count = np.clip(np.rint(self.rows - self.missing), 0.0, float(self.rows))
        safe = np.maximum(count, 1.0)
        mean = np.clip(self.first / safe, -1.0, 1.0)
        square = np.clip(self.second / safe + 0.5, mean**2, 1.0)
        known = count > 0
        m2 = np.where(known, count * (square - mean**2) * half**2, 0.0)
        return count, np.where(known, center + half * mean, 0.0), m2

    def class_counts(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the rows per class as whole numbers, 0 or more."""
        return np.clip(np.rint(self.classes), 0, None).astype(np.int64)


def noisy_histogram(
    counts: dict[str, Floats], sigma: float, stream: SecretStream
) -> dict[str, Floats]:
    """Return counts per bin with Gaussian noise, whole and 0 or more.

    Args:
        counts: column → counts of rows per bin; a row is in at most one bin of each column, so
            that one row, or one subject whose rows weigh 1 together, changes all of them by an L2
            norm of at most the root of their number.
        sigma: noise multiplier.
        stream: advanced by the numbers that were used.
    """
    size = sum(each.size for each in counts.values())
    std = noise_std(sigma, sensitivity=math.sqrt(len(counts)), size=size)
    return {
        name: np.maximum(np.rint(add_gaussian(each, std, stream)), 0.0)
        for name, each in counts.items()
    }


def _scale(low: Floats, high: Floats) -> tuple[Floats, Floats]:
    return (low + high) / 2.0, np.where(high > low, (high - low) / 2.0, 1.0)
