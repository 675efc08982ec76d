"""Where one table is and how to read it, as a person writes it in ``silo.yaml``.

A source is read as the organisation holds it; the mapping makes it canonical.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from consilo.config import Config, parse, read_yaml
from consilo.errors import ConfigInvalid, SourceUnreadable
from silos.rows.sources import csv_file, database, duck, parquet_file
from silos.rows.sources.blocks import TypesChanged, in_blocks, stacked, to_frame
from silos.rows.sources.files import files_of, remembered_hashes
from silos.rows.sources.password import url_fault

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

DEFAULT_NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
_CSV = {"separator", "header", "names", "na_values", "encoding"}
_SQL = {"url", "password_env", "password_keyring", "version_query"}


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


class Source(Config):
    """Where one table is and how to read it.

    Args:
        type: csv (also .gz), parquet, sqlite, duckdb, or sql for any URL that SQLAlchemy knows.
        path: csv, parquet: files, folders or patterns such as ``visits-*.csv``; files with the same
            columns that are read one after the other. sqlite, duckdb: the database's file. Relative
            to the silo's directory.
        separator: of CSV fields.
        header: whether the first line of a CSV file holds the names.
        names: the columns' names where there is no header.
        na_values: texts in a CSV file that mean "nothing", in place of the usual ones.
        encoding: of a CSV file.
        table: sqlite, sql, duckdb: the table to read.
        query: sqlite, sql, duckdb: a SELECT to run in place of a table.
        tables: duckdb: name → another source that the query may use under that name.
        url: sql: such as ``postgresql+psycopg://reader@db/clinic``, without the password.
        password_env: sql: name of the environment variable that holds the password.
        password_keyring: sql: ``SERVICE/USER``, under which the keyring of this machine holds it.
        version_query: sql: a cheap SELECT whose answer changes whenever the rows change; without it
            every fingerprint reads the whole table.
    """

    type: Literal["csv", "parquet", "sqlite", "sql", "duckdb"]
    path: Annotated[tuple[Path, ...], BeforeValidator(_one_or_more)] = ()
    separator: str = Field(default=",", min_length=1, max_length=1)
    header: bool = True
    names: tuple[str, ...] | None = None
    na_values: tuple[str, ...] = DEFAULT_NULLS
    encoding: str = "utf-8"
    table: str | None = None
    query: str | None = None
    tables: dict[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")], Source] = Field(
        default_factory=dict
    )
    url: str | None = None
    password_env: str | None = None
    password_keyring: Annotated[str, Field(pattern=r"^[^/]+/.+$")] | None = None
    version_query: str | None = None

    @model_validator(mode="after")
    def _options_fit_the_type(self) -> Self:
        faults = []
        is_database = self.type in ("sqlite", "sql", "duckdb")
        if self.type == "sql" and not self.url:
            faults.append("type sql needs a url")
        if self.type == "duckdb" and not self.path and not self.tables:
            faults.append("type duckdb needs a path, tables, or both")
        if self.type not in ("sql", "duckdb") and not self.path:
            faults.append(f"type {self.type} needs a path")
        if self.type in ("sqlite", "duckdb") and len(self.path) > 1:
            faults.append(f"type {self.type} takes one path")
        if is_database and (self.table is None) == (self.query is None):
            faults.append("give a table or a query, one of them")
        wrong = self.model_fields_set & (
            (_CSV if self.type != "csv" else set())
            | (_SQL if self.type != "sql" else {"path"})
            | ({"table", "query"} if not is_database else set())
            | ({"tables"} if self.type != "duckdb" else set())
        )
        faults += [f"{name} is not an option of type {self.type}" for name in sorted(wrong)]
        if self.names and self.header and "header" in self.model_fields_set:
            faults.append("names are for a file without a header; set header: false")
        if self.names and len(set(self.names)) < len(self.names):
            faults.append("names lists a column twice")
        if self.password_env and self.password_keyring:
            faults.append("give password_env or password_keyring, one of them")
        if self.url and (fault := url_fault(self.url)):
            faults.append(fault)
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return the source that a YAML file describes; relative paths start at its directory.

        Raises:
            ConfigInvalid: with one finding per fault.
        """
        value = read_yaml(path, error=ConfigInvalid)
        return parse(cls, value, where=str(path)).resolve(path.parent)

    def resolve(self, directory: Path) -> Self:
        """Return the source with relative paths starting at ``directory``."""
        tables = {name: each.resolve(directory) for name, each in self.tables.items()}
        paths = tuple(directory / each for each in self.path)
        return self.model_copy(update={"path": paths, "tables": tables})

    @property
    def where(self) -> str:
        """How messages call this source; names neither a host nor a folder."""
        return f"source of type {self.type}"

    def files(self) -> tuple[Path, ...]:
        """Return the files that ``path`` stands for, in the order to read them.

        Raises:
            SourceUnreadable: where there is none, or an empty one.
        """
        return files_of(self.path, self.type, self.where)

    def columns(self) -> list[str]:
        """Return the names of the columns without reading the rows; they stay in the silo.

        Raises:
            SourceUnreadable: where there is no such file or table, or files have unlike columns.
        """
        with self._explained():
            if self.type == "csv":
                return self._same_columns(lambda path: csv_file.names_of(self, path))
            if self.type == "parquet":
                return self._same_columns(parquet_file.names_of)
            if self.type == "duckdb":
                return duck.names_of(self)
            return database.names_of(self)

    def blocks(
        self,
        columns: Sequence[str] | None = None,
        *,
        text: Sequence[str] = (),
        types: Mapping[str, pa.DataType] | None = None,
    ) -> Iterator[pa.Table]:
        """Yield the rows as the organisation holds them, in blocks of at most `BLOCK_ROWS` rows.

        Memory is that of a few blocks, whatever the table's size. There is at least one block, of
        no rows where there is none. All blocks of files have the same types; those of a database
        have the types of their values.

        Args:
            columns: which columns, at least one, in this order; None for all.
            text: columns of a CSV file to keep as written, so that ``007`` stays ``007``.
            types: of columns of a CSV file, from `TypesChanged`.

        Raises:
            SourceUnreadable: where a file, a table or a column is not there or cannot be read.
            TypesChanged: where a row of a CSV file belies the type of its column: read again.
        """
        known = self.columns()
        wanted = known if columns is None else list(columns)
        unknown = [f"'{name}'" for name in wanted if name not in known]
        if unknown:
            # The names that are there stay unsaid: of a file whose header is not one, they are
            # values of its first row, and this text may leave the silo.
            hint = "check the mapping's names, and the source's header and names"
            raise SourceUnreadable(f"{self.where}: no column {', '.join(unknown)}; {hint}")
        with self._explained():
            yield from in_blocks(self._tables(wanted, text, types or {}))

    def read(
        self, columns: Sequence[str] | None = None, *, text: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Return all rows of `blocks` at once, for tables that fit into memory.

        Raises:
            SourceUnreadable: where a file, a table or a column is not there or cannot be read.
        """
        types: dict[str, pa.DataType] = {}
        while True:
            try:
                return to_frame(stacked(list(self.blocks(columns, text=text, types=types))))
            except TypesChanged as changed:
                types = changed.types

    def fingerprint(self, memo: Path | None = None) -> str:
        """Return a SHA-256 over the content and the reading options, in hexadecimal.

        Args:
            memo: a file that remembers the content's hash beside the files' size, inode, and times
                of modification and of change, so that an unchanged file is not hashed again. A
                file changed within the last two seconds is not remembered.

        Raises:
            SourceUnreadable: where a file or table is not there.
        """
        unsaid = {"path", "tables", "password_env", "password_keyring"}
        options = self.model_dump(mode="json", exclude=unsaid)
        with self._explained():
            if self.type == "sql":
                content = [database.version(self)]
            else:
                content = remembered_hashes(self._content_files(), memo)
            content += [
                f"{name} {each.fingerprint(memo)}" for name, each in sorted(self.tables.items())
            ]
        said = json.dumps([options, content], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        import pyarrow as pa

        if self.type == "csv":
            written = {name: pa.string() for name in text if name in wanted}
            return csv_file.tables(self, self.files(), wanted, {**types, **written})
        if self.type == "parquet":
            return parquet_file.tables(self.files(), wanted)
        if self.type == "duckdb":
            return duck.tables(self, wanted)
        return database.tables(self, wanted)

    def _same_columns(self, names_of: Callable[[Path], list[str]]) -> list[str]:
        first, *others = self.files()
        names = names_of(first)
        for path in others:
            if set(names_of(path)) != set(names):
                # Which ones stays unsaid: a header that is not one holds values.
                said = f"the file {path.name} has other columns than {first.name}"
                raise SourceUnreadable(f"{self.where}: {said}; all files need the same")
        return names

    def _content_files(self) -> tuple[Path, ...]:
        # What a database has not yet folded into its main file lies in its write-ahead log.
        endings = {"sqlite": "-wal", "duckdb": ".wal"}
        logs = [path.with_name(path.name + endings.get(self.type, "")) for path in self.path]
        files = self.files() if self.path else ()
        return (*files, *(path for path in logs if path.is_file() and path not in files))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what an engine raises into one sentence without its text: it may quote rows."""
        try:
            yield
        except (SourceUnreadable, TypesChanged):
            raise
        except Exception as cause:
            raise SourceUnreadable(f"{self.where}: {_why(self, cause)}") from None


def _why(source: Source, cause: Exception) -> str:
    said = str(cause)
    if isinstance(cause, UnicodeDecodeError) or "UTF8" in said or "codec" in said:
        return csv_file.not_text(source)
    if ragged := re.search(r"Expected (\d+) columns, got (\d+)", said):
        expected, found = ragged.groups()
        hint = "check separator, header and names"
        return f"a line has {found} fields where {expected} are expected; {hint}"
    if isinstance(cause, PermissionError):
        return "a file may not be read; check its permissions"
    if isinstance(cause, LookupError) and "encoding" in said:
        return f"the encoding '{source.encoding}' is not known"
    if source.type in ("sqlite", "sql", "duckdb"):
        return database.why(source, cause)
    if source.type == "parquet":
        return f"a file cannot be read as Parquet ({type(cause).__name__})"
    return f"it cannot be read ({type(cause).__name__}); check its options"
