"""CSV files: what a person says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from consilo.errors import SourceUnreadable
from silos.rows.sources.csv_form import CsvForm, names_of, not_text
from silos.rows.sources.csv_rows import tables_of
from silos.rows.sources.files import FilesSource
from silos.rows.sources.raw_table import unexplained

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
_CODE = r"^\s*(?:[+-]?(?:0[0-9]+(?:\.[0-9]*)?|[0-9]+[eE][0-9]+)|\+[0-9]+)\s*$"
"""What no program writes for a number: an exponent has its sign, as in ``1e+16``, a whole number
none where it is not below zero."""
_DAY = r"^\s*[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]00:00(?::00(?:\.0+)?)?[+-][0-9:]+\s*$"
"""A day as its first moment in some zone, which DuckDB would forget."""


class CsvSource(FilesSource):
    """CSV files, also compressed (``.csv.gz``).

    Args:
        path: files, folders, or patterns such as ``visits-*.csv``. Relative to the silo's
            directory.
        separator: of fields.
        header: whether a file's first line holds the names.
        names: the columns' names where there is no header.
        na_values: texts that mean "nothing", in place of the usual ones.
        encoding: of the text.
        quote: the sign around fields that hold separators or line ends, and twice within them for
            itself; ``none`` where such a sign is a sign like others.
        escape: the sign before one that is to be taken as it is, mostly a backslash; None where
            there is none.
        as_text: columns that DuckDB is to take for text, whatever their cells look like: ``1.10``
            is no 1.1. A mapping says by itself which columns are.
    """

    endings: ClassVar = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt")

    type: Literal["csv"] = "csv"
    separator: str = Field(default=",", min_length=1, max_length=1)
    header: bool = True
    names: tuple[str, ...] | None = None
    na_values: tuple[str, ...] = DEFAULT_NULLS
    encoding: str = "utf-8"
    quote: str = Field(default='"', min_length=1)
    escape: str | None = None
    as_text: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _is_of_one_piece(self) -> Self:
        faults = _sign_faults(self.separator, self.quote, self.escape)
        if self.names and self.header and "header" in self.model_fields_set:
            faults.append("names are for a file without a header; set header: false")
        if self.names and len(set(self.names)) < len(self.names):
            faults.append("names lists a column twice")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def description(self) -> dict[str, Any]:
        """All options as plain values, for digests; the newer ones where they say something."""
        said = super().description
        for name in ("quote", "escape", "as_text"):
            if getattr(self, name) == type(self).model_fields[name].default:
                del said[name]
        return said

    @property
    def _form(self) -> CsvForm:
        said = {each.name: getattr(self, each.name) for each in fields(CsvForm)}
        return CsvForm(**said)

    def columns_of_codes(self) -> tuple[str, ...]:
        """Return columns of text whose cells look like numbers, or whose days like moments.

        ``007`` is no 7, and where all cells are such as ``2024-05-01T00:00+02:00``, that is no
        evening of April.

        It costs a pass over the files. A mapping says itself which columns are text; who reads the
        whole file, as DuckDB does, asks here.
        """
        import pyarrow.compute as pc

        names = self.columns()
        unknown = [name for name in self.as_text if name not in names]
        if unknown:
            raise SourceUnreadable(f"{self.where}: as_text names '{unknown[0]}', no column of it")
        found = dict.fromkeys(self.as_text)
        days = dict.fromkeys(names, False)
        for block in self.blocks(text=names):
            for name in names:
                if (
                    name not in found
                    and pc.any(pc.match_substring_regex(block[name], _CODE)).as_py()
                ):
                    found[name] = None
            for name in tuple(days):
                like = pc.match_substring_regex(block[name], _DAY)
                days[name] |= pc.any(like).as_py() or False
                if not pc.all(like).as_py():
                    del days[name]
        return tuple(found | {name: None for name, is_one in days.items() if is_one})

    def _names_in(self, path: Path) -> list[str]:
        return names_of(self._form, path)

    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        import pyarrow as pa

        written = {name: pa.string() for name in text if name in wanted}
        return tables_of(self._form, self.files(), wanted, {**types, **written})

    def _why(self, cause: Exception) -> str:
        message = str(cause)
        if isinstance(cause, UnicodeDecodeError) or "UTF8" in message or "codec" in message:
            return not_text(self._form)
        if ragged := re.search(r"Expected (\d+) columns, got (\d+)", message):
            expected, got = ragged.groups()
            hint = "check separator, header and names"
            return f"a line has {got} fields where {expected} are expected; {hint}"
        if isinstance(cause, LookupError) and "encoding" in message:
            return f"the encoding '{self.encoding}' is not known"
        return unexplained(cause)


def _sign_faults(separator: str, quote: str, escape: str | None) -> list[str]:
    """Return a sentence for each sign of a CSV file that cannot be one."""
    signs = {"separator": separator, "quote": quote, "escape": escape}
    given = {
        name: sign
        for name, sign in signs.items()
        if sign is not None and (name, sign) != ("quote", "none")
    }
    faults = []
    for name, sign in given.items():
        if len(sign) != 1 or not sign.isascii() or sign in "\r\n\0" or sign.isalnum():
            other = ", or none" if name == "quote" else ""
            faults.append(f"{name} must be one sign of ASCII{other}, found {sign!r}")
    if quote == escape:
        faults.append("escape is the same as quote; a quote that stands twice is read anyway")
    elif len(set(given.values())) < len(given):
        faults.append("separator, quote and escape must be different signs")
    return faults
