"""Cells that hold numbers as people write them → float64 or Int64; never a guess.

A cell that could be two numbers, or none, is not read: NaN, for the caller to count. Thousands
marks stand in groups of three from the right, all of them the same; the first group does not begin
with a zero. What binary cannot hold exactly of a whole number is not read either.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import TYPE_CHECKING, Any

from consilo.contracts.codes import INVISIBLE

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

_BLANKS = " \u00a0\u2007\u2009\u202f"
_APOSTROPHES = "'\u2019\u02bc"
_MINUS = str.maketrans({"\u2212": "-"})
EXACT = 2**53
"""From here on float64 skips whole numbers."""


@dataclass(frozen=True)
class Writing:
    """How numbers are written in one column.

    Args:
        decimal: the decimal sign, ``.`` or ``,``.
        said: whether a person said so; else a lone comma could be either.
        percent: whether a percent sign may follow: the local unit is percent.
        brackets: whether a number in brackets is a negative one.
    """

    decimal: str = "."
    said: bool = False
    percent: bool = False
    brackets: bool = False

    @cached_property
    def _plain(self) -> re.Pattern[str]:
        return re.compile(self.plain_pattern)

    @property
    def plain_pattern(self) -> str:
        """What a number without thousands marks looks like, for Python's ``re`` and for RE2."""
        sign = re.escape(self.decimal)
        return rf"^[+-]?(?:[0-9]+(?:{sign}[0-9]*)?|{sign}[0-9]+)(?:[eE][+-]?[0-9]+)?$"

    @cached_property
    def _grouped(self) -> re.Pattern[str]:
        other = "," if self.decimal == "." else "."
        marks = re.escape(other + _BLANKS + _APOSTROPHES)
        fraction = rf"(?:{re.escape(self.decimal)}[0-9]+)?"
        return re.compile(
            rf"(?P<sign>[+-]?)(?P<whole>[1-9][0-9]{{0,2}}(?P<mark>[{marks}])[0-9]{{3}}"
            rf"(?:(?P=mark)[0-9]{{3}})*)(?P<fraction>{fraction})"
        )

    def number(self, text: str) -> float | None:
        """Return the number that a text is; None where it is none, or could be another.

        >>> Writing(",", True).number("1.234,5"), Writing(",", True).number("12.34")
        (1234.5, None)
        >>> Writing().number("1,234.5"), Writing().number("1,234")
        (1234.5, None)
        """
        text = text.strip().translate(_MINUS)
        if self.brackets and text.startswith("(") and text.endswith(")"):
            inner = text[1:-1].strip()
            number = None if inner[:1] in ("+", "-", "(") else self.number(inner)
            return None if number is None else -number
        if self.percent and text.endswith("%"):
            text = text[:-1].rstrip()
        if self._plain.match(text):
            return _exact(text.replace(self.decimal, "."))
        grouped = self._grouped.fullmatch(text)
        if grouped is None:
            return None
        whole, mark, fraction = grouped["whole"], grouped["mark"], grouped["fraction"]
        if mark == "," and not self.said and not fraction and whole.count(mark) == 1:
            return None
        fraction = fraction.replace(self.decimal, ".")
        return _exact(f"{grouped['sign']}{whole.replace(mark, '')}{fraction}")


def _exact(text: str) -> float | None:
    """Return a plain number; None for one that is not finite, or a whole one that would change."""
    number = float(text)
    if abs(number) >= EXACT and text.lstrip("+-").isdigit() and int(number) != int(text):
        return None
    return number if abs(number) < float("inf") else None


def each_distinct(
    series: pd.Series[Any], read: Callable[[Any], Any], dtype: Any = object
) -> pd.Series[Any]:
    """Return what ``read`` makes of each value, asked once per distinct value; null stays null.

    Texts lie in Arrow's memory; only the distinct ones become Python objects. Values of several
    types are distinct by type too: ``True`` is not 1.
    """
    import pandas as pd

    codes, distinct = distinct_values(series)
    known = pd.Series([read(value) for value in distinct], dtype=dtype)
    values: pd.Series[Any] = known.reindex(codes).set_axis(series.index)
    return values


def distinct_values(series: pd.Series[Any]) -> tuple[NDArray[np.int64], Any]:
    """Return which distinct value each one is, -1 for null, and the distinct values."""
    import numpy as np
    import pandas as pd

    if series.dtype != object:
        codes, distinct = pd.factorize(series)
        if isinstance(series.dtype, np.dtype) and series.dtype.kind == "f":
            # As wide as they are: 0.1 of four bytes shows one digit.
            return codes.astype(np.int64), list(np.asarray(distinct))
        return codes.astype(np.int64), distinct
    places: dict[tuple[type, Any], int] = {}
    empty = series.isna().to_numpy(dtype=bool)
    found = np.fromiter(
        (
            -1 if none else places.setdefault((type(value), value), len(places))
            for value, none in zip(series, empty, strict=True)
        ),
        np.int64,
        len(series),
    )
    return found, [value for _, value in places]


def floats(series: pd.Series[Any], writing: Writing) -> NDArray[np.float64]:
    """Return the numbers of a column; NaN for null and for what cannot be read, infinity too.

    Args:
        series: of any dtype; a date or a time is no number.
        writing: how its texts are written.
    """
    import numpy as np
    import pandas as pd

    kind: Any = series.dtype
    if isinstance(kind, pd.StringDtype):
        values: NDArray[np.float64] = _of_texts(series, writing)
    elif pd.api.types.is_bool_dtype(kind):
        values = np.asarray(series.astype("Float64").to_numpy(np.float64, na_value=np.nan))
    elif pd.api.types.is_integer_dtype(kind):
        values = _of_integers(series)
    elif pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind):
        values = series.to_numpy(dtype="float64", na_value=np.nan)
    elif pd.api.types.is_object_dtype(kind):
        read = each_distinct(series, lambda each: _of_object(each, writing), "float64")
        values = read.to_numpy()
    else:
        values = np.full(len(series), np.nan)
    finite = np.isfinite(values)
    return values if finite.all() else np.where(finite, values, np.nan)


def _of_integers(series: pd.Series[Any]) -> NDArray[np.float64]:
    import numpy as np

    values = series.to_numpy(dtype="float64", na_value=np.nan)
    for at in np.flatnonzero(np.abs(values) >= EXACT):
        if int(values[at]) != int(series.iloc[at]):
            values[at] = np.nan
    return values


def _of_object(value: Any, writing: Writing) -> float | None:
    if isinstance(value, str):
        return writing.number(value)
    try:
        number = float(value) if _is_number(value) else None
    except (OverflowError, ValueError):
        return None
    if number is None or not abs(number) < float("inf"):
        return None
    whole = hasattr(value, "__index__") or (isinstance(value, Decimal) and value % 1 == 0)
    if whole and int(number) != int(value):
        return None
    return number


def _is_number(value: Any) -> bool:
    import numpy as np

    return isinstance(value, bool | int | float | Decimal | np.bool_ | np.integer | np.floating)


def _of_texts(series: pd.Series[Any], writing: Writing) -> NDArray[np.float64]:
    """Return the numbers of texts: the plain ones all at once, the others one by one."""
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.compute as pc

    values = np.full(len(series), np.nan)
    for start, texts in _arrow_texts(series):
        plain = pc.match_substring_regex(texts, writing.plain_pattern)
        # Long whole numbers are read one by one: they may be more than a float can hold.
        long = pc.match_substring_regex(texts, "^[+-]?[0-9]{16,}$")
        at_once = pc.fill_null(pc.and_(plain, pc.invert(long)), False)
        where = start + np.flatnonzero(at_once.to_numpy(zero_copy_only=False))
        pointed = pc.replace_substring(texts.filter(at_once), writing.decimal, ".")
        values[where] = pc.cast(pointed, pa.float64()).to_numpy(zero_copy_only=False)
        others = pc.and_(pc.invert(at_once), pc.is_valid(texts))
        rest = np.flatnonzero(others.to_numpy(zero_copy_only=False))
        if len(rest):
            odd = pd.Series(texts.take(rest).to_pylist(), dtype="str")
            values[start + rest] = each_distinct(odd, writing.number, "float64").to_numpy()
    return values


def is_blank(series: pd.Series[Any]) -> NDArray[np.bool_]:
    """Return which texts have no letter or only blanks and the like; null is none of them."""
    import numpy as np
    import pyarrow.compute as pc

    found = np.zeros(len(series), bool)
    for start, texts in _arrow_chunks(series):
        if not pc.all(pc.string_is_ascii(texts), skip_nulls=True).as_py():
            seen = pc.utf8_trim(texts, INVISIBLE)
        else:
            seen = texts
        blank = pc.or_(pc.utf8_is_space(seen), pc.equal(pc.binary_length(seen), 0))
        marks = pc.fill_null(blank, False).to_numpy(zero_copy_only=False)
        found[start : start + len(texts)] = marks
    return found


def is_ascii(series: pd.Series[Any]) -> NDArray[np.bool_]:
    """Return which texts have only signs of ASCII; so has null."""
    import numpy as np
    import pyarrow.compute as pc

    found = np.ones(len(series), bool)
    for start, texts in _arrow_chunks(series):
        marks = pc.fill_null(pc.string_is_ascii(texts), True).to_numpy(zero_copy_only=False)
        found[start : start + len(texts)] = marks
    return found


def _arrow_texts(series: pd.Series[Any]) -> Iterator[tuple[int, Any]]:
    """Yield (first row, Arrow texts without blanks at the ends)."""
    import pyarrow.compute as pc

    for start, texts in _arrow_chunks(series):
        yield start, pc.utf8_trim_whitespace(texts)


def _arrow_chunks(series: pd.Series[Any]) -> Iterator[tuple[int, Any]]:
    """Yield (first row, Arrow texts)."""
    import pyarrow as pa

    whole = pa.array(series, from_pandas=True)
    chunks = whole.chunks if isinstance(whole, pa.ChunkedArray) else [whole]
    start = 0
    for chunk in chunks:
        yield start, chunk
        start += len(chunk)


def whole_numbers(
    series: pd.Series[Any], *, keys: bool = False
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return whole numbers that are written without marks, exactly, and in which rows there is one.

    Args:
        series: whole numbers, texts, or both, decimals among them.
        keys: read no text that begins with a zero: ``007`` and ``7`` are two keys.
    """
    import numpy as np
    import pandas as pd

    values = np.zeros(len(series), np.int64)
    there = np.zeros(len(series), bool)
    if pd.api.types.is_integer_dtype(series.dtype):
        there = series.notna().to_numpy(dtype=bool)
        if str(series.dtype).lower() == "uint64":
            small = series <= np.iinfo(np.int64).max
            there = there & small.fillna(False).to_numpy(dtype=bool)
        values[there] = series[there].to_numpy(dtype="int64")
    elif isinstance(series.dtype, pd.StringDtype):
        for start, texts in _arrow_texts(series):
            part = slice(start, start + len(texts))
            values[part], there[part] = _whole_texts(texts, keys=keys)
    elif series.dtype == object:
        codes, distinct = distinct_values(series)
        for code, value in enumerate(distinct):
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if isinstance(value, Decimal) and value.is_finite():
                whole = value == value.to_integral_value()
            if whole and -(2**63) <= int(value) < 2**63:
                values[codes == code], there[codes == code] = int(value), True
    return values, there


def _whole_texts(texts: Any, *, keys: bool) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return what `whole_numbers` does, of Arrow's texts."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    # Most are digits alone; a pattern that every text is held against takes four times as long.
    fits = pc.and_(pc.ascii_is_decimal(texts), pc.less_equal(pc.binary_length(texts), 18))
    if keys:
        padded = pc.and_(pc.starts_with(texts, "0"), pc.greater(pc.binary_length(texts), 1))
        fits = pc.and_(fits, pc.invert(padded))
    if not pc.all(fits, skip_nulls=True).as_py():
        pattern = r"^[+-]?(?:0|[1-9][0-9]{0,17})$" if keys else r"^[+-]?[0-9]{1,18}$"
        fits = pc.match_substring_regex(texts, pattern)
    there = pc.fill_null(fits, False).to_numpy(zero_copy_only=False).copy()
    values = np.zeros(len(texts), np.int64)
    bare = texts if there.all() else texts.filter(pa.array(there))
    if pc.any(pc.starts_with(bare, "+")).as_py():
        bare = pc.replace_substring_regex(bare, r"^\+", "")
    values[there] = pc.cast(bare, pa.int64()).to_numpy(zero_copy_only=False)
    if pc.any(pc.greater_equal(pc.binary_length(texts), 19)).as_py():
        # Of the longest ones some are more than 64 bits hold.
        longest = pc.fill_null(pc.match_substring_regex(texts, r"^[+-]?[1-9][0-9]{18}$"), False)
        for at in np.flatnonzero(longest.to_numpy(zero_copy_only=False)):
            number = int(texts[int(at)].as_py())
            if -(2**63) <= number < 2**63:
                values[at], there[at] = number, True
    return values, there
