"""SQLite, and any database that SQLAlchemy has a dialect for, block by block."""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

from silos.sources import postgres
from silos.sources.blocks import BLOCK_ROWS, in_blocks, to_frame
from silos.sources.password import password_of

if TYPE_CHECKING:
    import pyarrow as pa

    from silos.sources.source import Source

_FETCH_ROWS = BLOCK_ROWS // 8
"""Rows that are Python objects at one time; as Arrow they take a tenth of that memory."""


def names_of(source: Source) -> list[str]:
    """Return the names of the columns."""
    if source.type == "sqlite":
        with closing(_sqlite(source)) as connection:
            return _names(connection.execute(_none(select(source, _sqlite_quoted))))
    import sqlalchemy

    with connected(source) as connection:
        query = select(source, connection.dialect.identifier_preparer.quote_identifier)
        return list(connection.execute(sqlalchemy.text(_escaped(_none(query)))).keys())


def tables(source: Source, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows; the database keeps them until they are fetched."""
    if source.type == "sqlite":
        with closing(_sqlite(source)) as connection:
            query = _columns(select(source, _sqlite_quoted), wanted, _sqlite_quoted)
            cursor = connection.execute(query)
            yield from _fetched(cursor.fetchmany, wanted)
        return
    import sqlalchemy

    with connected(source) as connection:
        quoted = connection.dialect.identifier_preparer.quote_identifier
        query = _columns(select(source, quoted), wanted, quoted)
        if postgres.can_copy(connection):
            yield from postgres.tables(connection, query)
            return
        options = {"stream_results": True, "max_row_buffer": _FETCH_ROWS}
        result = connection.execution_options(**options).execute(sqlalchemy.text(_escaped(query)))
        yield from _fetched(result.fetchmany, wanted)


def version(source: Source) -> str:
    """Return a SHA-256 that changes with the rows: of the version query's answer, or of all rows.

    Without a version query every row is read, a block at a time. Then the order of rows does not
    count, since a database promises none.
    """
    if source.version_query is not None:
        import sqlalchemy

        with connected(source) as connection:
            rows = connection.execute(sqlalchemy.text(_escaped(source.version_query))).fetchall()
        said = repr([[str(value) for value in row] for row in rows])
        return hashlib.sha256(said.encode()).hexdigest()
    if source.type == "sql":
        with connected(source) as connection:
            if postgres.can_copy(connection):
                quoted = connection.dialect.identifier_preparer.quote_identifier
                said = postgres.version(connection, select(source, quoted))
                return hashlib.sha256(said.encode()).hexdigest()
    import pandas as pd

    num_rows, total, mixed = 0, 0, 0
    for block in in_blocks(tables(source, names_of(source))):
        frame = to_frame(block).astype(object)
        hashes = pd.util.hash_pandas_object(frame.astype(str), index=False).to_numpy()
        num_rows += len(hashes)
        total = (total + int(hashes.sum())) % 2**64
        # A second sum, of something that is not linear in the first.
        mixed = (mixed + int((hashes * (hashes | 1)).sum())) % 2**64
    return hashlib.sha256(f"{num_rows} {total} {mixed}".encode()).hexdigest()


def select(source: Source, quoted: Any) -> str:
    """Return the SELECT for all columns of a source's table or query."""
    if source.query is not None:
        return source.query.strip().rstrip(";")
    return f"SELECT * FROM {quoted(source.table or '')}"


def why(source: Source, cause: Exception) -> str:
    """Return in one sentence why a database cannot be read."""
    said = str(cause)
    if re.search(r"no such table|(relation|[tT]able)\b.*(does not|doesn't) exist", said, re.S):
        named = f"'{source.table}'" if source.table else "that the query names"
        return f"there is no table {named}; check table or query"
    if source.type == "sqlite" and "not a database" in said:
        return "the file is not an SQLite database"
    if re.search(r"password|authentication|Access denied", said):
        return "the database refuses the user or the password; check url and password"
    if re.search(r"connection|connect to", said, re.I):
        return "the database cannot be reached; check the url's host, port and database"
    return f"it cannot be read ({type(cause).__name__}); check its options"


def array_of(values: Sequence[Any]) -> pa.Array:
    """Return a database's values of one column as Arrow; what Arrow has no plain type for as text.

    >>> array_of([1, None]).type, array_of(["a", 1]).to_pylist()
    (DataType(int64), ['a', '1'])
    """
    import pyarrow as pa

    try:
        found = pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        found = None
    if found is not None and not _is_odd(found.type):
        return found
    return pa.array([None if each is None else str(each) for each in values], pa.string())


def _is_odd(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(
        pa.types.is_nested(kind)
        or pa.types.is_binary(kind)
        or isinstance(kind, pa.BaseExtensionType)
    )


@contextmanager
def connected(source: Source) -> Iterator[Any]:
    """Give a SQLAlchemy connection that is closed afterwards, and changes nothing."""
    import sqlalchemy

    url = sqlalchemy.make_url(source.url or "")
    password = password_of(source)
    if password is not None:
        url = url.set(password=password)
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    try:
        with engine.connect() as connection:
            if engine.dialect.name == "postgresql":
                connection.execution_options(postgresql_readonly=True)
            yield connection
            connection.rollback()
    finally:
        engine.dispose()


def _sqlite(source: Source) -> sqlite3.Connection:
    (path,) = source.files()
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)


def _fetched(fetchmany: Any, wanted: Sequence[str]) -> Iterator[pa.Table]:
    import pyarrow as pa

    while rows := fetchmany(_FETCH_ROWS):
        columns = [array_of(values) for values in zip(*rows, strict=True)]
        yield pa.Table.from_arrays(columns, names=list(wanted))
    yield pa.table({name: pa.nulls(0) for name in wanted})


def _names(cursor: sqlite3.Cursor) -> list[str]:
    return [each[0] for each in cursor.description]


def _columns(query: str, wanted: Sequence[str], quoted: Any) -> str:
    return f"SELECT {', '.join(quoted(name) for name in wanted)} FROM ({query}) t"


def _none(query: str) -> str:
    return f"SELECT * FROM ({query}) t WHERE 1 = 0"


def _escaped(query: str) -> str:
    # SQLAlchemy takes :name for a parameter; a time or a cast has colons of its own.
    return re.sub(r"(?<!:):(?=\w)", r"\\:", query)


def _sqlite_quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
