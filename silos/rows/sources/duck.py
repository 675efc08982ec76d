"""DuckDB: a SELECT over a database file of its own, over other sources, or over both.

The query sees the tables of the database file, which is opened read-only, and the sources listed
under ``tables``, and nothing else: DuckDB may open no other file, no address, and load no
extension, and the query cannot change that. What does not fit into memory it keeps on disk.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from silos.rows.sources.blocks import BLOCK_ROWS, TypesChanged
from silos.rows.sources.database import select

if TYPE_CHECKING:
    import pyarrow as pa

    from silos.rows.sources.source import Source

MEMORY_MIB = 512


def names_of(source: Source) -> list[str]:
    """Return the names of the columns."""
    with _opened(source, rows=False) as connection:
        found = connection.execute(f"SELECT * FROM ({select(source, _quoted)}) t LIMIT 0")
        return [each[0] for each in found.description]


def tables(source: Source, wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of the query."""
    import pyarrow as pa

    columns = ", ".join(_quoted(name) for name in wanted)
    with _opened(source, rows=True) as connection:
        found = connection.sql(f"SELECT {columns} FROM ({select(source, _quoted)}) t")
        reader = found.to_arrow_reader(BLOCK_ROWS)
        yield reader.schema.empty_table()
        for batch in reader:
            yield pa.Table.from_batches([batch])


@contextmanager
def locked(
    database: Path | None = None,
    *,
    memory_mib: int = MEMORY_MIB,
    spill: Path | None = None,
    in_order: bool = True,
) -> Iterator[Any]:
    """Give a DuckDB connection that can reach no file but ``database``, read-only.

    What does not fit into ``memory_mib`` lies in a folder of its own below ``spill`` (None: that of
    temporary files), readable by the owner only, until the connection closes. Without ``in_order``
    rows may come in any order, which takes less memory.
    """
    import duckdb

    folder = Path(tempfile.mkdtemp(prefix="duckdb-", dir=spill))  # 0700
    connection = duckdb.connect(
        str(database) if database else ":memory:",
        read_only=database is not None,
        config={
            "enable_external_access": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",
            "memory_limit": f"{memory_mib}MiB",
            "temp_directory": str(folder),
            "threads": "2" if in_order else "1",
            "preserve_insertion_order": "true" if in_order else "false",
        },
    )
    try:
        connection.execute("SET lock_configuration = true")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _opened(source: Source, *, rows: bool) -> Iterator[Any]:
    database = source.files()[0] if source.path else None
    with locked(database) as connection:
        for name, each in source.tables.items():
            _take_in(connection, name, each, rows=rows)
        yield connection


def _take_in(connection: Any, name: str, source: Source, *, rows: bool) -> None:
    """Make a source a temporary table of DuckDB; it may be read several times by one query."""
    types: dict[str, Any] = {}
    while True:
        blocks = source.blocks(types=types)
        try:
            first = True
            for block in blocks:
                connection.register("consilo_block", block)
                how = f"CREATE OR REPLACE TEMP TABLE {_quoted(name)} AS SELECT *"
                if not first:
                    how = f"INSERT INTO {_quoted(name)} SELECT *"
                connection.execute(f"{how} FROM consilo_block" + ("" if rows else " LIMIT 0"))
                connection.unregister("consilo_block")
                first = False
                if not rows:
                    break
            return
        except TypesChanged as changed:
            types = changed.types


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
