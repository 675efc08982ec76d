"""One table as an organisation holds it: what each kind of source can be asked."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import ConfigDict

from consilo.config import Config
from consilo.errors import SourceUnreadable
from silos.rows.sources.blocks import TypesChanged, in_blocks, stacked, to_frame

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_UNSAID: dict[str, Any] = {
    "path": [],
    "separator": ",",
    "header": True,
    "names": None,
    "na_values": ["", "NA", "N/A", "NaN", "nan", "NULL", "null"],
    "encoding": "utf-8",
    "table": None,
    "query": None,
    "tables": {},
    "url": None,
    "password_env": None,
    "password_keyring": None,
    "version_query": None,
}
"""Options that every source once had. Digests still count them, so that caches stay good."""
_NOT_CONTENT = {"path", "tables", "password_env", "password_keyring"}


def _needs_its_type(schema: dict[str, Any]) -> None:
    schema["required"] = ["type", *schema.get("required", ())]


class RawTable(Config, ABC):
    """Where one table is and how to read it, as a person writes it in ``silo.yaml``.

    A kind of source is a subclass in a file of its own, with its options, and a line in
    `silos.rows.sources.kinds`. It says the names of its columns, yields its rows, says what its
    content is, and explains what its engine raises.

    Args:
        type: the kind's name.
    """

    model_config = ConfigDict(json_schema_extra=_needs_its_type)

    type: str

    @abstractmethod
    def resolve(self, directory: Path) -> Self:
        """Return the source with relative paths starting at ``directory``."""

    @abstractmethod
    def _names(self) -> list[str]:
        """Return the names of the columns."""

    @abstractmethod
    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        """Yield the rows in tables of any size; see `blocks`."""

    @abstractmethod
    def _content(self, memo: Path | None) -> list[str]:
        """Return what changes whenever a row changes; see `fingerprint`."""

    @abstractmethod
    def _why(self, cause: Exception) -> str:
        """Return in one sentence why the source cannot be read, without an engine's own text."""

    def columns_of_codes(self) -> tuple[str, ...]:
        """Return columns of text whose cells look like numbers: ``007`` is no 7."""
        return ()

    def parts(self) -> list[tuple[str | None, Self]]:
        """Return (name, source) of each file that rows can be counted in; the name where several.

        Raises:
            SourceUnreadable: where there is no such file.
        """
        return [(None, self)]

    @property
    def where(self) -> str:
        """How messages call this source; names neither a host nor a folder."""
        return f"source of type {self.type}"

    @property
    def description(self) -> dict[str, Any]:
        """All options as plain values, for digests; those that the kind does not have too."""
        return {**_UNSAID, **self.model_dump(mode="json")}

    def columns(self) -> list[str]:
        """Return the names of the columns without reading the rows; they stay in the silo.

        Raises:
            SourceUnreadable: where there is no such file or table, or files have unlike columns.
        """
        with self._explained():
            return self._names()

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
        options = {name: v for name, v in self.description.items() if name not in _NOT_CONTENT}
        with self._explained():
            counted = json.dumps([options, self._content(memo)], sort_keys=True)
        return hashlib.sha256(counted.encode()).hexdigest()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what an engine raises into one sentence without its text: it may quote rows."""
        try:
            yield
        except (SourceUnreadable, TypesChanged):
            raise
        except PermissionError:
            fault = "a file may not be read; check its permissions"
            raise SourceUnreadable(f"{self.where}: {fault}") from None
        except Exception as cause:
            raise SourceUnreadable(f"{self.where}: {self._why(cause)}") from None


def unexplained(cause: Exception) -> str:
    """Return what to say of a fault that nothing is known about."""
    return f"it cannot be read ({type(cause).__name__}); check its options"
