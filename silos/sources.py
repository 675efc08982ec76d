"""Where a silo's rows are: a CSV or Parquet file, an SQLite table, or a database by its SQL URL.

A source is read as the organisation holds it; the mapping makes it canonical.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from consilo.config import Config, parse, read_yaml
from consilo.errors import ConfigInvalid, SourceUnreadable

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

DEFAULT_NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again with the same time stamp."""
_CSV_BLOCK = 4 << 20
_NUMBERS = ("double", "int64")


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


class Source(Config):
    """Where one table is and how to read it.

    Args:
        type: csv (also .gz), parquet, sqlite, or sql for any URL that SQLAlchemy knows.
        path: the file, or several with the same columns that are read one after the other;
            relative to the silo's directory.
        separator: of CSV fields.
        header: whether the first line of a CSV file holds the names.
        names: the columns' names where there is no header.
        na_values: texts in a CSV file that mean "nothing", in place of the usual ones.
        encoding: of a CSV file.
        table: sqlite, sql: the table to read.
        query: sqlite, sql: a SELECT to run in place of a table.
        url: sql: such as ``postgresql+psycopg://reader@db/clinic``, without the password.
        password_env: sql: name of the environment variable that holds the password.
        version_query: sql: a cheap SELECT whose answer changes whenever the rows change; without it
            every fingerprint reads the whole table.
    """

    type: Literal["csv", "parquet", "sqlite", "sql"]
    path: Annotated[tuple[Path, ...], BeforeValidator(_one_or_more)] = ()
    separator: str = Field(default=",", min_length=1, max_length=1)
    header: bool = True
    names: tuple[str, ...] | None = None
    na_values: tuple[str, ...] = DEFAULT_NULLS
    encoding: str = "utf-8"
    table: str | None = None
    query: str | None = None
    url: str | None = None
    password_env: str | None = None
    version_query: str | None = None

    @model_validator(mode="after")
    def _options_fit_the_type(self) -> Self:
        faults = []
        is_database = self.type in ("sqlite", "sql")
        if self.type == "sql" and not self.url:
            faults.append("type sql needs a url")
        if self.type != "sql" and not self.path:
            faults.append(f"type {self.type} needs a path")
        if self.type == "sqlite" and len(self.path) > 1:
            faults.append("type sqlite takes one path")
        if is_database and (self.table is None) == (self.query is None):
            faults.append("give a table or a query, one of them")
        csv_only = {"separator", "header", "names", "na_values", "encoding"}
        sql_only = {"url", "password_env", "version_query"}
        wrong = self.model_fields_set & (
            (csv_only if self.type != "csv" else set())
            | (sql_only if self.type != "sql" else {"path"})
            | ({"table", "query"} if not is_database else set())
        )
        faults += [f"{name} is not an option of type {self.type}" for name in sorted(wrong)]
        if self.names and self.header and "header" in self.model_fields_set:
            faults.append("names are for a file without a header; set header: false")
        if self.names and len(set(self.names)) < len(self.names):
            faults.append("names lists a column twice")
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
        return self.model_copy(update={"path": tuple(directory / each for each in self.path)})

    def columns(self) -> list[str]:
        """Return the names of the columns without reading the rows; they stay in the silo.

        Raises:
            SourceUnreadable: where there is no such file or table.
        """
        with self._explained():
            if self.type == "csv":
                return _csv_names(self, self._files()[0])
            if self.type == "parquet":
                import pyarrow.parquet as pq

                return list(pq.read_schema(self._files()[0]).names)
            return list(self._query(f"SELECT * FROM ({self._select()}) AS t LIMIT 0").columns)

    def read(
        self, columns: Sequence[str] | None = None, *, text: Sequence[str] = ()
    ) -> pd.DataFrame:
        """Return the rows as the organisation holds them.

        Args:
            columns: which columns, in this order; None for all.
            text: columns of a CSV file to keep as written, so that ``007`` stays ``007``.

        Raises:
            SourceUnreadable: where a file, a table or a column is not there or cannot be read.
        """
        known = self.columns()
        wanted = known if columns is None else list(columns)
        unknown = [f"'{name}'" for name in wanted if name not in known]
        if unknown:
            # The names that are there stay unsaid: of a file whose header is not one, they are
            # values of its first row, and this text may leave the silo.
            hint = "check the mapping's names, and the source's header and names"
            raise SourceUnreadable(f"{self._where()}: no column {', '.join(unknown)}; {hint}")
        with self._explained():
            if self.type in ("sqlite", "sql"):
                quoted = ", ".join('"' + name.replace('"', '""') + '"' for name in wanted)
                everything = columns is None
                select = self._select()
                if not everything and self.type == "sqlite":
                    return self._query(f"SELECT {quoted} FROM ({select}) AS t")
                return self._query(select)[wanted]
            return self._read_files(wanted, text)

    def fingerprint(self, memo: Path | None = None) -> str:
        """Return a SHA-256 over the content and the reading options, in hexadecimal.

        Args:
            memo: a file that remembers the content's hash beside the files' size, inode, and times
                of modification and of change, so that an unchanged file is not hashed again. A
                file changed within the last two seconds is not remembered.

        Raises:
            SourceUnreadable: where a file or table is not there.
        """
        options = self.model_dump(mode="json", exclude={"path", "password_env"})
        with self._explained():
            content = (
                [self._database_version()]
                if self.type == "sql"
                else _remembered_hashes(self._content_files(), memo)
            )
        said = json.dumps([options, content], sort_keys=True)
        return hashlib.sha256(said.encode()).hexdigest()

    def _read_files(self, wanted: list[str], text: Sequence[str]) -> pd.DataFrame:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.type == "parquet":
            tables = [pq.read_table(path, columns=wanted) for path in self._files()]
            return _to_pandas(_stack(tables))
        try:
            return _stream_csv(self, wanted, text)
        except pa.ArrowInvalid:
            # It takes the types of the first rows for granted; this looks at all rows, and says
            # what is wrong with them.
            tables = [_read_csv(self, path, wanted, text) for path in self._files()]
            return _to_pandas(_stack(tables))

    def _files(self) -> tuple[Path, ...]:
        for path in self.path:
            if not path.is_file():
                raise SourceUnreadable(f"{self._where()}: the file {path.name} does not exist")
            if path.stat().st_size == 0:
                raise SourceUnreadable(f"{self._where()}: the file {path.name} is empty")
        return self.path

    def _content_files(self) -> tuple[Path, ...]:
        # What SQLite has not yet folded into the main file lies in its write-ahead log.
        logs = [path.with_name(path.name + "-wal") for path in self.path if self.type == "sqlite"]
        return (*self._files(), *(path for path in logs if path.is_file()))

    def _select(self) -> str:
        if self.query is not None:
            return self.query.strip().rstrip(";")
        table = (self.table or "").replace('"', '""')
        return f'SELECT * FROM "{table}"'

    def _query(self, query: str) -> pd.DataFrame:
        import pandas as pd

        if self.type == "sqlite":
            (path,) = self._files()
            connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
            try:
                return pd.read_sql_query(query, connection)
            finally:
                connection.close()
        import sqlalchemy

        url = sqlalchemy.make_url(self.url or "")
        if self.password_env is not None:
            password = os.environ.get(self.password_env)
            if not password:
                hint = f"set the environment variable {self.password_env} to the password"
                raise SourceUnreadable(f"{self._where()}: {hint}")
            url = url.set(password=password)
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        try:
            with engine.connect() as connected:
                return pd.read_sql_query(sqlalchemy.text(query), connected)
        finally:
            engine.dispose()

    def _database_version(self) -> str:
        import pandas as pd

        frame = self._query(self.version_query or self._select())
        rows = pd.util.hash_pandas_object(frame.astype(str), index=False)
        return hashlib.sha256(rows.to_numpy().tobytes()).hexdigest()

    def _where(self) -> str:
        return f"source of type {self.type}"

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what an engine raises into one sentence without its text: it may quote rows."""
        try:
            yield
        except SourceUnreadable:
            raise
        except Exception as cause:
            raise SourceUnreadable(f"{self._where()}: {_why(self, cause)}") from None


def _why(source: Source, cause: Exception) -> str:
    said = str(cause)
    if isinstance(cause, UnicodeDecodeError) or "UTF8" in said or "codec" in said:
        return _not_text(source)
    if ragged := re.search(r"Expected (\d+) columns, got (\d+)", said):
        expected, found = ragged.groups()
        hint = "check separator, header and names"
        return f"a line has {found} fields where {expected} are expected; {hint}"
    if isinstance(cause, PermissionError):
        return "a file may not be read; check its permissions"
    if isinstance(cause, LookupError) and "encoding" in said:
        return f"the encoding '{source.encoding}' is not known"
    if source.type in ("sqlite", "sql") and re.search(r"no such table|does not exist", said):
        return f"there is no table '{source.table}'; check table or query"
    if source.type == "sqlite" and "not a database" in said:
        return "the file is not an SQLite database"
    if source.type == "parquet":
        return f"a file cannot be read as Parquet ({type(cause).__name__})"
    return f"it cannot be read ({type(cause).__name__}); check its options"


def _not_text(source: Source) -> str:
    return f"a file is not {source.encoding} text; set encoding, such as latin-1"


def _csv_names(source: Source, path: Path) -> list[str]:
    if source.names is not None:
        return list(source.names)
    names = list(_open_csv(source, path).schema.names)
    twice = [at + 1 for at, name in enumerate(names) if name in names[:at]]
    if twice:
        hint = "rename it, or set header: false with names"
        said = f"column {twice[0]} has the name of one before it"
        raise SourceUnreadable(f"{source._where()}: {said}; {hint}")
    return names


def _csv_options(source: Source) -> dict[str, Any]:
    from pyarrow import csv

    reading = csv.ReadOptions(
        column_names=list(source.names) if source.names else None,
        autogenerate_column_names=not source.header and not source.names,
        encoding=source.encoding,
    )
    return {
        "read_options": reading,
        "parse_options": csv.ParseOptions(delimiter=source.separator),
    }


def _open_csv(source: Source, path: Path) -> Any:
    from pyarrow import csv

    return csv.open_csv(path, **_csv_options(source))


def _stream_csv(source: Source, wanted: list[str], text: Sequence[str]) -> pd.DataFrame:
    """Return what `_read_csv`, `_stack` and `_to_pandas` would, a block of text at a time.

    So there is one copy of the table: reading a whole file holds its text and all that was parsed
    from it beside that. The first block of the first file decides the types, and they are the
    same as for the whole where every other block fits them.

    Raises:
        pyarrow.ArrowInvalid: where one does not.
    """
    import pandas as pd
    import pyarrow as pa
    from pyarrow import csv

    if not wanted or len(set(wanted)) < len(wanted):
        raise pa.ArrowInvalid("no column is wanted, or one twice")
    schema: pa.Schema | None = None
    columns: list[_Numbers | _Chunks] = []
    num_bytes = sum(path.stat().st_size for path in source._files())
    for path in source._files():
        _csv_names(source, path)
        types = {name: pa.string() for name in text if name in wanted}
        options = _csv_options(source)
        options["read_options"].block_size = _CSV_BLOCK
        with csv.open_csv(
            path, convert_options=_converting(source, wanted, types), **options
        ) as reader:
            if schema is None:
                schema = reader.schema
                columns = [_Numbers.of(field.type) or _Chunks(field) for field in schema]
            if reader.schema != schema or any(map(pa.types.is_binary, schema.types)):
                raise pa.ArrowInvalid("the types differ, or what is no text came as bytes")
            for batch in reader:
                about = num_bytes * batch.num_rows // _CSV_BLOCK
                for column, values in zip(columns, batch.columns, strict=True):
                    column.add(values, about)
    made = {name: each.take() for name, each in zip(wanted, columns, strict=True)}
    return pd.DataFrame(made, copy=False)


class _Numbers:
    """A column of numbers, filled block by block; integers may have gaps.

    Args:
        dtype: float64 or int64.
    """

    def __init__(self, dtype: str) -> None:
        import numpy as np

        self._values = np.empty(0, dtype=dtype)
        self._gaps = np.empty(0, dtype=bool)
        self._has_gaps = dtype == "int64"
        self._size = 0

    @classmethod
    def of(cls, kind: pa.DataType) -> Self | None:
        """Return a column for the values of a type, None where it is no type of numbers."""
        return cls(str(kind).replace("double", "float64")) if str(kind) in _NUMBERS else None

    def add(self, values: pa.Array, about: int) -> None:
        """Append values; ``about`` is a guess how many there will be in all."""
        end = self._size + len(values)
        if end > len(self._values):
            # Memory that is never written to is never taken, so the guess may be generous.
            capacity = max(end, 2 * self._size or about + about // 8)
            self._values = _longer(self._values, self._size, capacity)
            if self._has_gaps:
                self._gaps = _longer(self._gaps, self._size, capacity)
        if self._has_gaps:
            self._gaps[self._size : end] = values.is_null().to_numpy(zero_copy_only=False)
            values = values.fill_null(0) if values.null_count else values
        self._values[self._size : end] = values.to_numpy(zero_copy_only=False)
        self._size = end

    def take(self) -> Any:
        """Return all that was added, as pandas holds it."""
        import pandas as pd

        values = self._values[: self._size]
        if not self._has_gaps:
            return values
        return pd.arrays.IntegerArray(values, self._gaps[: self._size])


class _Chunks:
    """A column of anything else."""

    def __init__(self, field: pa.Field) -> None:
        self._field = field
        self._parts: list[pa.Array] = []

    def add(self, values: pa.Array, about: int) -> None:
        """Append values."""
        self._parts.append(values)

    def take(self) -> Any:
        """Return all that was added, as pandas holds it."""
        import pyarrow as pa

        parts, self._parts = self._parts, []
        column = pa.chunked_array(parts, type=self._field.type)
        return _to_pandas(pa.table({self._field.name: column}))[self._field.name]


def _longer(array: NDArray[Any], size: int, capacity: int) -> NDArray[Any]:
    import numpy as np

    longer = np.empty(capacity, dtype=array.dtype)
    longer[:size] = array[:size]
    return longer


def _converting(source: Source, wanted: list[str], types: dict[str, pa.DataType]) -> Any:
    from pyarrow import csv

    return csv.ConvertOptions(
        include_columns=wanted,
        column_types=types,
        null_values=sorted({"", *source.na_values}),
        strings_can_be_null=True,
    )


def _read_csv(source: Source, path: Path, wanted: list[str], text: Sequence[str]) -> pa.Table:
    """Return the table; a column whose later rows belie the type of the first ones becomes text."""
    import pyarrow as pa
    from pyarrow import csv

    types = {name: pa.string() for name in text if name in wanted}
    names = _csv_names(source, path)
    while True:
        converting = _converting(source, wanted, types)
        try:
            table = csv.read_csv(path, convert_options=converting, **_csv_options(source))
            break
        except pa.ArrowInvalid as cause:
            column = re.match(r"In CSV column #(\d+)", str(cause))
            if column is None or names[int(column[1])] in types:
                raise
            types[names[int(column[1])]] = pa.string()
    if any(pa.types.is_binary(kind) for kind in table.schema.types):
        # What is no text in its encoding comes as bytes.
        raise SourceUnreadable(f"{source._where()}: {_not_text(source)}")
    return table


def _stack(tables: list[pa.Table]) -> pa.Table:
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    for name in tables[0].schema.names:
        kinds = {table.schema.field(name).type for table in tables}
        if len(kinds) > 1 and any(pa.types.is_string(kind) for kind in kinds):
            tables = [
                table.set_column(index, name, table[name].cast(pa.string()))
                for table in tables
                for index in [table.schema.get_field_index(name)]
            ]
    return pa.concat_tables(tables, promote_options="permissive")


def _to_pandas(table: pa.Table) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    # Whole numbers with gaps stay whole numbers, else large ones would lose their last digits.
    types = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = table.to_pandas(
        types_mapper=types.get, split_blocks=True, self_destruct=True, ignore_metadata=True
    )
    return frame


def _remembered_hashes(paths: Sequence[Path], memo: Path | None) -> list[str]:
    remembered = _read_memo(memo)
    fresh: dict[str, Any] = {}
    hashes = []
    for path in paths:
        stamp = _stamp(path)
        known = remembered.get(str(path.resolve()))
        if isinstance(known, Mapping) and known.get("stamp") == stamp:
            hashes.append(str(known["sha256"]))
            continue
        now_ns = time.time_ns()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if now_ns - max(stamp[2:]) > _SETTLED_NS and _stamp(path) == stamp:
            fresh[str(path.resolve())] = {"stamp": stamp, "sha256": digest}
        hashes.append(digest)
    if memo is not None and fresh:
        _write_memo(memo, {**remembered, **fresh})
    return hashes


def _stamp(path: Path) -> list[int]:
    # The time of change cannot be set back by hand, the time of modification can.
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_memo(memo: Path | None) -> dict[str, Any]:
    try:
        value = json.loads(memo.read_text()) if memo is not None else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_memo(memo: Path, value: dict[str, Any]) -> None:
    part = memo.with_name(f"{memo.name}.{os.getpid()}.part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(value))
    part.replace(memo)
