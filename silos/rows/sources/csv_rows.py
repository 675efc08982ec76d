"""The rows of CSV files, with the types that Arrow would give them when it reads them whole.

The first block decides the types, and they hold for all files of a source together. Where a later
row belies one, the right type is sought with a pass over that column alone, and the reader starts
anew (`TypesChanged`): that is rare, and cheaper than to look at every row twice.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from consilo.errors import SourceUnreadable
from silos.rows.sources import csv_form
from silos.rows.sources.blocks import TypesChanged, made_in_order, read_ahead
from silos.rows.sources.csv_form import CsvForm, names_of, not_text, opened
from silos.rows.sources.pieces import Piece, Pieces, can_cut

if TYPE_CHECKING:
    import pyarrow as pa

_HEXADECIMAL = r"^\s*[+-]?0[xX]"
_EXACT, _EXPONENTS = 2.0**53, 1e25
"""From where floats skip whole numbers; from where nobody writes a number with all its digits."""
_COLUMN_BYTES = 16 << 10
"""Of a text for each column: a column of a text costs some time whatever it holds."""
_PIECES_AHEAD = 4
_LOOKED_BYTES = 256 << 10
"""Looked through at a time: a processor's cache holds it."""


@dataclass(frozen=True)
class _Looked:
    """Rows that were looked at.

    Args:
        table: the rows.
        doubtful: columns whose numbers may be others than are written: floats that were whole
            numbers of more digits than a float has, and hexadecimal numbers.
    """

    table: pa.Table
    doubtful: list[str]


def tables_of(
    form: CsvForm,
    paths: Sequence[Path],
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> Iterator[pa.Table]:
    """Yield the rows of all files, in tables of a piece of text each.

    Args:
        form: how they are written.
        paths: files with the same columns, in any order.
        wanted: which columns, in this order.
        types: of columns whose type is known.

    Raises:
        TypesChanged: where a row belies the type of its column.
        SourceUnreadable: where a file is not text in its encoding.
    """
    import pyarrow as pa

    guessed = [name for name in wanted if name not in types]
    # Arrow would read 0x10 as 16; as text it is counted, and the plain numbers are read. In a long
    # file it is looked for piece by piece, while others are read.
    short = [path for path in paths if not _is_long(form, path)]
    hexadecimal = _hexadecimal_columns(form, short, guessed) if guessed else ()
    types = {**types, **dict.fromkeys(hexadecimal, pa.string())}
    fixed = dict(types)

    def changed(wider: Mapping[str, pa.DataType]) -> TypesChanged:
        """Return what all rows of all files fit into, given which types they surely belie."""
        more = _hexadecimal_columns(form, paths, guessed) if guessed else ()
        text = dict.fromkeys(more, pa.string())
        return TypesChanged(_settled(form, paths, wanted, {**wider, **text}))

    for path in paths:
        if form.escape is not None:
            _refuse_escaped_letters(form, path)
        try:
            with opened(form, path, wanted, fixed) as reader:
                if any(map(pa.types.is_binary, reader.schema.types)):
                    raise SourceUnreadable(f"{form.where}: {not_text(form)}")
                fixed = {field.name: field.type for field in reader.schema}
                yield reader.schema.empty_table()
                is_long = path not in short
                found = () if is_long else _of_reader(form, reader)
                yield from _certain(fixed, found, changed)
            if is_long:
                found = _of_pieces(form, path, wanted, fixed, guessed)
                yield from _certain(fixed, found, changed)
        except pa.ArrowInvalid as cause:
            column = _misfit(cause, names_of(form, path))
            if column is None or column not in fixed or column in types:
                raise
            raise changed(fixed) from None


def _is_long(form: CsvForm, path: Path) -> bool:
    """Return whether a file is read in pieces."""
    return path.stat().st_size > csv_form.TEXT_BLOCK and can_cut(form.encoding)


def _of_reader(form: CsvForm, reader: Any) -> Iterator[_Looked]:
    """Yield what an open file has, in its order."""
    import pyarrow as pa

    # Arrow takes a text apart only when it is asked for the rows.
    with closing(read_ahead(reader)) as batches:
        for batch in batches:
            yield _looked_at(form, pa.Table.from_batches([batch]))


def _of_pieces(
    form: CsvForm,
    path: Path,
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType],
    guessed: Sequence[str],
) -> Iterator[_Looked]:
    """Yield what a long file has, several pieces read at the same time, in the file's order.

    Args:
        form: how they are written.
        path: the file, in an encoding that can be cut.
        wanted: which columns, in this order.
        types: of all of these.
        guessed: of which columns the type is a guess.
    """
    import pyarrow as pa

    names = names_of(form, path)
    signs = [each.encode() for each in (form.quote, form.escape) if each and len(each) == 1]
    # What is read at a time, and what comes of it, lie in the processor's cache.
    part_bytes = max(csv_form.TEXT_BLOCK // 8, _COLUMN_BYTES * len(names))

    def read(piece: Piece) -> tuple[_Looked, bool]:
        tables: list[pa.Table] = []
        may_be = bool(guessed) and _has_hexadecimal(piece.text, 0, piece.size)
        for part in piece.parts(part_bytes):
            named = None if piece.is_first and not tables else names
            text, whole = pa.BufferReader(part), len(part) + 1
            with opened(form, text, wanted, types, names=named, text_block=whole) as reader:
                tables.append(reader.read_all())
        pieces.take_back(piece)
        return _looked_at(form, pa.concat_tables(tables)), may_be

    hexadecimal: list[str] | None = None  # not known yet

    def doubted(looked: _Looked) -> _Looked:
        nonlocal hexadecimal
        if hexadecimal is None:
            hexadecimal = _hexadecimal_columns(form, [path], guessed)
        return replace(looked, doubtful=[*looked.doubtful, *hexadecimal])

    with pa.input_stream(str(path), compression="detect") as file:
        pieces = Pieces(file, signs, piece_bytes=csv_form.TEXT_BLOCK)
        with closing(made_in_order(read, pieces, ahead=_PIECES_AHEAD)) as made:
            for looked, may_be in made:
                yield doubted(looked) if may_be else looked
        if pieces.rest is not None:
            named = None if pieces.rest.is_first else names
            with opened(form, pieces.rest, wanted, types, names=named) as reader:
                for looked in _of_reader(form, reader):
                    yield doubted(looked) if guessed else looked


def _looked_at(form: CsvForm, table: pa.Table) -> _Looked:
    """Return rows, and the columns of floats that may have been whole numbers of more digits."""
    _refuse_zero_bytes(form, table)
    return _Looked(table, _inexact(table))


def _certain(
    types: Mapping[str, pa.DataType],
    found: Iterable[_Looked],
    changed: Callable[[Mapping[str, pa.DataType]], TypesChanged],
) -> Iterator[pa.Table]:
    """Yield rows; raise `TypesChanged` where Arrow may have read another value than is written."""
    import pyarrow as pa

    for each in found:
        if each.doubtful:
            raise changed({**types, **dict.fromkeys(each.doubtful, pa.string())})
        yield each.table


def _hexadecimal_columns(form: CsvForm, paths: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Return columns with a cell such as ``0x10``; another pass only where ``0x`` stands at all."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found: dict[str, None] = {}
    for path in paths:
        if can_cut(form.encoding) and not _has_hexadecimals(path):
            continue
        with opened(form, path, names, dict.fromkeys(names, pa.string())) as reader:
            for batch in reader:
                for name, cells in zip(batch.schema.names, batch.columns, strict=True):
                    if pc.any(pc.match_substring_regex(cells, _HEXADECIMAL)).as_py():
                        found[name] = None
    return list(found)


def _has_hexadecimals(path: Path) -> bool:
    """Return whether ``0x`` stands anywhere in a file, in an encoding of a byte a letter."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as file:
        text = bytearray(1 + _LOOKED_BYTES)  # the first is the last one of what was read before
        with memoryview(text) as whole:
            while size := file.readinto(whole[1:]):
                if _has_hexadecimal(text, 1, 1 + size):
                    return True
                text[0] = text[size]
    return False


def _has_hexadecimal(text: bytearray, start: int, end: int) -> bool:
    """Return whether ``0x`` stands in a text, its ``x`` between ``start`` and ``end``."""
    before = max(0, start - 1)
    # To look for one letter is much quicker, and most tables of numbers have none.
    return any(
        text.find(letter, start, end) >= 0 and text.find(b"0" + letter, before, end) >= 0
        for letter in (b"x", b"X")
    )


def _inexact(table: pa.Table) -> list[str]:
    """Return columns of floats that may have been whole numbers of more digits than a float has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        if not pa.types.is_float64(column.type):
            continue
        size = pc.abs(column)
        large = pc.greater_equal(size, _EXACT)
        if pc.any(large).as_py() and pc.any(pc.and_(large, pc.less(size, _EXPONENTS))).as_py():
            found.append(name)
    return found


def _settled(
    form: CsvForm,
    paths: Sequence[Path],
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> dict[str, pa.DataType]:
    """Return ``types`` with those that rows belie made wider, until all rows fit."""
    fitting = dict(types)
    while (column := _misfit_in(form, paths, wanted, fitting)) is not None:
        fitting[column] = _wider(form, paths, column, fitting[column])
    return fitting


def _wider(form: CsvForm, paths: Sequence[Path], column: str, kind: pa.DataType) -> pa.DataType:
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
        if _misfit_in(form, paths, [column], {column: candidate}) is None:
            return candidate
    return pa.string()


def _misfit_in(
    form: CsvForm,
    paths: Sequence[Path],
    wanted: Sequence[str],
    types: Mapping[str, pa.DataType],
) -> str | None:
    """Return the first column found whose type does not fit all rows."""
    import pyarrow as pa

    for path in paths:
        try:
            with opened(form, path, wanted, types) as reader:
                for _ in reader:
                    pass
        except pa.ArrowInvalid as cause:
            column = _misfit(cause, names_of(form, path))
            if column is None or pa.types.is_string(types[column]):
                raise
            return column
    return None


def _misfit(cause: Exception, names: Sequence[str]) -> str | None:
    """Return the column whose type does not fit a row, as Arrow says it; None for other faults."""
    match = re.match(r"In CSV column #(\d+)", str(cause))
    return names[int(match[1])] if match and int(match[1]) < len(names) else None


def _refuse_zero_bytes(form: CsvForm, table: pa.Table) -> None:
    """Raise where a text has a zero byte in it: it would be another code to every reader."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, column in zip(table.schema.names, table.columns, strict=True):
        if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, "\0")).as_py():
            raise SourceUnreadable(
                f"{form.where}: column '{name}' has zero bytes in it; if the file is UTF-16, set "
                "encoding: utf-16, else the file is damaged: write it anew, or take them out"
            )


def _refuse_escaped_letters(form: CsvForm, path: Path) -> None:
    """Raise where an escape stands before a sign that needs none: writers mean different things.

    It would be taken away. Some databases mean "nothing" by ``\\N`` and a tab by ``\\t``, and some
    writers (DuckDB) escape within quotes only, so that in any other field it is the text's own.
    """
    import pyarrow as pa

    assert form.escape is not None
    pair = re.compile(rf"{re.escape(form.escape)}(.)", re.DOTALL)
    quote = '"' if form.quote == "none" else form.quote  # writers without quotes escape it, too
    needed = {form.separator, quote, form.escape, "\r", "\n"}
    with (
        pa.input_stream(str(path), compression="detect") as file,
        io.TextIOWrapper(file, encoding=form.encoding, newline="") as text,
    ):
        rest = ""
        while piece := text.read(csv_form.TEXT_BLOCK):
            piece, end = rest + piece, 0
            for found in pair.finditer(piece):
                end = found.end()
                if found[1] not in needed:
                    _refuse_letter(form, found[1])
            rest = piece[-1:] if piece.endswith(form.escape) and end < len(piece) else ""


def _refuse_letter(form: CsvForm, letter: str) -> NoReturn:
    told = (
        f"{form.escape}N, which means nothing to some databases and would be read as the text N"
        if letter == "N"
        else f"{form.escape} before a sign that needs no escape: to some writers that is a tab or "
        "the like, to others a text of its own, and it would be lost"
    )
    raise SourceUnreadable(
        f"{form.where}: a field has {told}; write empty fields for nothing and all texts in quotes,"
        " or leave escape out"
    )
