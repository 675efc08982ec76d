"""Cells that hold dates → datetime64[ns] in UTC, without a zone; never a guess.

Without a format a text is read where it begins with the year and names month and day, with a time
and a zone behind it or not. Whether day or month comes first, which century a year of two digits
is in, and where a time without a zone was told: what nobody has said is not read.

A day that a database keeps as its first moment in some zone stays that day: where all times of a
column are midnights where they were told, they are days, and not the evenings before in UTC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime, time
from typing import TYPE_CHECKING, Any

from consilo.contracts.compact_dates import padded
from silos.rows.cells.numbers import Writing, distinct_values, floats

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

EXCEL = {"excel": datetime(1899, 12, 30), "excel1904": datetime(1904, 1, 1)}
"""What day nought of a spreadsheet's numbers is."""
_EXCEL_FIRST, _EXCEL_LAST = 61, 2_958_465
"""Excel took 1900 for a leap year: smaller numbers mean another day in other programs."""
_ISO = re.compile(
    r"\d{4}(?P<mark>[-/.])\d{1,2}(?P=mark)(?P<day>\d{1,2})"
    r"(?P<time>[T ]\d{2}(:\d{2}){1,2}(\.\d+)?)?"
    r"(?P<zone> ?(Z|[+-]\d{2}:?(\d{2})?))?|\d{8}(?P<short>T\d{6}(\.\d+)?)?(?P<short_zone>Z)?",
    re.ASCII,
)
_DIRECTIVE = re.compile(r"%[-#]?(.)")

SWAPPED, ZONED, LOCAL = "swapped", "zoned", "local"
"""What makes other cells of a column doubtful: a cell with day and month the other way round; a
time with a zone; a time without one."""
DAYS, CLOCK = "days", "clock"
"""Midnights in some zone, taken for days; a time in some zone that is none, which makes moments of
them."""


def doubts(seen: frozenset[str]) -> frozenset[str]:
    """Return what of ``seen`` makes other cells doubtful; some only does where both are there."""
    for pair in ({ZONED, LOCAL}, {DAYS, CLOCK}):
        if not pair <= seen:
            seen -= pair
    return seen


@dataclass(frozen=True)
class DateWriting:
    """How dates are written in one column.

    Args:
        form: such as ``%d.%m.%Y``; ``excel`` or ``excel1904`` for a spreadsheet's numbers; None
            for ISO 8601.
        years_from: the first of the hundred years that two digits stand for.
        zone: where times without a zone were told, such as ``Europe/Berlin``; None takes UTC.
        seen: what other cells of the column, in any block, have shown: see `SWAPPED`.
    """

    form: str | None = None
    years_from: int | None = None
    zone: str | None = None
    seen: frozenset[str] = frozenset()


def format_faults(form: str, years_from: int | None) -> list[str]:
    """Return why a date format cannot be used, a sentence for each fault."""
    if form in EXCEL:
        return ["years_from is for %y in date_format"] if years_from is not None else []
    directives = _DIRECTIVE.findall(form)
    faults = []
    if not directives:
        faults.append("date_format: write it as %d.%m.%Y, or excel, or excel1904")
    if set("cxX") & set(directives):
        faults.append("date_format: %c, %x and %X depend on the machine; write the parts")
    if "y" in directives and years_from is None:
        faults.append(
            "date_format: %y does not say the century; add years_from, such as years_from: 1930 "
            "for 1930 to 2029"
        )
    if "y" not in directives and years_from is not None:
        faults.append("years_from is for %y in date_format")
    return faults


def read_dates(
    series: pd.Series[Any], writing: DateWriting
) -> tuple[pd.Series[Any], frozenset[str]]:
    """Return the dates, NaT for what cannot be read, and what these cells show of the column.

    Args:
        series: texts, dates, times, or a spreadsheet's numbers.
        writing: how its texts are written. Where its ``seen`` makes a cell doubtful, it is NaT.
    """
    import numpy as np
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        moments, seen = _in_utc(series, writing)
        return _that_fit(moments), seen
    codes, distinct = distinct_values(series)
    # Each of a column's dates is worked on once.
    cells = list(distinct)
    typed = np.array([isinstance(each, date) for each in cells], bool)
    told = [each.isoformat() if isinstance(each, date) else each for each in cells]
    found, seen = _read(told, DateWriting(None, None, writing.zone, writing.seen), typed)
    if writing.form is None:
        others, seen_others = _read(told, writing, ~typed)
    elif writing.form in EXCEL:
        others, seen_others = _of_excel(told, EXCEL[writing.form]), frozenset[str]()
    else:
        others, seen_others = _formatted(told, writing)
    values = found.where(typed, others)
    return values.reindex(codes).set_axis(series.index), seen | seen_others


def _in_utc(series: pd.Series[Any], writing: DateWriting) -> tuple[pd.Series[Any], frozenset[str]]:
    moments = series
    if series.dt.tz is None and writing.zone is not None:
        moments = series.dt.tz_localize(writing.zone, ambiguous="NaT", nonexistent="NaT")
    if moments.dt.tz is None:
        return moments, frozenset()
    return _days(
        moments.dt.tz_convert("UTC").dt.tz_localize(None), series.dt.tz_localize(None), writing
    )


def _days(
    moments: pd.Series[Any], walls: pd.Series[Any], writing: DateWriting
) -> tuple[pd.Series[Any], frozenset[str]]:
    """Return moments in UTC, days in place of midnights; and what these show of the column.

    Args:
        moments: in UTC, without a zone.
        walls: what the clock showed where they were told; NaT where that is not known, or no time.
        writing: says whether midnights are days.
    """
    if CLOCK in writing.seen:
        return moments, frozenset()
    midnight = walls.notna() & (walls == walls.dt.normalize())
    seen = {CLOCK} if (walls.notna() & ~midnight).any() else set()
    moved = midnight & (walls != moments)
    if moved.any():
        seen.add(DAYS)
        moments = moments.mask(moved, walls)
    return moments, frozenset(seen)


def _that_fit(moments: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    # 9999-12-31 and its like are no dates but codes: they belong under missing.
    fits = moments.between(pd.Timestamp.min.ceil("s"), pd.Timestamp.max.floor("s"))
    return moments.where(fits).astype("datetime64[ns]")


def _read(
    cells: list[Any], writing: DateWriting, asked: NDArray[np.bool_]
) -> tuple[pd.Series[Any], frozenset[str]]:
    """Return those of the cells that are asked for and are written as ISO 8601 has it."""
    import numpy as np

    texts: list[str | None] = [None] * len(cells)
    told: list[str | None] = [None] * len(cells)
    timed, zoned = np.zeros(len(cells), bool), np.zeros(len(cells), bool)
    for at in np.flatnonzero(asked):
        # 1.7e9 could be seconds or days, 2024 a year or a number: a bare number needs a format.
        cell = cells[at]
        match = _ISO.fullmatch(cell.strip()) if isinstance(cell, str) else None
        if match is None:
            continue
        text = match[0].replace("/", "-")
        if match["mark"] == ".":
            day = match.end("day") - match.start()
            text = text[:day].replace(".", "-") + text[day:]
        texts[at] = text
        timed[at] = bool(match["time"] or match["short"])
        zone = match["zone"] or match["short_zone"]
        zoned[at] = bool(zone)
        if zone and timed[at]:
            told[at] = text[: -len(zone)]
    walls = None if CLOCK in writing.seen else _moments(told, "ISO8601").dt.tz_localize(None)
    return _placed(_moments(texts, "ISO8601"), timed, zoned, writing, walls)


def _formatted(cells: list[Any], writing: DateWriting) -> tuple[pd.Series[Any], frozenset[str]]:
    """Return the cells that are written in the format."""
    import numpy as np

    assert writing.form is not None
    texts = [_as_text(each, writing.form) for each in cells]
    found = _parsed(texts, writing.form, writing.years_from)
    seen: set[str] = set()
    if (other := _swapped(writing.form)) is not None:
        turned = _parsed(texts, other, writing.years_from)
        if (found.isna() & turned.notna()).any():
            seen.add(SWAPPED)
        if SWAPPED in writing.seen:
            found = found.mask(turned.notna() & (turned != found))
    directives = _DIRECTIVE.findall(writing.form)
    timed = np.full(len(cells), bool(set("HIMST") & set(directives)))
    zoned = np.full(len(cells), bool(set("zZ") & set(directives)))
    walls = _walls(texts, writing) if zoned.any() else None
    placed, seen_times = _placed(found, timed, zoned, writing, walls)
    return placed, seen_times | seen


def _walls(texts: list[str | None], writing: DateWriting) -> pd.Series[Any] | None:
    """Return what the clock showed in cells with a zone, up to one that was no midnight."""
    import pandas as pd

    assert writing.form is not None
    walls: list[datetime | None] = [None] * len(texts)
    for at, text in enumerate(texts if CLOCK not in writing.seen else ()):
        try:
            wall = datetime.strptime(text or "", writing.form).replace(tzinfo=None)
        except ValueError:
            continue
        walls[at] = wall
        if wall.time() != time():
            break
    return pd.Series(pd.to_datetime(pd.Series(walls, dtype=object), errors="coerce"))


def _moments(texts: list[str | None], form: str) -> pd.Series[Any]:
    """Return texts as times in UTC; one without a zone is taken for UTC."""
    import pandas as pd

    return pd.to_datetime(pd.Series(texts, dtype=object), format=form, errors="coerce", utc=True)


def _placed(
    moments: pd.Series[Any],
    timed: NDArray[np.bool_],
    zoned: NDArray[np.bool_],
    writing: DateWriting,
    walls: pd.Series[Any] | None,
) -> tuple[pd.Series[Any], frozenset[str]]:
    """Return times in UTC; NaT where nobody knows which zone one was told in.

    ``walls`` is what the clock showed where those with a zone were told; None where it need not be
    known.
    """
    there = moments.notna().to_numpy()
    local = there & timed & ~zoned
    seen = {ZONED} if (there & zoned).any() else set()
    naive = moments.dt.tz_localize(None)
    if walls is not None and (there & zoned).any():
        naive, shown = _days(naive, walls.where(there & zoned), writing)
        seen |= shown
    if local.any() and writing.zone is not None:
        moved = naive[local].dt.tz_localize(writing.zone, ambiguous="NaT", nonexistent="NaT")
        moved = moved.dt.tz_convert("UTC").dt.tz_localize(None)
        naive[local], shown = _days(moved, naive[local], writing)
        seen |= shown
    elif local.any():
        seen.add(LOCAL)
        if ZONED in writing.seen:
            naive = naive.mask(local)
    return _that_fit(naive), frozenset(seen)


def _as_text(value: Any, form: str) -> str | None:
    if isinstance(value, str):
        return padded(value.strip(), form, is_number=False)
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return None
    number = float(value)
    return padded(str(int(number)), form, is_number=True) if number.is_integer() else None


def _parsed(texts: list[str | None], form: str, years_from: int | None) -> pd.Series[Any]:
    import pandas as pd

    found = _moments(texts, form)
    if years_from is None:
        return found
    years = years_from + (found.dt.year - years_from) % 100
    parts = {name: getattr(found.dt, name) for name in ("month", "day", "hour", "minute", "second")}
    # The 29th of February of a year that has none is no date.
    made = pd.DataFrame({"year": years, **parts})
    moments: pd.Series[Any] = pd.to_datetime(made, errors="coerce", utc=True)
    return moments


def _swapped(form: str) -> str | None:
    """Return a format with day and month the other way round; None where they are not numbers."""
    directives = _DIRECTIVE.findall(form)
    if "d" not in directives or "m" not in directives:
        return None
    turned = {"d": "m", "m": "d"}
    return _DIRECTIVE.sub(lambda each: each[0][:-1] + turned.get(each[1], each[1]), form)


def _of_excel(cells: list[Any], nought: datetime) -> pd.Series[Any]:
    """Return the days that a spreadsheet's numbers are, and the time of day that is the rest."""
    import numpy as np
    import pandas as pd

    writing = Writing()
    days = floats(pd.Series(cells, dtype=object), writing)
    first = _EXCEL_FIRST if nought == EXCEL["excel"] else 0
    days = np.where((days >= first) & (days < _EXCEL_LAST + 1), days, np.nan)
    passed = pd.to_timedelta(pd.Series(np.round(days * 86_400_000)), unit="ms")
    return _that_fit(pd.Timestamp(nought) + passed)
