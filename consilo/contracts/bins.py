"""The bins in which a contract lets a column be counted: nobody who asks may choose others.

A number has ten of one width between the ends of its range, whole numbers of twenty values or fewer
one each; a category has one for each value that is allowed. Where a value is missing it is in a bin
of its own, the last. A contract is confirmed by people in the silo, so that whoever would have
other bins, to find single rows by them, needs another contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.codes import code_key
from consilo.contracts.contract import Column, Contract

if TYPE_CHECKING:
    import pandas as pd

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

NUM_BINS = 10
"""Of a number's range."""
_MOST_VALUES = 20
"""So many whole numbers have a bin each."""
_MOST_CODES = 200
_COUNTED = ("feature", "target")


@dataclass(frozen=True)
class Bins:
    """A column's bins.

    Args:
        column: its name.
        cuts: where one bin ends and the next begins, ascending, a value on a cut lies above it;
            empty for a category.
        values: the category's, as texts, in the contract's order; empty for a number.
    """

    column: str
    cuts: tuple[float, ...] = ()
    values: tuple[str, ...] = ()

    @property
    def is_ordered(self) -> bool:
        """Whether the bins are those of a number."""
        return not self.values

    @property
    def size(self) -> int:
        """How many there are, with that of what is missing."""
        return (len(self.values) if self.values else len(self.cuts) + 1) + 1

    def places(self, column: pd.Series[Any]) -> Ints:
        """Return each row's bin; what is missing, or no value of the contract's, is in the last."""
        missing = self.size - 1
        if self.values:
            known = {value: place for place, value in enumerate(self.values)}
            there = column.notna().to_numpy()
            cells = column.to_numpy(dtype=object)
            found = [
                known.get(code_key(cell), missing) if is_there else missing
                for cell, is_there in zip(cells, there, strict=True)
            ]
            return np.array(found, dtype=np.int64)
        numbers = column.to_numpy(dtype=np.float64, na_value=np.nan)
        places = np.searchsorted(np.array(self.cuts), numbers, side="right")
        return np.where(np.isnan(numbers), missing, places).astype(np.int64)


def bins_of(contract: Contract) -> tuple[Bins, ...]:
    """Return the bins of all columns that have some: features and targets, in order.

    Numbers without both ends of a range, dates and texts have none.
    """
    return tuple(_binned(contract))


def unbinned(contract: Contract) -> tuple[str, ...]:
    """Return which features and targets have no bins."""
    has = {each.column for each in _binned(contract)}
    return tuple(
        each.name for each in contract.table if each.role in _COUNTED and each.name not in has
    )


def _binned(contract: Contract) -> Iterator[Bins]:
    for column in contract.table:
        if column.role not in _COUNTED:
            continue
        classes = column.classes
        if classes and len(classes) <= _MOST_CODES:
            yield Bins(column.name, values=tuple(code_key(each) for each in classes))
        elif column.type in ("float", "integer"):
            cuts = _cuts(column)
            if cuts:
                yield Bins(column.name, cuts=cuts)


def _cuts(column: Column) -> tuple[float, ...]:
    span = column.range
    if span is None or span.min is None or span.max is None or isinstance(span.min, date):
        return ()
    low, high = float(span.min), float(span.max)  # type: ignore[arg-type]  # both are numbers
    if not low < high:
        return ()
    if column.type == "integer" and high - low < _MOST_VALUES:
        return tuple(float(each) for each in np.arange(np.ceil(low) + 1.0, high + 0.5))
    return tuple(float(each) for each in np.linspace(low, high, NUM_BINS + 1)[1:-1])
