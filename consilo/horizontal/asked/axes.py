"""The cells that a contract declares, and in which of them a row is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from consilo.contracts.analytics import VALUES, limits_of
from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob
from consilo.horizontal.features import class_codes
from consilo.wire.payload import digest

if TYPE_CHECKING:
    import pandas as pd

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kind = Literal["group", "bins", "values", "time"]


@dataclass(frozen=True)
class Axis:
    """One column's cells, in order; behind them stands one more: of rows without a value.

    Args:
        name: of the column.
        kind: a group's values, bins of numbers, values in order, or steps of time.
        ends: of the bins, or the grid; empty for values.
        values: of a group, or of bins that are values; empty for numbers.
    """

    name: str
    kind: Kind
    ends: tuple[float, ...] = ()
    values: tuple[Any, ...] = ()

    @property
    def size(self) -> int:
        """How many cells there are; a grid has one more, of what lies after it."""
        return len(self.values) if self.values else len(self.ends) - (self.kind != "time")

    @property
    def is_ordered(self) -> bool:
        """Whether only cells beside each other may become one: all but a group's."""
        return self.kind != "group"

    @property
    def is_number(self) -> bool:
        """Whether sums over its values mean something."""
        return self.kind == "bins"

    def codes(self, frame: pd.DataFrame) -> Ints:
        """Return in which cell each row is, `size` where it has no value: (rows,)."""
        if self.values:
            found = class_codes(frame[self.name].to_numpy(object), self.values)
            return np.where(found < 0, self.size, found)
        values = numbers(frame, self.name)
        if self.kind == "time":  # (before, at]: what happened in between counts as the later end
            places = np.searchsorted(np.array(self.ends[1:]), values, side="left")
        else:
            places = np.searchsorted(np.array(self.ends[1:-1]), values, side="right")
        return np.where(np.isnan(values), self.size, places).astype(np.int64)

    def label(self, cells: Sequence[int]) -> str:
        """Return what one or more cells are called together."""
        if self.values:
            return " or ".join(_said(self.values[each]) for each in cells)
        low, high = min(cells), max(cells)
        if self.kind == "time" and high == self.size - 1:
            return f"after {self.ends[low]:g}"
        return f"{self.ends[low]:g} to {self.ends[high + 1]:g}"


def _said(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def numbers(frame: pd.DataFrame, name: str) -> Floats:
    """Return a column's numbers, missing as NaN: (rows,)."""
    values: Floats = frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    return values


@dataclass(frozen=True)
class Axes:
    """All that a contract declares for people.

    Args:
        contract: the contract.
    """

    contract: Contract

    @classmethod
    def of(cls, contract: Contract) -> Axes:
        """Return what a contract declares.

        Raises:
            IncompatibleJob: where it declares nothing.
        """
        if contract.analytics is None:
            raise IncompatibleJob(
                f"{contract.ref} has no section 'analytics', which says on which bins and times "
                "people may be told of the rows; write one in a new version of the contract"
            )
        return cls(contract)

    @cached_property
    def groups(self) -> tuple[Axis, ...]:
        """The columns by whose values rows may be compared."""
        return tuple(
            Axis(name, "group", values=self._values(name)) for name in self.contract.groups
        )

    def _values(self, name: str) -> tuple[Any, ...]:
        """Return a column's values as the canonical table holds them: codes as texts."""
        column = self.contract.columns[name]
        values = tuple(column.classes or ())
        return tuple(str(each) for each in values) if column.type == "category" else values

    @cached_property
    def columns(self) -> tuple[Axis, ...]:
        """The columns with bins."""
        declared = self.contract.analytics
        found = []
        for name, ends in {} if declared is None else declared.bins.items():
            if isinstance(ends, str):
                assert ends == VALUES
                found.append(Axis(name, "values", values=self._values(name)))
            else:
                found.append(Axis(name, "bins", ends=tuple(map(float, ends))))
        return tuple(found)

    @cached_property
    def numeric(self) -> tuple[Axis, ...]:
        """Those of them that are numbers."""
        return tuple(each for each in self.columns if each.is_number)

    @cached_property
    def time(self) -> Axis | None:
        """The grid of a contract about time until an event."""
        declared = self.contract.analytics
        if declared is None or declared.survival is None:
            return None
        asked = declared.survival
        return Axis(asked.time, "time", ends=tuple(map(float, asked.grid)))

    def events(self, frame: pd.DataFrame) -> Ints:
        """Return 1 where the event was seen, 0 where not, 2 where it is not known: (rows,)."""
        declared = self.contract.analytics
        assert declared is not None
        assert declared.survival is not None
        values = frame[declared.survival.event]
        known = values.notna().to_numpy(bool)
        told = values.astype("string").isin(["1", "1.0", "True", "true"]).to_numpy(bool)
        return np.where(known, told, 2).astype(np.int64)

    @property
    def every(self) -> tuple[Axis, ...]:
        """Groups, columns with bins, and the grid, in this order."""
        return (*self.groups, *self.columns, *((self.time,) if self.time is not None else ()))

    def axis(self, name: str) -> Axis:
        """Return the column called so, in whatever way it is declared."""
        return {each.name: each for each in self.every}[name]

    def limits(self, name: str) -> tuple[float, float]:
        """Return a column's range."""
        found = limits_of(self.contract.columns[name])
        assert found is not None  # bins need a range
        return found

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the declaration: what is told on other bins, or by another contract, differs.

        What a contract says of other columns, and in words, is not in it; the ends, values and
        ranges of those that are told are, and the contract's name, since its mapping goes by that.
        """
        shown = [
            [each.name, each.kind, list(each.ends), [_said(value) for value in each.values]]
            for each in self.every
        ]
        declared = self.contract.analytics
        survival = None if declared is None or declared.survival is None else declared.survival
        units = [[each.name, self.contract.columns[each.name].unit] for each in self.every]
        ranges = [[each.name, *self.limits(each.name)] for each in self.numeric]
        event = None if survival is None else survival.event
        return digest([self.contract.name, shown, units, ranges, event])
