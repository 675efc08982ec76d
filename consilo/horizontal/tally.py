"""The reply field of a model's figures of merit: sums over held-out rows, never rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.kernel.verbs import Disclosure, Field, FromRows, check_arrays
from consilo.metrics import MOST_CLASSES, NOISE, NUM_BINS, is_noisy


def tally(*, rows: FromRows = FromRows.EXACT) -> Field:
    """Sums over held-out rows from which `consilo.metrics` computes figures of merit.

    Args:
        rows: how exact they are.
    """
    return Field(Disclosure.METRIC, _check, optional=True, rows=rows, held_out=True)


def _is_number(shape: tuple[int, ...]) -> bool:
    return shape == ()


def _is_histogram(shape: tuple[int, ...]) -> bool:
    return shape == (NUM_BINS,)


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and shape[0] == shape[1] <= MOST_CLASSES


def _is_histogram_of_each(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[0] <= MOST_CLASSES and shape[1:] == (2, NUM_BINS)


_SHAPES = {
    "scores_0": _is_histogram,
    "scores_1": _is_histogram,
    "confusion": _is_matrix,
    "scores_each": _is_histogram_of_each,
}
"""Entries that are arrays, all of them counts of rows; every other is one number."""
_WHOLE = ("n", "values", "correct", "predicted_1")


def _check(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    check_arrays(name, value, payload)
    noisy = is_noisy(value)
    for key, item in value.items():
        if not _SHAPES.get(key, _is_number)(item.shape):
            raise ReplyInvalid(f"{name}: '{key[:40]}' has the shape {list(item.shape)}")
        if noisy and key not in ("n", "values") and not key.startswith(NOISE):
            continue
        signed = key == "target_sum" or key.startswith(("metric_sum/", "own_sum/"))
        whole = key in _WHOLE or key in _SHAPES
        if (not signed and (item < 0).any()) or (whole and (item != np.floor(item)).any()):
            raise ReplyInvalid(f"{name}: '{key[:40]}' is no sum over rows")
