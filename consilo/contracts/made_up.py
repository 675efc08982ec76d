"""Rows that nobody has, made of a contract: to try a job's own code before silos are asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.contract import Column, Contract

if TYPE_CHECKING:
    import pandas as pd


def made_up_frame(
    contract: Contract,
    *,
    numeric: Sequence[str],
    categories: Sequence[str],
    classes: Sequence[Any],
    target: str,
    num_rows: int,
) -> pd.DataFrame:
    """Return the rows of `made_up_columns` as a table, codes as the objects that they are."""
    import pandas as pd

    columns = made_up_columns(
        contract,
        numeric=numeric,
        categories=categories,
        classes=classes,
        target=target,
        num_rows=num_rows,
    )
    series = {name: pd.Series(values, dtype=values.dtype) for name, values in columns.items()}
    return pd.DataFrame(series, index=range(num_rows))


def made_up_columns(
    contract: Contract,
    *,
    numeric: Sequence[str],
    categories: Sequence[str],
    classes: Sequence[Any],
    target: str,
    num_rows: int,
) -> dict[str, np.ndarray[Any, Any]]:
    """Return rows that keep the contract's types, ranges and codes; the same each time.

    Numbers without a range are standard normal, or as far beyond the one end that there is.

    Args:
        contract: what the rows keep to.
        numeric: columns of numbers.
        categories: columns of codes.
        classes: of the target, each in turn; none where it is among the numbers.
        target: its column.
        num_rows: how many.

    Returns:
        Column → float64, or objects for codes and classes; shape (num_rows,).
    """
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {
        name: _values(contract.columns[name], num_rows, rng) for name in numeric
    }
    for name in categories:
        codes: Any = contract.columns[name].allowed
        made[name] = _of(codes, rng.integers(len(codes), size=num_rows))
    if classes:
        made[target] = _of(classes, np.arange(num_rows) % len(classes))
    return made


def _of(codes: Any, places: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    found = np.empty(len(places), object)
    found[:] = [codes[place] for place in places]
    return found


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
