"""The values of one local column as the contract's type; what cannot be read becomes null."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from datetime import date
from typing import TYPE_CHECKING, Any

from consilo.contracts.contract import Column
from silos.rows.units import convert

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from silos.rows.columns import Code, ColumnMapping

DTYPES = {
    "float": "float64",
    "integer": "Int64",
    "boolean": "boolean",
    "category": "str",
    "string": "str",
    "date": "datetime64[ns]",
}
_TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE = frozenset({"0", "false", "no", "off", "f", "n"})


def allowed_values(column: Column) -> list[Any]:
    """Return the contract's allowed values as the canonical table holds them."""
    allowed = column.classes or ()
    return [str(value) for value in allowed] if DTYPES[column.type] == "str" else list(allowed)


def code_key(value: Any) -> str:
    """Return the text under which a local code is known: 1, 1.0, "1" and " 1.0 " are one code."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text.lower() if isinstance(value, bool) else text
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _each(
    series: pd.Series[Any], read: Callable[[Any], Any], dtype: Any = object
) -> pd.Series[Any]:
    """Return what ``read`` makes of each value, asked once per distinct value; null stays null.

    Texts lie in Arrow's memory; only the distinct ones become Python objects.
    """
    import pandas as pd

    codes, distinct = pd.factorize(series)
    known = pd.Series([read(value) for value in distinct], dtype=dtype)
    values: pd.Series[Any] = known.reindex(codes).set_axis(series.index)
    return values


def _is_one_of(series: pd.Series[Any], keys: Set[str]) -> NDArray[np.bool_]:
    """Return which values' `code_key` is one of ``keys``; null is none of them."""
    import numpy as np
    import pandas as pd

    codes, distinct = pd.factorize(series)
    # The last is for null, whose code is -1.
    per_code = np.array([*(code_key(value) in keys for value in distinct), False])
    marks: NDArray[np.bool_] = per_code[codes]
    return marks


def _code_keys(code: Any) -> set[str]:
    # A boolean is every word that says it; a word in the file is that word alone.
    if code is True:
        return {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"}
    if code is False:
        return {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"}
    return {code_key(code)}


def is_missing(series: pd.Series[Any], codes: Sequence[Code]) -> NDArray[np.bool_]:
    """Return in which rows there is nothing: a null, a blank field, or one of the codes."""
    import pandas as pd

    empty: NDArray[np.bool_] = series.isna().to_numpy(dtype=bool)
    keys = {key for code in codes for key in _code_keys(code)}
    if pd.api.types.is_numeric_dtype(series.dtype) and not _is_bool(series):
        numbers = [number for key in keys if (number := _number(key)) is not None]
        return empty | series.isin(numbers).to_numpy(dtype=bool) if numbers else empty
    if pd.api.types.is_datetime64_any_dtype(series.dtype) or _is_bool(series):
        return empty
    # A blank field is nothing, whatever the source's list of nulls says.
    if not keys and isinstance(series.dtype, pd.StringDtype):
        return empty | (series.str.strip() == "").to_numpy(dtype=bool)
    return empty | _is_one_of(series, {*keys, ""})


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
    keys = {key for code in nulls for key in _code_keys(code)}
    return _is_one_of(series, keys)


def canonical(series: pd.Series[Any], column: Column, how: ColumnMapping) -> pd.Series[Any]:
    """Return the values in the column's dtype; what cannot be read becomes null."""
    import pandas as pd

    if how.recode is not None:
        table = {key: item for code, item in how.recode.items() for key in _code_keys(code)}
        series = _each(series, lambda value: table.get(code_key(value)))
    elif how.threshold is not None:
        series = _compared(_numbers(series, how.decimal), *how.threshold)
    if column.type == "float":
        return _floats(series, column, how)
    if column.type == "integer":
        if pd.api.types.is_integer_dtype(series.dtype) and how.unit is None:
            return series.astype("Int64")
        return _integers(series, column, how)
    if column.type == "boolean":
        return _booleans(series)
    if column.type == "date":
        return _dates(series, how.date_format)
    return _texts(series, column)


def _numbers(series: pd.Series[Any], decimal: str = ".") -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(series.dtype):
        words = series.map({True: 1, False: 0}) if _is_bool(series) else series
        words = _stripped(words)
        if decimal == ",":
            words = words.map(_with_point, na_action="ignore")
        series = pd.to_numeric(words, errors="coerce")
    values = series.to_numpy(dtype="float64", na_value=np.nan)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, np.nan)
    return pd.Series(values, index=series.index, copy=False)


def _stripped(series: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    if isinstance(series.dtype, pd.StringDtype):
        return series.str.strip()
    if series.dtype != object:
        return series
    return series.map(lambda value: value.strip() if isinstance(value, str) else value)


def _with_point(value: Any) -> Any:
    # 1.234,5 is 1234.5; a value that is a number already has no comma to read.
    return value.replace(".", "").replace(",", ".") if isinstance(value, str) else value


def _floats(series: pd.Series[Any], column: Column, how: ColumnMapping) -> pd.Series[Any]:
    import pandas as pd

    numbers = _numbers(series, how.decimal)
    if how.unit is None or column.unit is None:
        return numbers
    values = convert(
        numbers.to_numpy(dtype="float64"), how.unit, column.unit, molar_mass=how.molar_mass
    )
    return pd.Series(values, index=series.index, copy=False)


def _integers(series: pd.Series[Any], column: Column, how: ColumnMapping) -> pd.Series[Any]:
    import numpy as np

    numbers = _floats(series, column, how).to_numpy()
    if how.unit is not None:
        # A conversion leaves 59.99999999999999 where 60 is meant.
        near = np.round(numbers)
        numbers = np.where(np.isclose(numbers, near, rtol=1e-9, atol=1e-9), near, numbers)
    with np.errstate(invalid="ignore"):
        whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)
    return _masked_integers(numbers, whole, series.index)


def _masked_integers(
    numbers: NDArray[np.float64], whole: NDArray[np.bool_], index: pd.Index[Any]
) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    values = np.where(whole, numbers, 0).astype("int64")
    return pd.Series(pd.arrays.IntegerArray(values, ~whole), index=index)


def _compared(numbers: pd.Series[Any], name: str, limit: float) -> pd.Series[Any]:
    compare = {"greater_than": "gt", "at_least": "ge", "less_than": "lt", "at_most": "le"}[name]
    answers = getattr(numbers, compare)(limit).astype("boolean")
    masked: pd.Series[Any] = answers.mask(numbers.isna())
    return masked.astype("Int64")


def _booleans(series: pd.Series[Any]) -> pd.Series[Any]:
    if _is_bool(series):
        return series.astype("boolean")
    table = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}
    return _each(series, lambda value: table.get(code_key(value).lower()), "boolean")


def _dates(series: pd.Series[Any], date_format: str | None) -> pd.Series[Any]:
    import pandas as pd

    if not pd.api.types.is_datetime64_any_dtype(series.dtype):
        # 20240131 is a date, 1.7e9 could be seconds or days: a bare number needs a format.
        codes, distinct = pd.factorize(series)
        texts = pd.Series([_date_text(value, date_format) for value in distinct], dtype=object)
        return _moments(texts, date_format).reindex(codes).set_axis(series.index)
    return _moments(series, date_format)


def _moments(series: pd.Series[Any], date_format: str | None) -> pd.Series[Any]:
    import pandas as pd

    read = pd.to_datetime(series, format=date_format or "ISO8601", errors="coerce", utc=True)
    naive = read.dt.tz_localize(None)
    # 9999-12-31 and its like are no dates but codes: they belong under missing.
    fits = naive.between(pd.Timestamp.min.ceil("s"), pd.Timestamp.max.floor("s"))
    return naive.where(fits).astype("datetime64[ns]")


def _date_text(value: Any, date_format: str | None) -> Any:
    if isinstance(value, date):
        return value.strftime(date_format) if date_format else value.isoformat()
    if isinstance(value, str):
        return value.strip()
    return code_key(value) if date_format else None


def _texts(series: pd.Series[Any], column: Column) -> pd.Series[Any]:
    import pandas as pd

    if column.type == "category" and column.allowed is not None:
        table = {code_key(value): str(value) for value in column.allowed}

        def known(value: Any) -> str:
            key = code_key(value)
            # A code outside the list stays as it is: the rule "allowed" tells of it.
            return table.get(key, key)

        return _each(series, known, "str")
    if isinstance(series.dtype, pd.StringDtype):
        return _stripped(series).astype("str")
    return _each(series, code_key, "str")
