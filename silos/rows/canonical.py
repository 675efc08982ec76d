"""The values of one local column as the contract's type; what cannot be read becomes null."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from consilo.contracts.codes import code_key, code_keys, is_certain, plain_text
from consilo.contracts.contract import Column
from silos.rows.cells.dates import DateWriting, read_dates
from silos.rows.cells.numbers import (
    EXACT,
    Writing,
    distinct_values,
    each_distinct,
    floats,
    is_ascii,
    is_blank,
    whole_numbers,
)
from silos.rows.columns import ColumnMapping
from silos.rows.units import convert, derived_in, is_percent

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from silos.rows.columns import Code

DTYPES = {
    "float": "float64",
    "integer": "Int64",
    "boolean": "boolean",
    "category": "str",
    "string": "str",
    "date": "datetime64[ns]",
}
KEYS = ("id", "subject")
"""Roles whose values are written down exactly: 007 is no 7."""
_NUMBERS = ("float", "integer")
_TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE = frozenset({"0", "false", "no", "off", "f", "n"})


def allowed_values(column: Column) -> list[Any]:
    """Return the contract's allowed values as the canonical table holds them."""
    allowed = column.classes or ()
    return [str(value) for value in allowed] if DTYPES[column.type] == "str" else list(allowed)


def _is_one_of(series: pd.Series[Any], keys: Set[str]) -> NDArray[np.bool_]:
    """Return which values' `code_key` is one of ``keys``; null is none of them."""
    import numpy as np

    codes, distinct = distinct_values(series)
    # The last is for null, whose code is -1.
    per_code = np.array([*(code_key(value) in keys for value in distinct), False])
    marks: NDArray[np.bool_] = per_code[codes]
    return marks


def is_missing(
    series: pd.Series[Any], codes: Sequence[Code], column: Column, how: ColumnMapping
) -> NDArray[np.bool_]:
    """Return in which rows there is nothing: a null, a blank field, or one of the codes.

    A code that is a number stands for every way to write it in a column of numbers: -9 is -9.00.
    """
    import pandas as pd

    empty: NDArray[np.bool_] = series.isna().to_numpy(dtype=bool)
    keys = {key for code in codes for key in code_keys(code)}
    numeric = pd.api.types.is_numeric_dtype(series.dtype) and not _is_bool(series)
    if keys and (numeric or (column.type in _NUMBERS and how.recode is None)):
        numbers = [number for key in keys if (number := _number(key)) is not None]
        if numbers:
            read = pd.Series(floats(series, writing_of(column, how)))
            empty = empty | read.isin(numbers).to_numpy()
    if numeric or pd.api.types.is_datetime64_any_dtype(series.dtype) or _is_bool(series):
        return empty
    # A blank field is nothing, whatever the source's list of nulls says.
    if not keys and isinstance(series.dtype, pd.StringDtype):
        return empty | is_blank(series)
    return empty | _is_one_of(series, {*keys, ""})


def writing_of(column: Column, how: ColumnMapping, *, unit: str | None = None) -> Writing:
    """Return how numbers are written in a local column.

    Args:
        column: the canonical one.
        how: it comes about.
        unit: the local column's, where it is one of several.
    """
    local = unit or how.unit or (None if how.is_measured else column.unit)
    return Writing(
        decimal=how.decimal,
        said="decimal" in how.model_fields_set,
        percent=is_percent(local),
        brackets=how.negative == "brackets",
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_bool(series: pd.Series[Any]) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_bool_dtype(series.dtype))


def recoded_to_null(series: pd.Series[Any], how: ColumnMapping) -> NDArray[np.bool_]:
    """Return in which rows the mapping itself says that a code means nothing."""
    import numpy as np

    nulls = [code for code, value in (how.recode or {}).items() if value is None]
    if not nulls:
        return np.zeros(len(series), dtype=bool)
    keys = {key for code in nulls for key in code_keys(code)}
    return _is_one_of(series, keys)


def canonical(
    series: pd.Series[Any],
    column: Column,
    how: ColumnMapping,
    seen: frozenset[str] = frozenset(),
) -> tuple[pd.Series[Any], frozenset[str]]:
    """Return the values in the column's dtype, and what dates show of the whole column.

    What cannot be read becomes null.

    Args:
        series: the local column.
        column: the canonical one.
        how: it comes about.
        seen: what dates of any block have shown; see `silos.rows.cells.dates`.
    """
    if how.recode is not None:
        table = {key: item for code, item in how.recode.items() for key in code_keys(code)}
        series = each_distinct(series, lambda value: table.get(code_key(value)))
    if column.type == "date":
        return read_dates(series, DateWriting(how.date_format, how.years_from, how.zone, seen))
    return _canonical(series, column, how), frozenset()


def _canonical(series: pd.Series[Any], column: Column, how: ColumnMapping) -> pd.Series[Any]:
    writing = Writing() if how.recode is not None else writing_of(column, how)
    if how.threshold is not None:
        series = _compared(_measured(floats(series, writing), column, how), series, how)
        how = ColumnMapping()
    if column.type == "float":
        return _series(_measured(floats(series, writing), column, how), series)
    if column.type == "integer":
        return _integers(series, column, how, writing)
    if column.type == "boolean":
        return _booleans(series)
    return _texts(series, column)


def computed(
    parts: Mapping[str, pd.Series[Any]], column: Column, how: ColumnMapping
) -> pd.Series[Any]:
    """Return what the mapping's formula makes of several local columns, in the column's dtype.

    Args:
        parts: local name → column, null where there is nothing.
        column: the canonical one.
        how: it comes about.
    """
    import numpy as np

    expression = how.expression
    assert expression is not None
    units = how.units or {}
    read = {
        name: floats(each, writing_of(column, how, unit=units.get(name)))
        for name, each in parts.items()
    }
    with np.errstate(all="ignore"):
        if how.units is not None and column.unit is not None:
            made = derived_in(expression, read, units, column.unit)
        else:
            made = expression.of(read)
        numbers = _measured(np.where(np.isfinite(made), made, np.nan), column, how)
    first = next(iter(parts.values()))
    if how.threshold is not None:
        return _canonical(_compared(numbers, first, how), column, ColumnMapping())
    if column.type == "integer":
        return _whole(numbers, first, near=True)
    return _series(numbers, first)


def _series(values: NDArray[np.float64], like: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series(values, index=like.index, copy=False)


def _measured(
    numbers: NDArray[np.float64], column: Column, how: ColumnMapping
) -> NDArray[np.float64]:
    """Return local numbers as the canonical ones: scaled, moved, in the contract's unit."""
    import numpy as np

    if not how.is_measured:
        return numbers
    with np.errstate(over="ignore"):
        if how.scale is not None:
            numbers = numbers * how.scale
        if how.offset is not None:
            numbers = numbers + how.offset
        if how.unit is not None and column.unit is not None:
            numbers = convert(numbers, how.unit, column.unit, molar_mass=how.molar_mass)
    finite = np.isfinite(numbers)
    return numbers if finite.all() else np.where(finite, numbers, np.nan)


def _integers(
    series: pd.Series[Any], column: Column, how: ColumnMapping, writing: Writing
) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    if how.is_measured:
        return _whole(_measured(floats(series, writing), column, how), series, near=True)
    values, there = whole_numbers(series, keys=column.role in KEYS)
    if pd.api.types.is_integer_dtype(series.dtype):
        return pd.Series(pd.arrays.IntegerArray(values, ~there), index=series.index)
    rest = ~there & series.notna().to_numpy(dtype=bool)
    if not rest.any():
        return pd.Series(pd.arrays.IntegerArray(values, ~there), index=series.index)
    if column.role in KEYS:  # 007 and 7 are two keys
        rest[rest] = ~series[rest].map(_begins_with_a_zero).to_numpy(dtype=bool)
    others = _whole(floats(series.where(rest), writing), series)
    values = np.where(there, values, others.to_numpy(dtype="int64", na_value=0))
    empty = ~there & others.isna().to_numpy()
    return pd.Series(pd.arrays.IntegerArray(values, empty), index=series.index)


def _begins_with_a_zero(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"\s*[+-]?0[0-9]", value) is not None


def _whole(
    numbers: NDArray[np.float64], like: pd.Series[Any], *, near: bool = False
) -> pd.Series[Any]:
    """Return numbers as whole ones, null where one is none.

    Args:
        numbers: NaN for null.
        like: has the index.
        near: of numbers that were computed with: that leaves 59.99999999999999 where 60 is meant.
    """
    import numpy as np
    import pandas as pd

    if near:
        nearest = np.round(numbers)
        close = np.isclose(numbers, nearest, rtol=1e-9, atol=1e-9)
        numbers = np.where(close, nearest, numbers)
    with np.errstate(invalid="ignore"):
        whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < EXACT)
    values = np.where(whole, numbers, 0).astype("int64")
    return pd.Series(pd.arrays.IntegerArray(values, ~whole), index=like.index)


def _compared(
    numbers: NDArray[np.float64], like: pd.Series[Any], how: ColumnMapping
) -> pd.Series[Any]:
    import pandas as pd

    assert how.threshold is not None
    name, limit = how.threshold
    compare = {"greater_than": "gt", "at_least": "ge", "less_than": "lt", "at_most": "le"}[name]
    series = _series(numbers, like)
    answers = getattr(series, compare)(limit).astype("boolean")
    masked: pd.Series[Any] = answers.mask(pd.isna(series))
    return masked.astype("Int64")


def _booleans(series: pd.Series[Any]) -> pd.Series[Any]:
    if _is_bool(series):
        return series.astype("boolean")
    table = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}
    return each_distinct(series, lambda value: table.get(code_key(value).lower()), "boolean")


def _texts(series: pd.Series[Any], column: Column) -> pd.Series[Any]:
    import pandas as pd

    if column.type == "category" and column.allowed is not None:
        table = {code_key(value): str(value) for value in column.allowed}

        def known(value: Any) -> str | None:
            key = code_key(value)
            # A code outside the list stays as it is: the rule "allowed" tells of it.
            return table.get(key, key) if is_certain(value) else None

        return each_distinct(series, known, "str")
    if isinstance(series.dtype, pd.StringDtype):
        stripped: pd.Series[Any] = series.str.strip().astype("str")
        odd = ~is_ascii(stripped)
        if odd.any():
            stripped = stripped.mask(odd, each_distinct(stripped[odd], plain_text, "str"))
        broken = stripped.str.contains("\0", regex=False).fillna(False).to_numpy(dtype=bool)
        return stripped.mask(broken) if broken.any() else stripped

    def text(value: Any) -> str | None:
        if not is_certain(value):
            return None
        return plain_text(value) if isinstance(value, str) else code_key(value)

    return each_distinct(series, text, "str")
