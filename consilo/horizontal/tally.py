"""The reply field of a model's figures of merit: sums over held-out rows, never rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.kernel.verbs import Disclosure, Field, FromRows, check_arrays
from consilo.metrics import NOISE, NUM_BINS, is_noisy


def tally(*, rows: FromRows = FromRows.EXACT) -> Field:
    """Sums over held-out rows from which `consilo.metrics` computes figures of merit.

    Args:
        rows: how exact they are.
    """
    return Field(Disclosure.METRIC, _check, optional=True, rows=rows, held_out=True)


def _check(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    check_arrays(name, value, payload)
    noisy = is_noisy(value)
    for key, item in value.items():
        if item.shape != ((NUM_BINS,) if key in ("scores_0", "scores_1") else ()):
            raise ReplyInvalid(f"{name}: '{key[:40]}' has the shape {list(item.shape)}")
        if noisy and key not in ("n", "values") and not key.startswith(NOISE):
            continue
        signed = key == "target_sum" or key.startswith("metric_sum/")
        whole = key in ("n", "values", "correct")
        if (not signed and (item < 0).any()) or (whole and item != np.floor(item)):
            raise ReplyInvalid(f"{name}: '{key[:40]}' is no sum over rows")
