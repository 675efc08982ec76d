"""From a silo's raw rows to its canonical table, a block at a time: read, filter, map, keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.contracts.contract import Contract
from consilo.errors import SourceUnreadable
from silos.rows.arrow import column_to_arrow
from silos.rows.mapping import ROWS_SHOWN, MadeColumn, Mapping, add_seen
from silos.rows.sources import CsvSource, DuckSource, RowFilter, Source, TypesChanged, kept_rows
from silos.rows.sources.blocks import BlockColumns
from silos.rows.sources.raw_table import RawTable
from silos.rows.spool import TableSpool

if TYPE_CHECKING:
    import pyarrow as pa

Unreadable = dict[str, dict[str, Any]]
"""Column → how many values could not be read, and the first rows; as in ``frame.attrs``."""


def standardise(
    source: Source,
    mapping: Mapping,
    contract: Contract,
    directory: Path,
    *,
    keep: RowFilter | None = None,
    rows_shown: int | None = ROWS_SHOWN,
) -> tuple[pa.Table, Unreadable]:
    """Return the canonical table and what could not be read, in the memory of a few blocks.

    Args:
        source: the rows.
        mapping: to the contract.
        contract: the contract.
        directory: where the table's files lie; the owner's only. The caller removes it.
        keep: which raw rows may be used; None for all.
        rows_shown: of so many rows that could not be read it is said which; None for all.

    Raises:
        SourceUnreadable: where the source cannot be read.
    """
    _require_codes(source, contract)
    available = source.columns()
    local = mapping.local_columns(contract)
    wanted = dict.fromkeys(name for each in local.values() for name in each)
    # A column that is not there is a finding of the check, not an error of the source. With none
    # there at all, any one column still tells how many rows there are.
    there = [name for name in wanted if name in available] or available[:1]
    text = {name for name in mapping.text_columns(contract) if name in there}
    if keep is not None:
        there += [name for name in keep.columns if name not in there]
        text.update(keep.columns)
    by_type = _reads_csv_as_numbers(source)
    commas = mapping.comma_columns(contract) if by_type else ()
    codes = mapping.code_columns(contract) if by_type else ()
    types: dict[str, pa.DataType] = {}
    seen: dict[str, frozenset[str]] = {}
    while True:
        spool = TableSpool(directory)
        unreadable: Unreadable = {}
        shown: dict[str, frozenset[str]] = {}
        try:
            raw = kept_rows(source.blocks(there, text=sorted(text), types=types), keep)
            for block in _codes_certain(_points_certain(raw, commas), codes):
                start, num_rows = spool.num_rows, block.num_rows
                columns = BlockColumns(block)
                del block  # else no column could go before the last one is mapped
                made = mapping.made(columns, num_rows, contract, seen=seen, rows_shown=rows_shown)
                kept = _noted(made, unreadable, shown, start, rows_shown)
                spool.append(num_rows, ((each.name, column_to_arrow(each.values)) for each in kept))
            if not add_seen(seen, shown):
                return spool.table(), unreadable
            spool.remove()  # what later dates show makes earlier ones doubtful
        except TypesChanged as changed:
            spool.remove()
            types = changed.types


def _require_codes(source: Source, contract: Contract) -> None:
    """Raise where a code that the contract allows means "nothing" to the source: it would be lost.

    Raises:
        SourceUnreadable: naming the column, the code and the option.
    """
    nothing = set(source.na_values) if isinstance(source, CsvSource) else set()
    for column in contract.table:
        lost = sorted({str(each) for each in column.allowed or ()} & nothing)
        if lost:
            raise SourceUnreadable(
                f"{source.where}: {contract.ref} allows {', '.join(map(repr, lost))} in column "
                f"'{column.name}', and the source reads that as nothing; set na_values, such as "
                "na_values: ['']"
            )


def _reads_csv_as_numbers(source: RawTable) -> bool:
    """Return whether DuckDB reads a CSV file, whose types it must know before any mapping does."""
    return isinstance(source, DuckSource) and any(
        isinstance(each, CsvSource) or _reads_csv_as_numbers(each)
        for each in source.tables.values()
    )


def _points_certain(blocks: Iterator[pa.Table], commas: Sequence[str]) -> Iterator[pa.Table]:
    """Yield blocks; raise where DuckDB has read ``1.234`` as 1.234 and the mapping says 1234."""
    import pyarrow as pa

    for block in blocks:
        for name in commas:
            if name in block.schema.names and pa.types.is_floating(block.schema.field(name).type):
                raise SourceUnreadable(
                    f"column '{name}': DuckDB has read it from CSV with points as decimal signs, "
                    "and the mapping says decimal: ','; take decimal out of the mapping where they "
                    "are, else read the file as a source of type csv"
                )
        yield block


def _codes_certain(blocks: Iterator[pa.Table], codes: Sequence[str]) -> Iterator[pa.Table]:
    """Yield blocks; raise where DuckDB may have read the codes ``1.10`` and ``1.1`` as 1.1."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for block in blocks:
        for name in codes:
            if name not in block.schema.names or not pa.types.is_floating(block[name].type):
                continue
            # 7.0 is how 7 is written in a column with gaps, and is 7 from every way in.
            if pc.any(pc.not_equal(pc.floor(block[name]), block[name])).as_py():
                raise SourceUnreadable(
                    f"column '{name}': DuckDB has read it from CSV as numbers, where 1.10 is 1.1, "
                    "and the contract says it is text; name it under as_text of the CSV source, or "
                    "read the file as a source of type csv"
                )
        yield block


def _noted(
    columns: Iterable[MadeColumn],
    unreadable: Unreadable,
    shown: dict[str, frozenset[str]],
    start: int,
    rows_shown: int | None,
) -> Iterator[MadeColumn]:
    """Yield the columns of a block that begins at row ``start``; add what is to say of them."""
    for each in columns:
        if each.unreadable:
            known = unreadable.setdefault(each.name, {"count": 0, "rows": []})
            known["count"] += each.unreadable["count"]
            known["rows"] += [start + row for row in each.unreadable["rows"]]
            known["rows"] = known["rows"][:rows_shown]
        if each.shown:
            shown[each.name] = shown.get(each.name, frozenset()) | each.shown
        yield each
