"""CSV files, block by block, with the types that Arrow would give them when it reads them whole.

The first block decides the types, and they hold for all files of a source together. Where a later
row belies one, the right type is sought with a pass over that column alone, and the reader starts
anew (`TypesChanged`): that is rare, and cheaper than to look at every row twice.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from consilo.errors import SourceUnreadable
from silos.rows.sources.blocks import TypesChanged, read_ahead
from silos.rows.sources.files import FilesSource
from silos.rows.sources.raw_table import unexplained

if TYPE_CHECKING:
    import pyarrow as pa

DEFAULT_NULLS = ("", "NA", "N/A", "NaN", "nan", "NULL", "null")
_WIDE = ("utf-16", "utf16", "utf-32", "utf32", "ucs")
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_HEAD_BYTES = 4096
_CODE = r"^\s*[+-]?(?:0[0-9]+(?:\.[0-9]*)?|[0-9]+[eE][0-9]+)\s*$"
"""What no program writes for a number: an exponent has its sign, as in ``1e+16``."""
_HEXADECIMAL = r"^\s*[+-]?0[xX]"
_EXACT, _EXPONENTS = 2.0**53, 1e25
"""From where floats skip whole numbers; from where nobody writes a number with all its digits."""
_TEXT_BLOCK = 4 << 20
_HEADER_BLOCK = 64 << 10
"""Enough for the names, of which a table of a few thousand columns has less."""


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
        for name in ("quote", "escape"):
            if said[name] == type(self).model_fields[name].default:
                del said[name]
        return said

    def columns_of_codes(self) -> tuple[str, ...]:
        """Return columns of text whose cells look like numbers: ``007`` is no 7.

        It costs a pass over the files. A mapping says itself which columns are text; who reads the
        whole file, as DuckDB does, asks here.
        """
        import pyarrow.compute as pc

        names = self.columns()
        found: dict[str, None] = {}
        for block in self.blocks(text=names):
            for name in names:
                if (
                    name not in found
                    and pc.any(pc.match_substring_regex(block[name], _CODE)).as_py()
                ):
                    found[name] = None
        return tuple(found)

    def _names_in(self, path: Path) -> list[str]:
        return _names_of(self, path)

    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        import pyarrow as pa

        written = {name: pa.string() for name in text if name in wanted}
        return _tables_of(self, self.files(), wanted, {**types, **written})

    def _why(self, cause: Exception) -> str:
        message = str(cause)
        if isinstance(cause, UnicodeDecodeError) or "UTF8" in message or "codec" in message:
            return _not_text(self)
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


def _names_of(source: CsvSource, path: Path) -> list[str]:
    """Return the names of a file's columns."""
    if not source.encoding.lower().replace("_", "-").startswith(_WIDE):
        _require_narrow(source, path)
    if source.names is not None:
        return list(source.names)
    names = _header(source, path)
    twice = [at + 1 for at, name in enumerate(names) if name in names[:at]]
    if twice:
        hint = "rename it, or set header: false with names"
        fault = f"column {twice[0]} has the name of one before it"
        raise SourceUnreadable(f"{source.where}: {fault}; {hint}")
    return names


def _require_narrow(source: CsvSource, path: Path) -> None:
    """Raise where a file's first bytes show that a letter takes two of them, or four."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as file:
        found = wide_encoding(file.read(_HEAD_BYTES))
    if found is not None:
        raise SourceUnreadable(f"{source.where}: a file is {found} text; set encoding: {found}")


def wide_encoding(head: bytes) -> str | None:
    """Return the encoding of text of two or four bytes a letter, by its first bytes; else None.

    >>> wide_encoding("a,b".encode("utf-16-le")), wide_encoding(b"a,b")
    ('utf-16-le', None)
    """
    for mark, name in _MARKS:  # that of UTF-32 begins as that of UTF-16 does
        if head.startswith(mark):
            return name
    half = len(head) // 2
    for name, zeros in (("utf-16-le", head[1::2]), ("utf-16-be", head[::2])):
        # Western text has a zero byte in nearly every letter.
        if half > 1 and zeros.count(0) > 0.8 * half and head.count(0) < 1.2 * half:
            return name
    return None


def _refuse_zero_bytes(source: CsvSource, batch: pa.RecordBatch) -> None:
    """Raise where a text has a zero byte in it: it would be another code to every reader."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, "\0")).as_py():
            raise SourceUnreadable(
                f"{source.where}: column '{name}' has zero bytes in it; if the file is UTF-16, set "
                "encoding: utf-16, else the file is damaged: write it anew, or take them out"
            )


def _refuse_escaped_nothing(source: CsvSource, path: Path) -> None:
    """Raise where a field is ``\\N``, as some databases write "nothing": it would be the code N."""
    import pyarrow as pa

    assert source.escape is not None
    escape, around = re.escape(source.escape), re.escape(source.separator)
    nothing = re.compile(rf"(?:^|[\r\n{around}]){escape}N(?:[\r\n{around}]|$)")
    with (
        pa.input_stream(str(path), compression="detect") as file,
        io.TextIOWrapper(file, encoding=source.encoding, newline="") as text,
    ):
        before = ""
        while piece := text.read(_TEXT_BLOCK):
            if nothing.search(before + piece):
                raise SourceUnreadable(
                    f"{source.where}: a field is {source.escape}N, which means nothing to some "
                    "databases and would be read as the text N; write empty fields, or leave "
                    "escape out"
                )
            before = piece[-3:]


def _header(source: CsvSource, path: Path) -> list[str]:
    import pyarrow as pa

    try:
        with _open(source, path, text_block=_HEADER_BLOCK) as reader:
            return list(reader.schema.names)
    except pa.ArrowInvalid:  # a first row longer than that, or what the whole block is told of
        with _open(source, path) as reader:
            return list(reader.schema.names)


def _tables_of(
    source: CsvSource,
    paths: Sequence[Path],
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> Iterator[pa.Table]:
    """Yield the rows of all files, in tables of some MiB of text each.

    Args:
        source: its options.
        paths: files with the same columns, in any order.
        wanted: which columns, in this order.
        types: of columns whose type is known.

    Raises:
        TypesChanged: where a row belies the type of its column.
        SourceUnreadable: where a file is not text in its encoding.
    """
    import pyarrow as pa

    guessed = [name for name in wanted if name not in types]
    # Arrow would read 0x10 as 16; as text it is counted, and the plain numbers are read.
    hexadecimal = _hexadecimal_columns(source, paths, guessed) if guessed else ()
    types = {**types, **dict.fromkeys(hexadecimal, pa.string())}
    fixed = dict(types)
    for path in paths:
        if source.escape is not None:
            _refuse_escaped_nothing(source, path)
        try:
            with _open(source, path, wanted, fixed) as reader:
                if any(map(pa.types.is_binary, reader.schema.types)):
                    raise SourceUnreadable(f"{source.where}: {_not_text(source)}")
                fixed = {field.name: field.type for field in reader.schema}
                yield reader.schema.empty_table()
                # Arrow takes a text apart only when it is asked for the rows.
                with closing(read_ahead(reader)) as batches:
                    for batch in batches:
                        _refuse_zero_bytes(source, batch)
                        if inexact := _inexact(batch):
                            changed = {**fixed, **dict.fromkeys(inexact, pa.string())}
                            raise TypesChanged(_settled(source, paths, wanted, changed))
                        yield pa.Table.from_batches([batch])
        except pa.ArrowInvalid as cause:
            column = _misfit(cause, _names_of(source, path))
            if column is None or column not in fixed or column in types:
                raise
            raise TypesChanged(_settled(source, paths, wanted, {**fixed, **types})) from None


def _hexadecimal_columns(
    source: CsvSource, paths: Sequence[Path], names: Sequence[str]
) -> list[str]:
    """Return columns with a cell such as ``0x10``; another pass only where ``0x`` stands at all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, None] = {}
    for path in filter(_has_hexadecimals, paths):
        with _open(source, path, names, dict.fromkeys(names, pa.string())) as reader:
            for batch in reader:
                for name, cells in zip(batch.schema.names, batch.columns, strict=True):
                    if pc.any(pc.match_substring_regex(cells, _HEXADECIMAL)).as_py():
                        found[name] = None
    return list(found)


def _has_hexadecimals(path: Path) -> bool:
    """Return whether ``0x`` stands anywhere in a file, in an encoding of a byte a letter."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as file:
        last = b""
        while piece := file.read(_TEXT_BLOCK):
            if b"0x" in (joined := last + piece.lower()):
                return True
            last = joined[-1:]
    return False


def _inexact(batch: pa.RecordBatch) -> list[str]:
    """Return columns of floats that may have been whole numbers of more digits than a float has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not pa.types.is_float64(column.type):
            continue
        size = pc.abs(column)
        large = pc.and_(pc.greater_equal(size, _EXACT), pc.less(size, _EXPONENTS))
        if pc.any(large).as_py():
            found.append(name)
    return found


def _not_text(source: CsvSource) -> str:
    """Return what to say of a file whose bytes are no text."""
    return (
        f"a file is not {source.encoding} text; set encoding, such as encoding: cp1252 (Windows), "
        "latin-1, utf-16 or mac-roman"
    )


def _settled(
    source: CsvSource,
    paths: Sequence[Path],
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> dict[str, pa.DataType]:
    """Return ``types`` with those that rows belie made wider, until all rows fit."""
    fitting = dict(types)
    while (column := _misfit_in(source, paths, wanted, fitting)) is not None:
        fitting[column] = _wider(source, paths, column, fitting[column])
    return fitting


def _wider(source: CsvSource, paths: Sequence[Path], column: str, kind: pa.DataType) -> pa.DataType:
    """Return the first type after ``kind``, in Arrow's own order, that every row of a column has.

    Raises:
        pyarrow.ArrowInvalid: where a file cannot be read at all.
    """
    import pyarrow as pa

    # Arrow's InferringColumnBuilder loosens a column's type in this order.
    chain = [
        pa.null(),
        pa.int64(),
        pa.bool_(),
        pa.date32(),
        pa.time32("s"),
        pa.timestamp("s"),
        pa.timestamp("s", "UTC"),
        pa.timestamp("ns"),
        pa.timestamp("ns", "UTC"),
        pa.float64(),
    ]
    for candidate in chain[chain.index(kind) + 1 :] if kind in chain else []:
        if _misfit_in(source, paths, [column], {column: candidate}) is None:
            return candidate
    return pa.string()


def _misfit_in(
    source: CsvSource,
    paths: Sequence[Path],
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> str | None:
    """Return the first column found whose type does not fit all rows."""
    import pyarrow as pa

    for path in paths:
        try:
            with _open(source, path, wanted, types) as reader:
                for _ in reader:
                    pass
        except pa.ArrowInvalid as cause:
            column = _misfit(cause, _names_of(source, path))
            if column is None or pa.types.is_string(types[column]):
                raise
            return column
    return None


def _misfit(cause: Exception, names: Sequence[str]) -> str | None:
    """Return the column whose type does not fit a row, as Arrow says it; None for other faults."""
    match = re.match(r"In CSV column #(\d+)", str(cause))
    return names[int(match[1])] if match and int(match[1]) < len(names) else None


def _open(
    source: CsvSource,
    path: Path,
    wanted: Sequence[str] | None = None,
    types: Mapping[str, pa.DataType] | None = None,
    *,
    text_block: int | None = None,
) -> Any:
    from pyarrow import csv

    reading = csv.ReadOptions(
        column_names=list(source.names) if source.names else None,
        autogenerate_column_names=not source.header and not source.names,
        encoding=source.encoding,
        block_size=text_block or _TEXT_BLOCK,
    )
    converting = csv.ConvertOptions(
        include_columns=list(wanted) if wanted is not None else None,
        column_types=dict(types or {}),
        null_values=sorted({"", *source.na_values}),
        strings_can_be_null=True,
    )
    parsing = csv.ParseOptions(
        delimiter=source.separator,
        quote_char=False if source.quote == "none" else source.quote,
        escape_char=source.escape or False,
        newlines_in_values=True,
    )
    return csv.open_csv(
        path, read_options=reading, parse_options=parsing, convert_options=converting
    )
