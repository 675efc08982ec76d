"""The reply field of a model's figures of merit: sums over held-out rows, never rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from consilo.errors import ReplyInvalid
from consilo.kernel.verbs import Disclosure, Field, check_arrays
from consilo.metrics import NUM_BINS


def tally(disclosure: Disclosure = Disclosure.STATISTIC) -> Field:
    """Sums over rows from which `consilo.metrics` computes figures of merit."""
    return Field(disclosure, _check)


def _check(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    check_arrays(name, value, payload)
    for key, item in value.items():
        if item.shape != ((NUM_BINS,) if key in ("scores_0", "scores_1") else ()):
            raise ReplyInvalid(f"{name}: '{key[:40]}' has the shape {list(item.shape)}")
        signed = key == "target_sum" or key.startswith("metric_sum/")
        whole = key in ("n", "values", "correct")
        if (not signed and (item < 0).any()) or (whole and item != np.floor(item)):
            raise ReplyInvalid(f"{name}: '{key[:40]}' is no sum over rows")
