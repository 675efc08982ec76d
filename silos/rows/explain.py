"""Which rows break a contract, and what to do about it: for the people in the silo, never sent.

The verdicts are the check's (`silos.rows.check`). For each rule that failed, the source is read
once more, in blocks, and the rows that break the rule are named by their place in it: the file and
the row in that file, from 1 after the header, or the position in the order in which a database
answers. With a key column, rows are named by their keys instead.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.contract import Column, Contract, CrossColumn
from consilo.contracts.report import CheckReport, Finding
from consilo.errors import SourceUnreadable
from silos.rows.canonical import allowed_values
from silos.rows.mapping import SEEN, Mapping, add_seen
from silos.rows.sources import RowFilter, Source
from silos.rows.sources.blocks import to_frame

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

SHOWN = 20
"""Rows that are named for each rule; all are counted."""
_COMPARE = {
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}
_ADVICE = {
    "present": "mapping: say which local column it is, with columns.{column}.from",
    "type": (
        "mapping: list codes for 'nothing' under missing, translate others with recode, or set "
        "decimal or date_format; data: mend these rows"
    ),
    "nulls": "data: fill these rows; mapping: is a code read as 'nothing' that is none?",
    "range": "data: mend these rows; mapping: a code for 'nothing' belongs under missing",
    "unit": "mapping: so many rows are mostly in another unit; set columns.{column}.unit",
    "typical": "mapping: mostly another unit; set columns.{column}.unit",
    "allowed": "mapping: translate these codes with recode, or list them under missing",
    "not_future": "data: mend these dates; mapping: check date_format",
    "min_rows": "data: connect all files; are rows left out for lack of consent?",
    "unique": "data: keep one of these rows, or take the identifier from another column",
    "class_balance": "data: are all outcomes recorded? mapping: check recode of the target",
    "classes": "data: are all outcomes recorded? mapping: check recode of the target",
    "freshness": "data: connect the newest export",
    "cross_column": "data: mend these rows; mapping: check units and which column is which",
}
_OFTEN = 0.5
"""A share of rows outside a range from which on a wrong unit is likelier than wrong rows."""


@dataclass(frozen=True)
class Place:
    """One row of the source.

    Args:
        row: from 1; in its file, or in the order in which a database answers.
        file: its name, where the source has several.
        key: what identifies it, where a key column was asked for.
        value: what stands there, as the organisation holds it. It is shown, never written.
    """

    row: int
    file: str | None
    key: str | None
    value: str

    def to_json(self) -> dict[str, Any]:
        """Return the place without the value."""
        named = {"row": self.row} if self.key is None else {"key": self.key}
        return {**named, **({"file": self.file} if self.file else {})}


@dataclass
class Explanation:
    """One failed rule.

    Args:
        finding: the check's verdict.
        local: the local columns it is about.
        expected: what the contract asks for.
        rows: how many rows break it; None for a rule that is about the rows together.
        places: the first of them.
        advice: what to do.
    """

    finding: Finding
    local: tuple[str, ...]
    expected: str
    rows: int | None
    advice: str
    places: list[Place] = field(default_factory=list)

    def lines(self, *, values: bool = False) -> Iterator[str]:
        """Yield it for a person in the silo.

        Args:
            values: also what stands in the rows; for a terminal only.
        """
        finding = self.finding
        local = f" (local: {', '.join(self.local)})" if self.local else ""
        yield f"{finding.severity} {finding.rule}: {finding.column or 'the table'}{local}"
        yield f"  expected  {self.expected}"
        if self.rows is not None:
            yield f"  broken by {self.rows} {'row' if self.rows == 1 else 'rows'}{self._named()}"
        for place in self.places if values else ():
            where = f"row {place.row}" if place.key is None else f"key {place.key}"
            yield f"    {where}{f' of {place.file}' if place.file else ''}: {place.value}"
        yield f"  to do     {self.advice}"

    def _named(self) -> str:
        if not self.places:
            return ""
        by_file: dict[str | None, list[str]] = {}
        for each in self.places:
            by_file.setdefault(each.file, []).append(
                str(each.row) if each.key is None else each.key
            )
        kind = "number" if self.places[0].key is None else "key"
        told = [
            f"{kind} {', '.join(each)}{f' of {file}' if file else ''}"
            for file, each in by_file.items()
        ]
        more = ", …" if self.rows and self.rows > len(self.places) else ""
        return f": {'; '.join(told)}{more}"

    def to_json(self) -> dict[str, Any]:
        """Return it for ``--json``: no value of a row is in it."""
        return {
            "rule": self.finding.rule,
            "column": self.finding.column,
            "severity": self.finding.severity,
            "local": list(self.local),
            "expected": self.expected,
            "rows": self.rows,
            "places": [each.to_json() for each in self.places],
            "advice": self.advice,
        }


def explain(
    report: CheckReport,
    source: Source,
    mapping: Mapping,
    contract: Contract,
    *,
    now: datetime,
    keep: RowFilter | None = None,
    key: str | None = None,
) -> list[Explanation]:
    """Return an explanation for every rule that failed, in the report's order.

    Args:
        report: the check's.
        source: what was checked.
        mapping: to the contract.
        contract: the contract.
        now: for the rules about dates.
        keep: which raw rows were used.
        key: a local column whose values name rows, in place of their numbers.

    Raises:
        SourceUnreadable: where the source cannot be read, or has no column ``key``.
    """
    failed = [each for each in report.findings if each.verdict == "fail"]
    made = [_explanation(each, mapping, contract) for each in failed]
    seekers = [_Seeker(each, mapping, contract, now) for each in made if each.rows is not None]
    if not seekers:
        return made
    available = source.columns()
    if key is not None and key not in available:
        raise SourceUnreadable(f"the source has no column '{key}' to name rows by")
    local = mapping.local_columns(contract)
    names = dict.fromkeys(name for several in local.values() for name in several)
    wanted = [name for name in names if name in available]
    extra = [*([key] if key else []), *(keep.columns if keep is not None else [])]
    wanted = list(dict.fromkeys([*(wanted or available[:1]), *extra]))
    seen = _seen(source, wanted, keep, mapping, contract)
    for file, start, rows in _numbered(source, wanted, keep):
        numbers = rows.index.to_numpy()
        raw = rows.set_axis(np.arange(len(rows)))
        table = mapping.apply_columns(dict(raw.items()), len(raw), contract, seen=seen)
        for seeker in seekers:
            for at in seeker.seek(raw, table):
                name = None if key is None else str(raw[key].iloc[at])
                value = seeker.value(raw, at)
                seeker.made.places.append(Place(int(start + numbers[at] + 1), file, name, value))
    _name_duplicates(seekers, source, wanted, keep, key)
    for seeker in seekers:
        if seeker.made.finding.rule == "range" and seeker.made.rows:
            share = seeker.made.rows / max(seeker.seen, 1)
            column = contract.columns[seeker.made.finding.column or ""]
            if share > _OFTEN and column.unit is not None:
                seeker.made.advice = _ADVICE["unit"].format(column=column.name)
    return made


def _seen(
    source: Source,
    wanted: Sequence[str],
    keep: RowFilter | None,
    mapping: Mapping,
    contract: Contract,
) -> dict[str, frozenset[str]]:
    """Return what the dates of all blocks show, for a contract that has dates."""
    seen: dict[str, frozenset[str]] = {}
    if not any(column.type == "date" for column in contract.table):
        return seen
    for _, _, rows in _numbered(source, wanted, keep):
        table = mapping.apply_columns(dict(rows.items()), len(rows), contract)
        add_seen(seen, table.attrs.get(SEEN, {}))
    return seen


def _explanation(finding: Finding, mapping: Mapping, contract: Contract) -> Explanation:
    names = tuple((finding.column or "").split("+")) if finding.column else ()
    local = mapping.local_columns(contract)
    advice = _ADVICE["min_rows" if finding.rule == "not_empty" else finding.rule]
    return Explanation(
        finding,
        tuple(each for name in names for each in local.get(name, ())),
        _expected(finding, names, contract),
        0 if finding.rule in _SEEK or finding.rule == "unique" else None,
        advice.format(column=finding.column or "…"),
    )


def _expected(finding: Finding, names: tuple[str, ...], contract: Contract) -> str:
    rules = contract.rules
    column = contract.columns.get(names[0]) if len(names) == 1 else None
    if finding.rule == "min_rows":
        return f"at least {rules.min_rows.count} rows"
    if finding.rule == "not_empty":
        return "at least 1 row"
    if finding.rule == "unique":
        return f"no two rows share {' and '.join(names)}"
    if finding.rule == "class_balance" and rules.class_balance is not None:
        return f"each class in at least {rules.class_balance.min_share:.1%} of the rows"
    if finding.rule == "freshness" and rules.freshness is not None:
        return f"the newest date at most {rules.freshness.max_age_days} days old"
    if finding.rule == "cross_column":
        return " or ".join(
            f"{each.left} {each.op} {each.right}" for each in _crosses(names, contract)
        )
    assert column is not None
    return {
        "present": f"a local column for {column.name}",
        "type": f"values that read as {column.type}",
        "nulls": f"empty in at most {column.nullable_share:.1%} of the rows",
        "range": _bounds(column.range, column.unit),
        "typical": f"a median {_bounds(column.typical, column.unit)}",
        "allowed": f"one of {', '.join(map(str, allowed_values(column)))}",
        "not_future": "no date after today",
        "classes": f"each of {', '.join(map(str, allowed_values(column)))} at least once",
    }[finding.rule]


def _bounds(bounds: Any, unit: str | None) -> str:
    low, high = (bounds.min, bounds.max) if bounds is not None else (None, None)
    text = f"from {low} to {high}"
    if high is None:
        text = f"at least {low}"
    elif low is None:
        text = f"at most {high}"
    return text if unit in (None, "1") else f"{text} {unit}"


def _crosses(names: tuple[str, ...], contract: Contract) -> list[CrossColumn]:
    """Return the comparisons of these columns; a finding does not say which of several it is."""
    rules = []
    for each in contract.rules.cross_column:
        columns = (each.left, each.right) if isinstance(each.right, str) else (each.left,)
        if columns == names:
            rules.append(each)
    return rules


class _Seeker:
    """Finds the rows that break one rule, block by block.

    Args:
        made: the explanation that is filled in.
        mapping: to the contract.
        contract: the contract.
        now: for the rules about dates.
    """

    def __init__(
        self, made: Explanation, mapping: Mapping, contract: Contract, now: datetime
    ) -> None:
        self.made = made
        self.seen = 0
        self.hashes: list[NDArray[np.uint64]] = []
        self._names = tuple((made.finding.column or "").split("+"))
        self._contract = contract
        self._mapping = mapping
        self._now = now

    def seek(self, raw: pd.DataFrame, table: pd.DataFrame) -> list[int]:
        """Count the rows of a block that break the rule; return those that are to be shown."""
        self.seen += len(table)
        if any(name not in table for name in self._names):
            return []
        if self.made.finding.rule == "unique":
            self.hashes.append(_row_hashes(table, self._names))
            return []
        broken = _SEEK[self.made.finding.rule](self, raw, table)
        at = np.flatnonzero(broken)
        assert self.made.rows is not None
        self.made.rows += len(at)
        return [int(each) for each in at[: SHOWN - len(self.made.places)]]

    def value(self, raw: pd.DataFrame, at: int) -> str:
        """Return what stands in the rule's local columns in one row."""
        import pandas as pd

        there = [name for name in self.made.local if name in raw]
        values = [raw[name].iloc[at] for name in there]
        return ", ".join("(empty)" if pd.isna(each) else str(each) for each in values)

    def column(self) -> Column:
        """Return the rule's column."""
        return self._contract.columns[self._names[0]]

    def unreadable(self, raw: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the rows that hold something which became nothing."""
        return self._mapping.lost(dict(raw.items()), table, self.column())

    def empty(self, _: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the rows that hold nothing."""
        empty: NDArray[np.bool_] = table[self._names[0]].isna().to_numpy()
        return empty

    def outside(self, _: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the rows outside the column's range."""
        bounds = self.column().range
        broken = np.zeros(len(table), dtype=bool)
        low, high = (bounds.min, bounds.max) if bounds is not None else (None, None)
        for compare, end in ((operator.lt, low), (operator.gt, high)):
            if end is not None:
                broken |= _compared(compare, table[self._names[0]], _end(end))
        return broken

    def unlisted(self, _: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the rows with a value that the contract does not list."""
        series = table[self._names[0]]
        known = series.isin(allowed_values(self.column())).to_numpy(dtype=bool)
        unlisted: NDArray[np.bool_] = series.notna().to_numpy() & ~known
        return unlisted

    def later(self, _: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the rows with a date after today."""
        from datetime import UTC

        today = self._now.astimezone(UTC).replace(tzinfo=None)
        return _compared(operator.gt, table[self._names[0]], today)

    def crossed(self, _: pd.DataFrame, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Return the rows in which a comparison does not hold."""
        broken = np.zeros(len(table), dtype=bool)
        for each in _crosses(self._names, self._contract):
            right = table[each.right] if isinstance(each.right, str) else each.right
            there = table[each.left].notna().to_numpy()
            if isinstance(each.right, str):
                there = there & table[each.right].notna().to_numpy()
            broken |= there & ~_compared(_COMPARE[each.op], table[each.left], right)
        return broken


_SEEK = {
    "type": _Seeker.unreadable,
    "nulls": _Seeker.empty,
    "range": _Seeker.outside,
    "allowed": _Seeker.unlisted,
    "not_future": _Seeker.later,
    "cross_column": _Seeker.crossed,
}


def _end(end: Any) -> Any:
    return end if isinstance(end, float | int) else datetime(end.year, end.month, end.day)


def _compared(compare: Any, left: pd.Series[Any], right: Any) -> NDArray[np.bool_]:
    answer = compare(left, right)
    holds: NDArray[np.bool_] = answer.fillna(False).to_numpy(dtype=bool)
    return holds


def _row_hashes(table: pd.DataFrame, names: Sequence[str]) -> NDArray[np.uint64]:
    """Return 64 bits per row; 0 where all columns are empty, which no rule about keys looks at."""
    import pandas as pd

    rows = table[list(names)]
    hashes = pd.util.hash_pandas_object(rows, index=False).to_numpy().astype(np.uint64)
    hashes[rows.isna().all(axis=1).to_numpy()] = 0
    return hashes


def _numbered(
    source: Source, wanted: Sequence[str], keep: RowFilter | None
) -> Iterator[tuple[str | None, int, pd.DataFrame]]:
    """Yield (file, rows before the block in it, the block); its index counts within the block."""
    for name, part in source.parts():
        start = 0
        # As written: so no later row changes the type of earlier ones.
        for block in part.blocks(wanted, text=wanted):
            rows = to_frame(block)
            if keep is not None:
                rows = rows[np.asarray(keep.keep(block), dtype=bool)]
            yield name, start, rows
            start += block.num_rows


def _name_duplicates(
    seekers: Sequence[_Seeker],
    source: Source,
    wanted: Sequence[str],
    keep: RowFilter | None,
    key: str | None,
) -> None:
    """Fill in the rows that share a key: known only once all rows have been seen."""
    due: dict[int, list[_Seeker]] = {}
    for seeker in seekers:
        if not seeker.hashes:
            continue
        hashes = np.concatenate(seeker.hashes)
        values, counts = np.unique(hashes[hashes != 0], return_counts=True)
        shared = np.flatnonzero(np.isin(hashes, values[counts > 1]))
        seeker.made.rows = len(shared)
        for each in shared[:SHOWN]:
            due.setdefault(int(each), []).append(seeker)
    before, last = 0, max(due, default=-1)
    if last < 0:
        return
    for file, start, rows in _numbered(source, wanted, keep):
        for at in range(before, min(before + len(rows), last + 1)):
            for seeker in due.get(at, ()):
                row = rows.iloc[[at - before]]
                name = None if key is None else str(row[key].iloc[0])
                number = start + int(row.index[0]) + 1
                place = Place(number, file, name, seeker.value(row, 0))
                seeker.made.places.append(place)
        before += len(rows)
        if before > last:
            return
