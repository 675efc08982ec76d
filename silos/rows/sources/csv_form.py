"""How CSV files are written: Arrow's reader of them, and what their first bytes say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.errors import SourceUnreadable

if TYPE_CHECKING:
    import pyarrow as pa

TEXT_BLOCK = 4 << 20
"""Bytes of text whose rows say what a column's type is; the most that a row may have."""
_HEADER_BLOCK = 64 << 10
"""Enough for the names, of which a table of a few thousand columns has less."""
_WIDE = ("utf-16", "utf16", "utf-32", "utf32", "ucs")
_MARKS = (
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
_HEAD_BYTES = 4096


@dataclass(frozen=True)
class CsvForm:
    """How CSV files are written; `silos.rows.sources.csv_file.CsvSource` says what each means."""

    where: str
    separator: str
    header: bool
    names: tuple[str, ...] | None
    na_values: tuple[str, ...]
    encoding: str
    quote: str
    escape: str | None


def names_of(form: CsvForm, path: Path) -> list[str]:
    """Return the names of a file's columns."""
    if not form.encoding.lower().replace("_", "-").startswith(_WIDE):
        _require_narrow(form, path)
    if form.names is not None:
        return list(form.names)
    names = _header(form, path)
    twice = [at + 1 for at, name in enumerate(names) if name in names[:at]]
    if twice:
        hint = "rename it, or set header: false with names"
        fault = f"column {twice[0]} has the name of one before it"
        raise SourceUnreadable(f"{form.where}: {fault}; {hint}")
    return names


def _require_narrow(form: CsvForm, path: Path) -> None:
    """Raise where a file's first bytes show that a letter takes two of them, or four."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as file:
        found = wide_encoding(file.read(_HEAD_BYTES))
    if found is not None:
        raise SourceUnreadable(f"{form.where}: a file is {found} text; set encoding: {found}")


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


def _header(form: CsvForm, path: Path) -> list[str]:
    import pyarrow as pa

    try:
        with opened(form, path, text_block=_HEADER_BLOCK) as reader:
            return list(reader.schema.names)
    except pa.ArrowInvalid:  # a first row longer than that, or what the whole block is told of
        with opened(form, path) as reader:
            return list(reader.schema.names)


def opened(
    form: CsvForm,
    text: Any,
    wanted: Sequence[str] | None = None,
    types: Mapping[str, pa.DataType] | None = None,
    *,
    names: Sequence[str] | None = None,
    text_block: int | None = None,
) -> Any:
    """Return Arrow's reader of a text.

    Args:
        form: how they are written.
        text: a file's path, or what is read of one: a file or a buffer.
        wanted: which columns, in this order; None for all.
        types: of columns whose type is known.
        names: the columns' names where the text is what follows the head of a file.
        text_block: bytes that it takes apart at a time, and the most that a row may have.
    """
    import pyarrow as pa
    from pyarrow import csv

    given = names or form.names
    reading = csv.ReadOptions(
        column_names=list(given) if given else None,
        autogenerate_column_names=not form.header and not given,
        encoding=form.encoding,
        block_size=text_block or TEXT_BLOCK,
        use_threads=text_block is None,
    )
    converting = csv.ConvertOptions(
        include_columns=list(wanted) if wanted is not None else None,
        column_types=dict(types or {}),
        null_values=sorted({"", *form.na_values}),
        strings_can_be_null=True,
    )
    parsing = csv.ParseOptions(
        delimiter=form.separator,
        quote_char=False if form.quote == "none" else form.quote,
        escape_char=form.escape or False,
        newlines_in_values=True,
    )
    # One thread makes these rows and another lets them go; Arrow's usual pool takes fresh memory
    # for most of them then, which the system has to clear first.
    return csv.open_csv(
        text,
        read_options=reading,
        parse_options=parsing,
        convert_options=converting,
        memory_pool=pa.system_memory_pool(),
    )


def not_text(form: CsvForm) -> str:
    """Return what to say of a file whose bytes are no text."""
    return (
        f"a file is not {form.encoding} text; set encoding, such as encoding: cp1252 (Windows), "
        "latin-1, utf-16 or mac-roman"
    )
