"""A silo that lies: its node signs updates that are not finite, or far too large.

The node is started with it as ``--answerer``, in place of the honest one. What it changes is what
leaves, after all that an honest silo would check, as whoever has taken over an organisation's
machine can.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from consilo.protocols import dispatch
from consilo.protocols.dispatch import Elsewhere
from consilo.wire.parcel import Answer
from consilo.wire.payload import pack
from silos.silo import answerer

UPDATES = ("delta", "update", "updates", "gradient", "params", "sealed")
"""Names of reply fields that hold what the model is changed by."""


def not_finite(
    silo_dir: Path, bundle_dir: Path | None = None, elsewhere: Elsewhere | None = None
) -> Answer:
    """Return what answers for a silo whose updates hold no number."""
    return _lying(float("nan"), silo_dir, bundle_dir, elsewhere)


def exploding(
    silo_dir: Path, bundle_dir: Path | None = None, elsewhere: Elsewhere | None = None
) -> Answer:
    """Return what answers for a silo whose updates are 1e30 times too large."""
    return _lying(1e30, silo_dir, bundle_dir, elsewhere)


def _lying(
    factor: float, silo_dir: Path, bundle_dir: Path | None, elsewhere: Elsewhere | None
) -> Answer:
    @functools.wraps(pack)
    def poisoned(fields: Any) -> Any:
        return pack({n: _times(v, factor) if n in UPDATES else v for n, v in fields.items()})

    vars(dispatch)["pack"] = poisoned  # of this process, which answers one message and ends
    return answerer(silo_dir, bundle_dir, elsewhere)


def _times(value: Any, factor: float) -> Any:
    if isinstance(value, Mapping):
        return {name: _times(each, factor) for name, each in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            return (value * value.dtype.type(factor)).astype(value.dtype)
    return value
