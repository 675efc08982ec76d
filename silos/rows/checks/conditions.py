"""Which rows an expectation asks about, and which of them break it; whole columns at a time.

Great Expectations' own metrics on pandas ask cell by cell wherever a column's type is not numpy's
own (a whole number that may be empty), and spend milliseconds on each rule before they look at a
row. These say the same of every row; `tests/silos/rows/test_judge.py` holds one against the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    Columns = Mapping[str, pd.Series[Any]]
    """Column → its values; all of the same rows."""

Asked = Literal["all", "each", "any"]


@dataclass(frozen=True)
class Condition:
    """What one expectation asks of single rows.

    Args:
        columns: that it reads.
        asked: about which rows: all; those in which each of the columns holds something; those in
            which any does.
        fits: the columns → which rows are as expected; of rows that are not asked it may say
            anything.
        metric: Great Expectations' name of it.
        mostly: the share of the rows asked from which on the expectation holds.
    """

    columns: tuple[str, ...]
    asked: Asked
    fits: Callable[[Columns], Any]
    metric: str
    mostly: float

    def rows(self, columns: Columns) -> NDArray[np.bool_]:
        """Return which rows are asked."""
        import numpy as np

        if self.asked == "all":
            return np.ones(len(columns[self.columns[0]]), dtype=bool)
        asked, *others = [_there(columns[name]) for name in self.columns]
        for each in others:
            asked = asked | each if self.asked == "any" else asked & each
        return asked

    def broken(self, columns: Columns, asked: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the rows ``asked`` are not as expected.

        Raises:
            TypeError: where values cannot be compared with what is expected.
        """
        fits = self.fits(columns)
        if hasattr(fits, "to_numpy"):
            fits = fits.to_numpy(dtype=bool, na_value=False)
        broken: NDArray[np.bool_] = asked & ~fits
        return broken


def condition_of(expectation: Any) -> Condition | None:
    """Return what an expectation asks of single rows; None for one about the table or a figure."""
    kind = type(expectation).__name__
    if kind not in _OF_ROWS:
        return None
    asked, names, fits = _OF_ROWS[kind]
    columns = tuple(names(expectation))
    return Condition(
        columns, asked, fits(expectation), expectation.map_metric, float(expectation.mostly)
    )


def _there(values: pd.Series[Any]) -> NDArray[np.bool_]:
    """Return in which rows a column holds something."""
    empty: NDArray[np.bool_] = values.isna().to_numpy(dtype=bool)
    return ~empty  # pandas' own notna takes twice as long


def _of_column(expectation: Any) -> list[str]:
    return [expectation.column]


def _of_pair(expectation: Any) -> list[str]:
    return [expectation.column_A, expectation.column_B]


def _recorded(expectation: Any) -> Callable[[Columns], Any]:
    return lambda columns: _there(columns[expectation.column])


def _listed(expectation: Any) -> Callable[[Columns], Any]:
    values = list(expectation.value_set)
    return lambda columns: columns[expectation.column].isin(values)


def _once(expectation: Any) -> Callable[[Columns], Any]:
    return lambda columns: ~columns[expectation.column].duplicated(keep=False)


def _once_together(expectation: Any) -> Callable[[Columns], Any]:
    names = list(expectation.column_list)

    def fits(columns: Columns) -> Any:
        import pandas as pd

        return ~pd.DataFrame({name: columns[name] for name in names}).duplicated(keep=False)

    return fits


def _equal(expectation: Any) -> Callable[[Columns], Any]:
    return lambda columns: columns[expectation.column_A] == columns[expectation.column_B]


def _greater(expectation: Any) -> Callable[[Columns], Any]:
    def fits(columns: Columns) -> Any:
        left, right = columns[expectation.column_A], columns[expectation.column_B]
        return left >= right if expectation.or_equal else left > right

    return fits


def _between(expectation: Any) -> Callable[[Columns], Any]:
    """Return which values lie within the bounds; whole numbers are compared as such, exactly."""

    def fits(columns: Columns) -> Any:
        values: Any = columns[expectation.column]
        low, high = expectation.min_value, expectation.max_value
        strict_low, strict_high = bool(expectation.strict_min), bool(expectation.strict_max)
        if str(values.dtype) == "Int64":
            if low is not None:
                low, strict_low = (math.floor(low) + 1 if strict_low else math.ceil(low)), False
            if high is not None:
                high, strict_high = (
                    (math.ceil(high) - 1 if strict_high else math.floor(high)),
                    False,
                )
        elif values.dtype == "float64":
            values = values.to_numpy()
        kept = None
        if low is not None:
            kept = (values > low) if strict_low else (values >= low)
        if high is not None:
            below = (values < high) if strict_high else (values <= high)
            kept = below if kept is None else kept & below
        return kept

    return fits


_OF_ROWS: dict[str, tuple[Asked, Callable[[Any], list[str]], Callable[[Any], Any]]] = {
    "ExpectColumnValuesToNotBeNull": ("all", _of_column, _recorded),
    "ExpectColumnValuesToBeInSet": ("each", _of_column, _listed),
    "ExpectColumnValuesToBeBetween": ("each", _of_column, _between),
    "ExpectColumnValuesToBeUnique": ("each", _of_column, _once),
    "ExpectCompoundColumnsToBeUnique": ("any", lambda each: each.column_list, _once_together),
    "ExpectColumnPairValuesToBeEqual": ("each", _of_pair, _equal),
    "ExpectColumnPairValuesAToBeGreaterThanB": ("each", _of_pair, _greater),
}
