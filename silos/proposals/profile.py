"""What a sample of a local column holds, worked out once; and one way to read the column."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.codes import code_key

if TYPE_CHECKING:
    import pandas as pd

Floats = np.ndarray[Any, np.dtype[np.float64]]

MISSING_WORDS = frozenset(
    ("?", "??", "-", "--", ".", "*", "/", "n/a", "na", "#n/a", "#nv", "null", "none", "nan", "nil")
) | {"missing", "unknown", "unbekannt", "k.a.", "n.d."}
"""Texts that mean "nothing recorded" wherever no contract allows them as a value."""
ANSWERS = frozenset({"none", "unknown", "unbekannt", "missing"})
"""Those of them that may be an answer: a severity of ``none``. In a target they are one."""
SENTINELS = frozenset(
    {0.0, -1.0, -8.0, -9.0}
    | {float(sign * int(digit * n)) for sign in (1, -1) for digit in "89" for n in (2, 3, 4, 5)}
)
"""Numbers that people write for "nothing recorded"."""
_DATE_FORMATS = (None, "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y%m%d", "%d-%m-%Y", "%m-%d-%Y",
                 "%d.%m.%y", "%Y/%m/%d", "%d %b %Y", "%d.%m.%Y %H:%M", "%d.%m.%Y %H:%M:%S",
                 "%m/%d/%Y %H:%M", "%d/%m/%Y %H:%M")  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """One way to read a local column.

    Args:
        fit: from 0, no value fits the contract, to 1.
        how: keys of the mapping's entry beside ``from``.
        reasons: why, for the person who confirms.
        doubts: what that person has to look at; empty where nothing was guessed.
    """

    fit: float
    how: Mapping[str, Any]
    reasons: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Profile:
    """What a sample of a local column holds, worked out once.

    Args:
        name: the local name.
        position: of the column in the table, from 0.
        codes: the distinct values as `silos.rows.canonical` keys them, the commonest first, with
        counts. distinct: how many there are. present: how many rows hold something. numbers: the
        values that read as numbers. numeric_share: how many of those present do. decimal: the
        decimal sign they are written with. dates: share of values that read as a date, by format;
        None is ISO 8601. missing: texts found that mean "nothing".
    """

    name: str
    position: int
    codes: Mapping[str, int]
    distinct: int
    present: int
    numbers: Floats
    numeric_share: float
    decimal: str
    dates: Mapping[str | None, float]
    missing: frozenset[str]


def profile(series: pd.Series[Any], position: int, keep: Iterable[str] = ()) -> Profile:
    """Return the profile of a column.

    Args:
        series: the column as the organisation holds it.
        position: of the column in the table, from 0.
        keep: texts that are values of the contract, whatever they look like.
    """
    kept = set(keep)
    counts: Counter[str] = Counter()
    for value, count in series[series.notna()].value_counts(sort=False).items():
        counts[code_key(value)] += int(count)
    counts.pop("", None)
    missing = frozenset(c for c in counts if c.lower() in MISSING_WORDS and c not in kept)
    codes = {code: n for code, n in counts.most_common() if code not in missing}
    present = sum(codes.values())
    decimal, numbers = _numbers(codes)
    return Profile(
        name=str(series.name),
        position=position,
        codes=codes,
        distinct=len(codes),
        present=present,
        numbers=numbers,
        numeric_share=len(numbers) / present if present else 0.0,
        decimal=decimal,
        dates=_date_shares(series, codes, present),
        missing=missing,
    )


def answers_in(series: pd.Series[Any]) -> frozenset[str]:
    """Return the texts of a column that look like "nothing recorded" and may be an answer."""
    codes = {code_key(each) for each in series.dropna().unique()}
    return frozenset(each for each in codes if each.lower() in ANSWERS)


def _date_shares(
    series: pd.Series[Any], codes: Mapping[str, int], present: int
) -> dict[str | None, float]:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return {None: 1.0}
    if not present or pd.api.types.is_float_dtype(series.dtype):
        return {}
    some = pd.Series(list(codes)[:500], dtype="str")
    if not some.str.contains(r"\d").mean() > 0.5:
        return {}
    shares = {}
    for each in _DATE_FORMATS:
        if each is None and some.str.fullmatch(r"[\d.]+").all():
            continue  # a bare number is no ISO date
        if each == "%Y%m%d" and not some.str.fullmatch(r"[12]\d{7}").mean() > 0.5:
            continue
        read = pd.to_datetime(some, format=each or "ISO8601", errors="coerce", utc=True)
        share = float(read.notna().mean())
        if share > 0.5:
            shares[each] = share
    return shares


def _numbers(codes: Mapping[str, int]) -> tuple[str, Floats]:
    """Return the decimal sign that makes most of the codes numbers, and the numbers, repeated."""
    best: list[tuple[float, int]] = []
    decimal = "."
    for sign in (".", ","):
        texts = {c: c if sign == "." else c.replace(".", "").replace(",", ".") for c in codes}
        read = {c: value for c, text in texts.items() if (value := number(text)) is not None}
        pairs = [(value, codes[c]) for c, value in read.items()]
        if sum(n for _, n in pairs) > sum(n for _, n in best):
            best, decimal = pairs, sign
    values = np.array([value for value, _ in best], dtype=float)
    return decimal, np.repeat(values, np.array([n for _, n in best], dtype=int))


def number(text: str) -> float | None:
    """Return the finite number that a text is, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if np.isfinite(value) else None


def as_written(code: str) -> Any:
    """Return a code as a person would write it: 1 for "1"."""
    value = number(code)
    return int(code) if value is not None and re.fullmatch(r"-?\d{1,15}", code) else code
