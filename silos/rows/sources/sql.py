"""A table of any database that SQLAlchemy has a dialect for, block by block."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from silos.rows.sources import database, postgres
from silos.rows.sources.blocks import in_blocks, to_frame
from silos.rows.sources.database import DatabaseSource, fetched, no_rows, some_columns
from silos.rows.sources.password import password_of, url_fault

if TYPE_CHECKING:
    import pyarrow as pa


def _without_password(url: str) -> str:
    if fault := url_fault(url):
        raise ValueError(fault)
    return url


class SqlSource(DatabaseSource):
    """A table of a database at a URL.

    Args:
        url: such as ``postgresql+psycopg://reader@db/clinic``, without the password.
        password_env: name of the environment variable that holds the password.
        password_keyring: ``SERVICE/USER``, under which the keyring of this machine holds it.
        table: the table to read.
        query: a SELECT to run in place of a table.
        version_query: a cheap SELECT whose answer changes whenever the rows change; without it
            every fingerprint reads the whole table.
    """

    type: Literal["sql"] = "sql"
    url: Annotated[str, Field(min_length=1), AfterValidator(_without_password)]
    password_env: str | None = None
    password_keyring: Annotated[str, Field(pattern=r"^[^/]+/.+$")] | None = None
    version_query: str | None = None

    @model_validator(mode="after")
    def _one_place_for_the_password(self) -> Self:
        if self.password_env and self.password_keyring:
            raise ValueError("give password_env or password_keyring, one of them")
        return self

    def resolve(self, directory: Path) -> Self:
        """Return the source as it is: it has no paths."""
        return self

    def _names(self) -> list[str]:
        import sqlalchemy

        with self._connected() as connection:
            query = no_rows(self._select(_quoting(connection)))
            return list(connection.execute(sqlalchemy.text(_escaped(query))).keys())

    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        import sqlalchemy

        with self._connected() as connection:
            quoted = _quoting(connection)
            query = some_columns(self._select(quoted), wanted, quoted)
            if postgres.can_copy(connection):
                yield from postgres.tables(connection, query)
                return
            # The database keeps the rows until they are fetched.
            options = {"stream_results": True, "max_row_buffer": database.FETCH_ROWS}
            asked = sqlalchemy.text(_escaped(query))
            result = connection.execution_options(**options).execute(asked)
            yield from fetched(result.fetchmany, wanted)

    def _content(self, memo: Path | None) -> list[str]:
        """Return a SHA-256: of the version query's answer, or of all rows, in any order.

        Without a version query every row is read, a block at a time.
        """
        return [hashlib.sha256(self._version().encode()).hexdigest()]

    def _version(self) -> str:
        import pandas as pd
        import sqlalchemy

        with self._connected() as connection:
            if self.version_query is not None:
                asked = sqlalchemy.text(_escaped(self.version_query))
                rows = connection.execute(asked).fetchall()
                return repr([[str(value) for value in row] for row in rows])
            if postgres.can_copy(connection):
                return postgres.version(connection, self._select(_quoting(connection)))
        num_rows, total, mixed = 0, 0, 0
        for block in in_blocks(self._tables(self._names(), (), {})):
            frame = to_frame(block).astype(object)
            hashes = pd.util.hash_pandas_object(frame.astype(str), index=False).to_numpy()
            num_rows += len(hashes)
            total = (total + int(hashes.sum())) % 2**64
            # A second sum, of something that is not linear in the first.
            mixed = (mixed + int((hashes * (hashes | 1)).sum())) % 2**64
        return f"{num_rows} {total} {mixed}"

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        """Give a SQLAlchemy connection that is closed afterwards, and changes nothing."""
        import sqlalchemy

        url = sqlalchemy.make_url(self.url)
        password = password_of(env=self.password_env, entry=self.password_keyring, where=self.where)
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


def _quoting(connection: Any) -> database.Quote:
    quoted: database.Quote = connection.dialect.identifier_preparer.quote_identifier
    return quoted


def _escaped(query: str) -> str:
    # SQLAlchemy takes :name for a parameter; a time or a cast has colons of its own.
    return re.sub(r"(?<!:):(?=\w)", r"\\:", query)
