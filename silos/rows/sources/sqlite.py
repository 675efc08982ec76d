"""A table of an SQLite file, block by block."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from silos.rows.sources.database import (
    DatabaseSource,
    double_quoted,
    fetched,
    no_rows,
    some_columns,
)
from silos.rows.sources.files import OnePath, below, files_of, remembered_hashes, with_log

if TYPE_CHECKING:
    import pyarrow as pa


class SqliteSource(DatabaseSource):
    """A table of an SQLite file, which is opened read-only.

    Args:
        path: the file, relative to the silo's directory.
        table: the table to read.
        query: a SELECT to run in place of a table.
    """

    type: Literal["sqlite"] = "sqlite"
    path: OnePath

    def resolve(self, directory: Path) -> Self:
        """Return the source with a relative path starting at ``directory``."""
        return self.model_copy(update={"path": below(directory, self.path)})

    def _names(self) -> list[str]:
        with closing(self._opened()) as connection:
            cursor = connection.execute(no_rows(self._select(double_quoted)))
            return [each[0] for each in cursor.description]

    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        with closing(self._opened()) as connection:
            query = some_columns(self._select(double_quoted), wanted, double_quoted)
            yield from fetched(connection.execute(query).fetchmany, wanted)

    def _content(self, memo: Path | None) -> list[str]:
        return remembered_hashes(with_log(self._file(), "-wal"), memo)

    def _why(self, cause: Exception) -> str:
        if "not a database" in str(cause):
            return "the file is not an SQLite database"
        if "decode to UTF-8" in str(cause):
            return (
                "a text in it is not UTF-8; write it anew, or leave its column out by a query, or "
                "read it as hex(column)"
            )
        return super()._why(cause)

    def _file(self) -> Path:
        (path,) = files_of(self.path, (), self.where)
        return path

    def _opened(self) -> sqlite3.Connection:
        return sqlite3.connect(f"{self._file().resolve().as_uri()}?mode=ro", uri=True)
