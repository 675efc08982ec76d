"""Check a canonical table that does not fit into memory: the same rules, counted block by block.

The rules are the expectations that `silos.rows.check.compile_rules` makes of a contract. Great
Expectations would hold the table for them; here each is a tally that blocks are added to. The
report is the same, to the count, as `silos.rows.check.check` gives of the whole table:

- what single rows keep or break is counted;
- the median is not computed: whether it lies within bounds follows from how many values lie below
  each bound, and, where a bound falls between the two middle values, from its two neighbours;
- rows that share a key are grouped by DuckDB, which keeps on disk what does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport
from consilo.machine.files import write_atomic
from silos.rows.arrow import to_pandas
from silos.rows.check import (
    OF_ROWS,
    Facts,
    blocks_page,
    can_be_checked,
    columns_there,
    compile_rules,
    report_of,
)
from silos.rows.checks.conditions import Condition, condition_of
from silos.rows.sources.blocks import BLOCK_ROWS
from silos.rows.sources.duck import locked

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_GROUPING_BYTES = (64 << 20, 1 << 30)
"""Least and most memory for finding rows that share a key; what is beyond lies on disk."""
_TYPES = {
    "float64": "double",
    "int64": "int64",
    "bool": "bool",
    "str": "large_string",
    "datetime64": "timestamp[ns]",
}


@dataclass(frozen=True)
class Evaluated:
    """How one rule was judged, for the people in the silo: exact numbers, no rounding.

    Args:
        rule: the rule's name.
        columns: its columns.
        severity: ``error`` or ``warning``.
        verdict: ``pass``, ``fail`` or ``not_checked``.
        failed: rows that break it.
        how: what it was judged by.
    """

    rule: str
    columns: Sequence[str]
    severity: str
    verdict: str
    failed: int
    how: str


def check_blocks(
    table: pa.Table,
    contract: Contract,
    unreadable: Mapping[str, dict[str, Any]],
    spill: Path,
    *,
    now: datetime,
    memory_bytes: int = _GROUPING_BYTES[1],
    block_rows: int = BLOCK_ROWS,
) -> tuple[CheckReport, list[Evaluated]]:
    """Return the report of a canonical table, and how each rule was judged.

    Args:
        table: mapped from a file; only a block of it is held.
        contract: the contract.
        unreadable: of `silos.rows.standardise.standardise`.
        spill: a folder for what does not fit while rows are grouped; the owner's only.
        now: for the rules about dates.
        memory_bytes: what the check may take.
        block_rows: rows of a block; the report does not depend on it.
    """
    rules = compile_rules(contract, unreadable, now=now)
    columns = dict.fromkeys(name for name in table.schema.names if name).keys()
    counted: dict[tuple[str, ...], int] = {(name,): 0 for name in columns}
    for rule in rules:
        counted[columns_there(rule, columns)] = 0
    least, most = _GROUPING_BYTES
    grouping = _Grouping(spill, max(least, min(most, memory_bytes // 4)))
    tallies = {
        index: [_tally(each, table, grouping) for each in rule.expectations]
        for index, rule in enumerate(rules)
        if columns >= set(rule.columns) or rule.name == "present"
    }
    adding = [each for tally in tallies.values() for each in tally if isinstance(each, _OfBlocks)]
    for frame in _frames(table, block_rows):
        empty = frame.isna()
        for there in counted:
            if there:
                together = empty[there[0]] if len(there) == 1 else empty[list(there)].any(axis=1)
                counted[there] += int(together.sum())
        for tally in adding:
            tally.add(frame)
    facts = Facts(table.num_rows, columns, counted, unreadable)
    held, failed, told = {}, {}, []
    for index, rule in enumerate(rules):
        verdict, num_failed, how = "not_checked", 0, "nothing to check"
        if can_be_checked(rule, facts):
            held[index] = all(each.holds() for each in tallies[index])
            verdict = "pass" if held[index] else "fail"
            how = ", ".join(dict.fromkeys(each.how for each in tallies[index]))
            if not held[index] and rule.name in OF_ROWS:
                num_failed = failed[index] = max(each.failed for each in tallies[index])
        if rule.name == "type" and rule.columns[0] in columns:
            num_failed = unreadable.get(rule.columns[0], {}).get("count", num_failed)
        told.append(Evaluated(rule.name, rule.columns, rule.severity, verdict, num_failed, how))
    return report_of(contract, rules, facts, held, failed), told


def write_page(told: Sequence[Evaluated], report: CheckReport, silo_dir: Path) -> Path:
    """Write how each rule was judged, with exact numbers, for the people in the silo.

    Returns:
        The page's path, below ``silo_dir/gx``; readable by the owner only.
    """
    page = blocks_page(silo_dir, report.contract)
    page.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    page.parent.chmod(0o700)
    lines = [
        report.reason(),
        "",
        "This table does not fit into memory. Great Expectations did not check it: each rule below",
        "was judged as its line says, and comes out as it would for the whole table.",
        "",
        f"{'verdict':<12}{'severity':<10}{'rule':<14}{'rows that break it':>18}  column; judged by",
    ]
    lines += [
        f"{each.verdict:<12}{each.severity:<10}{each.rule:<14}{each.failed:>18,}  "
        f"{'+'.join(each.columns) or '(table)'}; {each.how}"
        for each in told
    ]
    write_atomic(page, "\n".join([*lines, ""]).encode(), mode=0o600)
    return page


def _frames(table: pa.Table, block_rows: int) -> Iterator[pd.DataFrame]:
    for start in range(0, table.num_rows, block_rows):
        yield to_pandas(table.slice(start, block_rows))


class _Tally(Protocol):
    how: str

    @property
    def failed(self) -> int: ...

    def holds(self) -> bool: ...


class _Known:
    """A rule that the table's names, types and size decide."""

    def __init__(self, holds: bool, how: str) -> None:
        self._holds = holds
        self.failed = 0
        self.how = how

    def holds(self) -> bool:
        return self._holds


class _OfBlocks:
    """What blocks are added to."""

    how = f"counted over blocks of {BLOCK_ROWS:,} rows"
    failed = 0

    def add(self, frame: pd.DataFrame) -> None:
        raise NotImplementedError


class _Share(_OfBlocks):
    """At least a share of the rows that are asked is as expected."""

    def __init__(self, condition: Condition) -> None:
        self._condition = condition
        self._num_asked = 0

    def add(self, frame: pd.DataFrame) -> None:
        columns = {name: frame[name] for name in self._condition.columns}
        asked = self._condition.rows(columns)
        self._num_asked += int(asked.sum())
        self.failed += int(self._condition.broken(columns, asked).sum())

    def holds(self) -> bool:
        # In the floating-point arithmetic of Great Expectations, so that no share differs by a bit.
        count = float(self._num_asked)
        return not count or (count - float(self.failed)) / count >= self._condition.mostly


class _Median(_OfBlocks):
    """The median lies within bounds; see the module."""

    how = f"values below and above the bounds, counted over blocks of {BLOCK_ROWS:,} rows"

    def __init__(self, column: str, low: float | None, high: float | None) -> None:
        self._column = column
        self._sides = [
            (bound, sign, _Side()) for bound, sign in ((low, 1), (high, -1)) if bound is not None
        ]
        self._num_values = 0

    def add(self, frame: pd.DataFrame) -> None:
        values = frame[self._column].dropna().to_numpy(dtype="float64")
        self._num_values += len(values)
        for bound, sign, side in self._sides:
            side.add(sign * values, sign * bound)

    def holds(self) -> bool:
        # The upper bound is the lower bound of the negated values.
        return all(
            side.median_is_at_least(sign * bound, self._num_values)
            for bound, sign, side in self._sides
        )


class _Side:
    """How values lie to one bound."""

    def __init__(self) -> None:
        self._num_below = 0
        self._nearest_below = -math.inf
        self._nearest_above = math.inf

    def add(self, values: Any, bound: float) -> None:
        below = values[values < bound]
        above = values[values >= bound]
        self._num_below += len(below)
        self._nearest_below = max(self._nearest_below, below.max(initial=-math.inf))
        self._nearest_above = min(self._nearest_above, above.min(initial=math.inf))

    def median_is_at_least(self, bound: float, num_values: int) -> bool:
        if 2 * self._num_below != num_values:
            return 2 * self._num_below < num_values
        return (self._nearest_below + self._nearest_above) / 2 >= bound


class _Largest(_OfBlocks):
    """The largest value is not below a bound."""

    def __init__(self, column: str, least: Any) -> None:
        self._column = column
        self._least = least
        self._largest: Any = None

    def add(self, frame: pd.DataFrame) -> None:
        values = frame[self._column].dropna()
        if len(values):
            largest = values.max()
            self._largest = largest if self._largest is None else max(self._largest, largest)

    def holds(self) -> bool:
        return self._largest is not None and bool(self._largest >= self._least)


class _AllThere(_OfBlocks):
    """Every value of a list occurs."""

    def __init__(self, column: str, values: list[Any]) -> None:
        self._column = column
        self._left = list(values)

    def add(self, frame: pd.DataFrame) -> None:
        self._left = [each for each in self._left if not frame[self._column].isin([each]).any()]

    def holds(self) -> bool:
        return not self._left


@dataclass(frozen=True)
class _Grouping:
    """Where and in how much memory rows are grouped."""

    spill: Path
    memory_bytes: int


class _Unique:
    """No two rows share a key; DuckDB groups the rows, on disk where they do not fit."""

    how = "rows grouped by DuckDB, on disk where they do not fit into memory"

    def __init__(self, table: pa.Table, columns: list[str], grouping: _Grouping) -> None:
        self._table = table.select(columns)
        self._grouping = grouping
        self._failed: int | None = None

    @property
    def failed(self) -> int:
        if self._failed is None:
            self._failed = self._count()
        return self._failed

    def holds(self) -> bool:
        return self.failed == 0

    def _count(self) -> int:
        import pyarrow as pa

        names = self._table.schema.names
        keys = ", ".join(f'"{name}"' for name in names)
        # In a table of ours, an empty number is NaN. A row without any of its keys is no double.
        some = " OR ".join(
            f'("{name}" IS NOT NULL'
            + (f' AND NOT isnan("{name}"))' if pa.types.is_floating(field.type) else ")")
            for name, field in zip(names, self._table.schema, strict=True)
        )
        batches = self._table.to_batches(max_chunksize=BLOCK_ROWS)
        reader = pa.RecordBatchReader.from_batches(self._table.schema, batches)
        pa.default_memory_pool().release_unused()
        memory_mib = self._grouping.memory_bytes >> 20
        with locked(
            spill=self._grouping.spill, memory_mib=memory_mib, in_order=False
        ) as connection:
            connection.register("consilo_rows", reader)
            (repeated,) = connection.execute(
                "SELECT coalesce(sum(n), 0) FROM (SELECT count(*) AS n FROM consilo_rows "
                f"WHERE {some} GROUP BY {keys} HAVING count(*) > 1) g"
            ).fetchone()
        return int(repeated)


def _tally(
    expectation: Any,
    table: pa.Table,
    grouping: _Grouping,
) -> _Tally:
    """Return what judges one expectation of `silos.rows.check`."""
    kind = type(expectation).__name__
    name: str = getattr(expectation, "column", "")  # none where it is about several, or the table
    if kind == "ExpectColumnToExist":
        return _Known(name in table.schema.names, "the table's columns")
    if kind == "ExpectColumnValuesToBeOfType":
        column_type = str(table.schema.field(name).type)
        return _Known(_TYPES[expectation.type_] == column_type, "the columns' types")
    if kind == "ExpectTableRowCountToBeBetween":
        return _Known(table.num_rows >= expectation.min_value, "the number of rows")
    if kind == "ExpectColumnValuesToBeUnique":
        return _Unique(table, [name], grouping)
    if kind == "ExpectCompoundColumnsToBeUnique":
        return _Unique(table, list(expectation.column_list), grouping)
    if kind == "ExpectColumnMedianToBeBetween":
        return _Median(name, expectation.min_value, expectation.max_value)
    if kind == "ExpectColumnMaxToBeBetween":
        return _Largest(name, expectation.min_value)
    if kind == "ExpectColumnDistinctValuesToContainSet":
        return _AllThere(name, list(expectation.value_set))
    if kind == "ExpectColumnValuesToBeInSet" and name not in table.schema.names:
        # The column of marks that says which values could not be read.
        return _Known(False, "values that the mapping could not read")
    condition = condition_of(expectation)
    if condition is None:
        raise NotImplementedError(f"no tally for {kind}")
    return _Share(condition)
