"""Check a canonical table against its contract, inside the silo, with Great Expectations.

A table that does not fit into memory keeps or breaks the same rules in `silos.rows.check_blocks`,
with the same report.

The report (`CheckReport`) holds verdicts and coarse counts and may leave. What Great Expectations
itself returns holds values of rows and never leaves: `check` reads booleans and counts from it,
`write_docs` writes it as pages below the silo's own directory for the people there.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.contracts.contract import Column, Contract, CrossColumn, Severity
from consilo.contracts.report import (
    CheckReport,
    Counts,
    Finding,
    RuleName,
    Verdict,
    coarse,
    verdict_of,
)
from silos.rows.canonical import allowed_values
from silos.rows.checks.judge import Judge
from silos.rows.checks.library import quiet_gx
from silos.rows.checks.pages import first_page, write_pages
from silos.rows.mapping import UNREADABLE

if TYPE_CHECKING:
    import pandas as pd

_GX_TYPES = {
    "float": "float64",
    "integer": "int64",
    "boolean": "bool",
    "category": "str",
    "string": "str",
    "date": "datetime64",
}
OF_ROWS = frozenset({"type", "nulls", "range", "allowed", "not_future", "unique", "cross_column"})
"""Rules that single rows break; for the others a number of failed rows has no meaning."""
MOST_SHOWN = 500
"""Rules on a page: Great Expectations draws each for 2 ms, one with rows that break it for 8."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Rule:
    """One rule of a contract as Great Expectations checks it.

    Args:
        name: the rule's name in findings.
        columns: the canonical columns it needs; empty for a rule of the table.
        severity: of the rule.
        expectations: all must succeed.
    """

    name: RuleName
    columns: tuple[str, ...]
    severity: Severity
    expectations: tuple[Any, ...]


def check(frame: pd.DataFrame, contract: Contract, *, now: datetime) -> CheckReport:
    """Return how the canonical table that a mapping made stands to the contract.

    Args:
        frame: from `silos.rows.mapping.Mapping.apply`; left as it is.
        contract: the contract.
        now: for the rules about dates.
    """
    rules = compile_rules(contract, frame.attrs.get(UNREADABLE, {}), now=now)
    facts = _facts(frame, rules)
    held, failed = _judged(frame, rules, facts)
    return report_of(contract, rules, facts, held, failed)


def _judged(
    frame: pd.DataFrame, rules: Sequence[Rule], facts: Facts
) -> tuple[dict[int, bool], dict[int, int]]:
    """Return whether each rule holds that can be checked, and how many rows break it."""
    held, failed = {}, {}
    with quiet_gx():
        judge = Judge(_with_marks(frame), len(frame))
        for index, rule in enumerate(rules):
            if can_be_checked(rule, facts):
                judged = [judge.judge(each) for each in rule.expectations]
                held[index] = all(each.holds for each in judged)
                if not held[index] and rule.name in OF_ROWS:
                    failed[index] = max(each.failed for each in judged)
    return held, failed


def write_docs(frame: pd.DataFrame, contract: Contract, silo_dir: Path, *, now: datetime) -> Path:
    """Write the full report for the people in the silo; return the path of its first page.

    The pages and all that Great Expectations keeps lie in ``silo_dir/gx``. They quote values of
    rows: they are not for anybody outside. Of more than `MOST_SHOWN` rules they have those that do
    not hold first, then as many others.
    """
    rules = compile_rules(contract, frame.attrs.get(UNREADABLE, {}), now=now)
    facts = _facts(frame, rules)
    shown = [at for at, rule in enumerate(rules) if can_be_checked(rule, facts)]
    left_out = len(shown) - MOST_SHOWN
    if left_out > 0:
        held, _ = _judged(frame, rules, facts)
        shown = sorted(sorted(shown, key=lambda at: (held[at], at))[:MOST_SHOWN])
    name = f"{contract.name}_{contract.version}"
    note = f"{left_out:,} more rules are not shown; those that do not hold come first"
    write_pages(
        _with_marks(frame),
        frame.index,
        _marked(enumerate(rules[at] for at in shown)),
        name,
        silo_dir,
        note=note if left_out > 0 else "",
    )
    return first_page(silo_dir)


def page_of(silo_dir: Path, contract: Contract) -> Path:
    """Return the newest full report: of Great Expectations, or of a check in blocks."""
    whole = first_page(silo_dir)
    blocks = blocks_page(silo_dir, contract.ref)
    there = [page for page in (whole, blocks) if page.exists()]
    return max(there, key=lambda page: page.stat().st_mtime_ns, default=whole)


def blocks_page(silo_dir: Path, ref: str) -> Path:
    """Return where `silos.rows.check_blocks` says what it found, for a contract's reference."""
    return silo_dir / "gx" / f"{ref.replace('@', '_')}.txt"


def compile_rules(
    contract: Contract, unreadable: Mapping[str, dict[str, Any]], *, now: datetime
) -> list[Rule]:
    """Return the contract's rules in its order, those of each column first.

    Args:
        contract: the contract.
        unreadable: column → count and first rows of what the mapping could not read.
        now: for the rules about dates.
    """
    with quiet_gx() as gx:
        expect = gx.expectations
        today = now.astimezone(UTC).replace(tzinfo=None)
        rules: list[Rule] = []
        for column in contract.table:
            rules += _column_rules(expect, column, unreadable.get(column.name), today)
        rules += _table_rules(expect, contract, today)
    return rules


def _column_rules(
    expect: Any, column: Column, unreadable: dict[str, Any] | None, today: datetime
) -> Iterator[Rule]:
    name = column.name

    def rule(kind: RuleName, *expectations: Any, severity: Severity | None = None) -> Rule:
        return Rule(kind, (name,), severity or column.severity, expectations)

    yield rule("present", expect.ExpectColumnToExist(column=name))
    kinds = [expect.ExpectColumnValuesToBeOfType(column=name, type_=_GX_TYPES[column.type])]
    if unreadable:
        rows = ", ".join(str(row + 1) for row in unreadable["rows"])
        note = f"{unreadable['count']} not readable as {column.type}; first in rows {rows}"
        kinds.append(
            expect.ExpectColumnValuesToBeInSet(column=_mark(name), value_set=[False], notes=note)
        )
    yield rule("type", *kinds)
    if column.nullable_share < 1:
        mostly = max(0.0, 1 - column.nullable_share - _ROUNDING)
        yield rule("nulls", expect.ExpectColumnValuesToNotBeNull(column=name, mostly=mostly))
    if column.range:
        low, high = _ends(column.range.min), _ends(column.range.max)
        between = expect.ExpectColumnValuesToBeBetween(column=name, min_value=low, max_value=high)
        yield rule("range", between, severity=column.range.severity)
    if column.typical:
        low, high = column.typical.min, column.typical.max
        median = expect.ExpectColumnMedianToBeBetween(column=name, min_value=low, max_value=high)
        yield rule("typical", median, severity=column.typical.severity)
    if column.allowed is not None:
        values = allowed_values(column)
        yield rule("allowed", expect.ExpectColumnValuesToBeInSet(column=name, value_set=values))
    if column.type == "date" and not column.future:
        before = expect.ExpectColumnValuesToBeBetween(column=name, max_value=today)
        yield rule("not_future", before)


def _table_rules(expect: Any, contract: Contract, today: datetime) -> Iterator[Rule]:
    rules = contract.rules
    rows = expect.ExpectTableRowCountToBeBetween(min_value=rules.min_rows.count)
    yield Rule("min_rows", (), rules.min_rows.severity, (rows,))
    if rules.min_rows.severity == "warning":
        some = expect.ExpectTableRowCountToBeBetween(min_value=1)
        yield Rule("not_empty", (), "error", (some,))
    for unique in rules.unique:
        if len(unique.columns) == 1:
            once = expect.ExpectColumnValuesToBeUnique(column=unique.columns[0])
        else:
            once = expect.ExpectCompoundColumnsToBeUnique(column_list=list(unique.columns))
        yield Rule("unique", unique.columns, unique.severity, (once,))
    for name in contract.targets:
        column = contract.columns[name]
        if column.classes is None:
            continue
        if rules.class_balance is None:
            classes = allowed_values(column)
            all_there = expect.ExpectColumnDistinctValuesToContainSet(
                column=name, value_set=classes
            )
            yield Rule("classes", (name,), "warning", (all_there,))
        else:
            share = rules.class_balance.min_share - _ROUNDING
            shares = tuple(
                expect.ExpectColumnValuesToBeInSet(column=name, value_set=[each], mostly=share)
                for each in allowed_values(column)
            )
            yield Rule("class_balance", (name,), rules.class_balance.severity, shares)
    if rules.freshness:
        oldest = today - timedelta(days=rules.freshness.max_age_days)
        newest = expect.ExpectColumnMaxToBeBetween(column=rules.freshness.column, min_value=oldest)
        yield Rule("freshness", (rules.freshness.column,), rules.freshness.severity, (newest,))
    for cross in rules.cross_column:
        columns = (cross.left, cross.right) if isinstance(cross.right, str) else (cross.left,)
        yield Rule("cross_column", columns, cross.severity, (_compares(expect, cross),))


def _compares(expect: Any, cross: CrossColumn) -> Any:
    left, right, strict = cross.left, cross.right, cross.op in ("<", ">")
    if isinstance(right, str):
        either = "either_value_is_missing"
        if cross.op == "==":
            return expect.ExpectColumnPairValuesToBeEqual(
                column_A=left, column_B=right, ignore_row_if=either
            )
        larger, smaller = (left, right) if cross.op in (">", ">=") else (right, left)
        return expect.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A=larger, column_B=smaller, or_equal=not strict, ignore_row_if=either
        )
    if cross.op == "==":
        return expect.ExpectColumnValuesToBeInSet(column=left, value_set=[right])
    if cross.op in (">", ">="):
        return expect.ExpectColumnValuesToBeBetween(column=left, min_value=right, strict_min=strict)
    return expect.ExpectColumnValuesToBeBetween(column=left, max_value=right, strict_max=strict)


def _ends(end: Any) -> Any:
    if end is None or isinstance(end, float):
        return end
    return datetime(end.year, end.month, end.day)


@dataclass(frozen=True)
class Facts:
    """What a report says of a table beside the verdicts.

    Args:
        num_rows: of the table.
        columns: its columns, quick to ask for one.
        nulls: columns of a rule → in how many rows one of them is empty.
        unreadable: as `compile_rules` has it.
    """

    num_rows: int
    columns: Collection[str]
    nulls: Mapping[tuple[str, ...], int]
    unreadable: Mapping[str, dict[str, Any]]


def columns_there(rule: Rule, columns: Collection[str]) -> tuple[str, ...]:
    """Return those columns of a rule that the table has."""
    return tuple(column for column in rule.columns if column in columns)


def can_be_checked(rule: Rule, facts: Facts) -> bool:
    """Return whether there is something to check: a rule holds of nothing, and says nothing."""
    if rule.name in ("present", "min_rows", "not_empty"):
        return True
    if any(column not in facts.columns for column in rule.columns):
        return False
    if rule.name == "type":
        return True
    if not facts.num_rows:
        return False
    all_null = any(facts.nulls[(column,)] == facts.num_rows for column in rule.columns)
    # Whether nothing may be recorded at all is for the rule "nulls" to judge.
    return not all_null or rule.name in ("nulls", "freshness")


def report_of(
    contract: Contract,
    rules: Sequence[Rule],
    facts: Facts,
    held: Mapping[int, bool],
    failed: Mapping[int, int],
) -> CheckReport:
    """Return the report of a check.

    Args:
        contract: the contract.
        rules: of `compile_rules`.
        facts: of the table.
        held: position of a rule that was checked → whether it holds.
        failed: position of a rule that single rows break → how many do.
    """
    findings = []
    for index, rule in enumerate(rules):
        verdict: Verdict = "pass" if held.get(index) else "fail" if index in held else "not_checked"
        there = columns_there(rule, facts.columns)
        count = failed.get(index, 0)
        if rule.name == "type" and there:
            count = facts.unreadable.get(there[0], {}).get("count", count)
        counts = Counts(
            rows=coarse(facts.num_rows),
            failed=coarse(count),
            nulls=coarse(facts.nulls[there] if there else 0),
        )
        column = "+".join(rule.columns) or None
        findings.append(
            Finding(
                rule=rule.name,
                column=column,
                verdict=verdict,
                severity=rule.severity,
                counts=counts,
            )
        )
    judged = tuple(findings)
    return CheckReport(
        contract=contract.ref,
        contract_digest=contract.digest,
        verdict=verdict_of(judged),
        findings=judged,
    )


def _facts(frame: pd.DataFrame, rules: Sequence[Rule]) -> Facts:
    import numpy as np

    names = dict.fromkeys(frame.columns)
    nulls: dict[tuple[str, ...], int] = {
        (name,): int(np.count_nonzero(frame[name].isna().to_numpy())) for name in names
    }
    for rule in rules:
        there = columns_there(rule, names)
        if len(there) > 1 and there not in nulls:
            nulls[there] = int(frame[list(there)].isna().any(axis=1).sum())
    return Facts(len(frame), names.keys(), nulls, frame.attrs.get(UNREADABLE, {}))


def _marked(rules: Iterable[tuple[int, Rule]]) -> list[Any]:
    """Return the expectations of rules, each with its rule's name, position and severity."""
    return [
        expectation.copy(
            update={
                "meta": {"rule": rule.name, "position": position},
                "severity": "critical" if rule.severity == "error" else "warning",
            }
        )
        for position, rule in rules
        for expectation in rule.expectations
    ]


def _mark(column: str) -> str:
    return f"{column} (unreadable)"


def _with_marks(frame: pd.DataFrame) -> dict[str, pd.Series[Any]]:
    """Return the columns, uncopied, and one of marks for each that had unreadable values."""
    import pandas as pd

    shown: dict[str, pd.Series[Any]] = {name: frame[name] for name in frame.columns}
    for name, entry in frame.attrs.get(UNREADABLE, {}).items():
        if name in shown:
            marks = frame.index.isin(entry["rows"])
            shown[_mark(name)] = pd.Series(marks, index=frame.index)
    return shown
