"""DuckDB: a SELECT over a database file of its own, over other sources, or over both.

The query sees the tables of the database file, which is opened read-only, and the sources listed
under ``tables``, and nothing else: DuckDB may open no other file, no address, and load no
extension, and the query cannot change that. What does not fit into memory it keeps on disk.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from silos.rows.sources.blocks import BLOCK_ROWS, TypesChanged
from silos.rows.sources.database import DatabaseSource, double_quoted
from silos.rows.sources.files import OnePath, below, files_of, remembered_hashes, with_log
from silos.rows.sources.raw_table import RawTable

if TYPE_CHECKING:
    import pyarrow as pa

    Source = RawTable  # the union of all kinds is told to pydantic where it is made: `kinds`

MEMORY_MIB = 512
_PLAIN = re.compile(
    r"BOOLEAN$|U?(TINYINT|SMALLINT|INTEGER|BIGINT)$|FLOAT$|DOUBLE$|DECIMAL\(\d+,\d+\)$|VARCHAR$|"
    r"ENUM\([^\]]*\)$|BLOB$|BIT$|DATE$|TIME$|TIMESTAMP(_S|_MS|_NS| WITH TIME ZONE)?$|"
    r"\"NULL\"$|NULL$"
)
"""Types that are read as they are: what others show in Arrow is not what they mean."""


class DuckSource(DatabaseSource):
    """A SELECT of DuckDB over a database file, other sources, or both.

    Args:
        path: the database's file, relative to the silo's directory; None where there is none.
        tables: name → another source that the query may use under that name.
        table: the table to read.
        query: a SELECT to run in place of a table.
    """

    type: Literal["duckdb"] = "duckdb"
    path: OnePath = ()
    tables: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Source] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _has_something_to_read(self) -> Self:
        if not self.path and not self.tables:
            raise ValueError("type duckdb needs a path, tables, or both")
        return self

    def resolve(self, directory: Path) -> Self:
        """Return the source with relative paths starting at ``directory``."""
        tables = {name: each.resolve(directory) for name, each in self.tables.items()}
        return self.model_copy(update={"path": below(directory, self.path), "tables": tables})

    @property
    def description(self) -> dict[str, Any]:
        """All options as plain values, for digests; those that the kind does not have too."""
        tables = {name: each.description for name, each in self.tables.items()}
        return {**super().description, "tables": tables}

    def _names(self) -> list[str]:
        with self._opened(rows=False) as connection:
            query = f"SELECT * FROM ({self._select(double_quoted)}) t LIMIT 0"
            return [each[0] for each in connection.execute(query).description]

    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        import pyarrow as pa

        with self._opened(rows=True) as connection:
            query = self._with_texts(connection, wanted)
            reader = connection.sql(query).to_arrow_reader(BLOCK_ROWS)
            yield reader.schema.empty_table()
            for batch in reader:
                yield pa.Table.from_batches([batch])

    def _with_texts(self, connection: Any, wanted: Sequence[str]) -> str:
        """Return the SELECT for some columns; what Arrow has no plain type for is cast to text."""
        select = self._select(double_quoted)
        about = connection.execute(f"SELECT * FROM ({select}) t LIMIT 0").description
        odd = {each[0] for each in about if not _PLAIN.match(str(each[1]))}
        columns = (
            f"CAST({double_quoted(name)} AS VARCHAR) AS {double_quoted(name)}"
            if name in odd
            else double_quoted(name)
            for name in wanted
        )
        return f"SELECT {', '.join(columns)} FROM ({select}) t"

    def _content(self, memo: Path | None) -> list[str]:
        files = [part for file in self._files() for part in with_log(file, ".wal")]
        tables = sorted(self.tables.items())
        prints = [f"{name} {each.fingerprint(memo)}" for name, each in tables]
        return [*remembered_hashes(files, memo), *prints]

    def _files(self) -> tuple[Path, ...]:
        return files_of(self.path, (), self.where)

    @contextmanager
    def _opened(self, *, rows: bool) -> Iterator[Any]:
        with locked(next(iter(self._files()), None)) as connection:
            for name, each in self.tables.items():
                _take_in(connection, name, each, rows=rows)
            yield connection


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


def _take_in(connection: Any, name: str, source: RawTable, *, rows: bool) -> None:
    """Make a source a temporary table of DuckDB; it may be read several times by one query."""
    types: dict[str, Any] = {}
    text = source.columns_of_codes() if rows else ()
    while True:
        blocks = source.blocks(text=text, types=types)
        try:
            first = True
            for block in blocks:
                connection.register("consilo_block", block)
                how = f"CREATE OR REPLACE TEMP TABLE {double_quoted(name)} AS SELECT *"
                if not first:
                    how = f"INSERT INTO {double_quoted(name)} SELECT *"
                connection.execute(f"{how} FROM consilo_block" + ("" if rows else " LIMIT 0"))
                connection.unregister("consilo_block")
                first = False
                if not rows:
                    break
            return
        except TypesChanged as changed:
            types = changed.types
