"""Rows that nobody has, made of a contract: to try a job's own code before silos are asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from consilo.contracts.contract import Column, Contract
from consilo.horizontal.features import Encoding, Scale
from consilo.learners.plans import Arrays

_LEAST = 8
"""Rows; a class has two at least."""


def made_up(contract: Contract, encoding: Encoding, *, num_rows: int = _LEAST) -> Arrays:
    """Return rows that keep the contract's types, ranges and codes, encoded as a silo's are.

    The same contract gives the same rows. Numbers without a range are standard normal, or as far
    beyond the one end that there is; every class of the target is there twice or more.

    Args:
        contract: what the rows keep to.
        encoding: how they become inputs and targets.
        num_rows: at least.
    """
    import pandas as pd

    rng = np.random.default_rng(0)
    size = max(num_rows, 2 * len(encoding.classes), 2)
    frame: dict[str, Any] = {}
    for name in (*encoding.numeric, *encoding.targets):
        frame[name] = _values(contract.columns[name], size, rng)
    for name in encoding.categories:
        codes: Any = contract.columns[name].allowed
        frame[name] = _of(codes, rng.integers(len(codes), size=size))
    if encoding.classes:
        frame[encoding.targets[0]] = _of(encoding.classes, np.arange(size) % len(encoding.classes))
    table = pd.DataFrame(frame, index=range(size))
    raw = encoding.raw_numeric(table)
    scale = Scale.of_moments(raw.mean(axis=0), raw.var(axis=0)) if raw.size else Scale.unit(0)
    return Arrays(encoding.features(table, scale), encoding.target(table))


def _of(codes: Any, places: np.ndarray[Any, Any]) -> Any:
    import pandas as pd

    return pd.Series([codes[place] for place in places], dtype=object)


def _values(column: Column, size: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    if column.type == "boolean":
        return rng.integers(2, size=size).astype(np.float64)
    if column.allowed and all(isinstance(each, int | float) for each in column.allowed):
        return rng.choice(np.array(column.allowed, np.float64), size=size)
    bounds = column.range
    low, high = (None, None) if bounds is None else (bounds.min, bounds.max)
    spread = rng.standard_normal(size)
    if isinstance(low, int | float) and isinstance(high, int | float):
        spread = low + (high - low) * rng.random(size)
    elif isinstance(low, int | float):
        spread = low + np.abs(spread)
    elif isinstance(high, int | float):
        spread = high - np.abs(spread)
    return np.round(spread) if column.type == "integer" else spread
