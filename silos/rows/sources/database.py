"""What databases have in common: a table or a SELECT, and values that become columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

from pydantic import model_validator

from silos.rows.sources.blocks import BLOCK_ROWS, NO_TEXT
from silos.rows.sources.raw_table import RawTable, unexplained

if TYPE_CHECKING:
    import pyarrow as pa

FETCH_ROWS = BLOCK_ROWS // 8
"""Rows that are Python objects at one time; as Arrow they take a tenth of that memory."""

Quote = Callable[[str], str]
"""Makes a name of a table or column one that a SELECT can hold."""


class DatabaseSource(RawTable):
    """A table of a database, or what a SELECT gives.

    Args:
        table: the table to read.
        query: a SELECT to run in place of a table.
    """

    table: str | None = None
    query: str | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("give a table or a query, one of them")
        return self

    def _select(self, quoted: Quote) -> str:
        """Return the SELECT for all columns."""
        if self.query is not None:
            return self.query.strip().rstrip(";")
        return f"SELECT * FROM {quoted(self.table or '')}"

    def _why(self, cause: Exception) -> str:
        message = str(cause)
        if re.search(
            r"no such table|(relation|[tT]able)\b.*(does not|doesn't) exist", message, re.S
        ):
            named = f"'{self.table}'" if self.table else "that the query names"
            return f"there is no table {named}; check table or query"
        if re.search(r"password|authentication|Access denied", message):
            return "the database refuses the user or the password; check url and password"
        if re.search(r"connection|connect to", message, re.I):
            return "the database cannot be reached; check the url's host, port and database"
        return unexplained(cause)


def some_columns(query: str, wanted: Sequence[str], quoted: Quote) -> str:
    """Return the SELECT for some columns of another."""
    return f"SELECT {', '.join(quoted(name) for name in wanted)} FROM ({query}) t"


def no_rows(query: str) -> str:
    """Return the SELECT for the columns of another, without its rows."""
    return f"SELECT * FROM ({query}) t WHERE 1 = 0"


def double_quoted(name: str) -> str:
    """Return a name as standard SQL quotes it."""
    return '"' + name.replace('"', '""') + '"'


def fetched(fetchmany: Callable[[int], Any], wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Yield what a cursor gives, a few thousand rows at a time, and in the end no rows."""
    import pyarrow as pa

    while rows := fetchmany(FETCH_ROWS):
        columns = [array_of(values) for values in zip(*rows, strict=True)]
        yield pa.Table.from_arrays(columns, names=list(wanted))
    yield pa.table({name: pa.nulls(0) for name in wanted})


def array_of(values: Sequence[Any]) -> pa.Array:
    """Return a database's values of one column as Arrow; what Arrow has no plain type for as text.

    Bytes are no text in any encoding: they become `NO_TEXT`, which nothing reads.

    >>> array_of([1, None]).type, array_of(["a", 1]).to_pylist()
    (DataType(int64), ['a', '1'])
    """
    import pyarrow as pa

    if any(isinstance(each, bytes | bytearray | memoryview) for each in values):
        is_bytes = (bytes, bytearray, memoryview)
        values = [NO_TEXT if isinstance(each, is_bytes) else each for each in values]
    try:
        array = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        array = None
    if array is not None and not _is_odd(array.type):
        return array
    return pa.array([None if each is None else str(each) for each in values], pa.string())


def _is_odd(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_nested(kind)
        or pa.types.is_binary(kind)
        or isinstance(kind, pa.BaseExtensionType)
    )
