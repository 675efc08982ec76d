"""Blocks of rows: tables of a few thousand rows each, as raw as the organisation holds them."""

from __future__ import annotations

from collections import deque
from collections.abc import (
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    from numpy.typing import NDArray

BLOCK_ROWS = 65_536
NO_TEXT = "\0"
"""In place of a cell that is no value: a zero byte is no part of a code, a number or a date."""
_FIRST_S, _END_S = -62_135_596_800, 253_402_300_800
"""From the year 1 to before the year 10,000, in seconds since 1970."""
_BLOCK_BYTES = 32 << 20
"""A block of a very wide table has fewer rows, so that it does not hold much more than this."""
_END = object()
ItemT = TypeVar("ItemT")
MadeT = TypeVar("MadeT")


class TypesChanged(Exception):
    """A later row of a text file belies the types that earlier blocks were given.

    What was read so far does not count. Read again from the start, with ``types``.
    """

    def __init__(self, types: Mapping[str, pa.DataType]) -> None:
        super().__init__("the types of columns changed; read again")
        self.types = dict(types)


class RowFilter(Protocol):
    """Which of a data set's raw rows may be used; consent is one.

    It is asked for every block, after it was read and before it is mapped, so that a row that may
    not be used reaches neither the mapping nor the cache. Hand it to
    `silos.rows.cache.CanonicalCache` (``key`` and ``get_or_build``) as ``keep``.
    """

    @property
    def digest(self) -> str:
        """Hexadecimal; changes whenever the answer for any row could.

        It is part of the cache's key: with another digest the table is built anew.
        """
        ...

    @property
    def columns(self) -> Sequence[str]:
        """Local columns that it looks at.

        They are in every block beside those that the mapping wants, and where the source is text
        they are read as written (``007`` stays ``007``).
        """
        ...

    def keep(self, block: pa.Table) -> NDArray[np.bool_]:
        """Return for each row of a block whether it may be used."""
        ...


def kept_rows(blocks: Iterable[pa.Table], keep: RowFilter | None) -> Iterator[pa.Table]:
    """Yield the blocks without the rows that may not be used."""
    import pyarrow as pa

    for block in blocks:
        yield block if keep is None else block.filter(pa.array(keep.keep(block), pa.bool_()))


def read_ahead(items: Iterable[ItemT]) -> Generator[ItemT]:
    """Yield the items, each made in another thread while the one before it is used.

    At most one waits. Close it, or use it up: then nothing runs any more.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1) as beside:
        coming: Any = beside.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = beside.submit(next, iterator, _END)
            yield item


def made_in_order(
    make: Callable[[ItemT], MadeT], items: Iterable[ItemT], *, ahead: int
) -> Generator[MadeT]:
    """Yield what ``make`` gives of each item, in order, made in other threads meanwhile.

    At most ``ahead`` wait, and as many threads make them: more than there are cores, since now and
    then each waits for the interpreter. Close it, or use it up: then nothing runs any more.
    """
    coming: deque[Future[MadeT]] = deque()
    with ThreadPoolExecutor(ahead) as beside:
        try:
            for item in items:
                coming.append(beside.submit(make, item))
                if len(coming) > ahead:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for each in coming:
                each.cancel()


def in_blocks(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the rows of tables of any size in blocks; at least one, which may have no rows."""
    import pyarrow as pa

    waiting: list[pa.Table] = []
    num_waiting, num_bytes, has_yielded = 0, 0, False
    for table in tables:
        waiting.append(table)
        num_waiting += table.num_rows
        num_bytes += table.nbytes
        size = _block_rows(num_waiting, num_bytes)
        if num_waiting < size:
            continue
        whole = stacked(waiting)
        at = 0
        while num_waiting - at >= size:
            yield whole.slice(at, size)
            has_yielded = True
            at += size
        num_bytes = num_bytes * (num_waiting - at) // num_waiting  # to count them takes a while
        waiting, num_waiting = [whole.slice(at)], num_waiting - at
        del whole
    if num_waiting or not has_yielded:
        yield stacked(waiting) if waiting else pa.table({})


def _block_rows(num_rows: int, num_bytes: int) -> int:
    if not num_rows:
        return BLOCK_ROWS
    row_bytes = num_bytes / num_rows
    return max(1, min(BLOCK_ROWS, int(_BLOCK_BYTES / max(row_bytes, 1.0))))


def stacked(tables: Sequence[pa.Table]) -> pa.Table:
    """Return tables of the same columns as one; where types differ, text wins over all others."""
    import pyarrow as pa

    if len(tables) == 1:
        return tables[0]
    if all(table.schema.equals(tables[0].schema) for table in tables):
        return pa.concat_tables(tables)
    schema = common_schema([table.schema for table in tables])
    return pa.concat_tables([cast(table, schema) for table in tables])


def common_schema(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """Return a schema that the tables of all schemas, which have the same names, can be cast to."""
    import pyarrow as pa

    fields = []
    for name in schemas[0].names:
        kinds = [_plain(each.field(name).type) for each in schemas]
        fields.append(pa.field(name, _common(kinds)))
    return pa.schema(fields)


def cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return a table with the names and types of ``schema``."""
    return table.select(schema.names).cast(schema)


def _plain(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    return pa.string() if pa.types.is_large_string(kind) or kind == pa.string_view() else kind


def _common(kinds: Sequence[pa.DataType]) -> pa.DataType:
    import pyarrow as pa

    if all(kind == kinds[0] for kind in kinds):
        return kinds[0]
    if any(pa.types.is_string(kind) for kind in kinds):
        return pa.string()
    try:
        schemas = [pa.schema([("x", kind)]) for kind in kinds]
        return pa.unify_schemas(schemas, promote_options="permissive").field("x").type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()


def _dates_within_years(table: pa.Table) -> pa.Table:
    """Return a block whose dates Python can hold: one that has others is text, to be counted."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for at, field in enumerate(table.schema):
        if pa.types.is_date(field.type) and table.num_rows:
            seconds = pc.cast(table.column(at), pa.timestamp("s"))
            ends = pc.min_max(seconds.cast(pa.int64())).as_py()
            if ends["min"] is not None and not _FIRST_S <= ends["min"] <= ends["max"] < _END_S:
                whole = pc.and_(
                    pc.greater_equal(seconds.cast(pa.int64()), _FIRST_S),
                    pc.less(seconds.cast(pa.int64()), _END_S),
                )
                days = pc.if_else(whole, table.column(at), pa.scalar(None, field.type))
                texts = pc.if_else(pc.invert(whole), NO_TEXT, pc.cast(days, pa.string()))
                table = table.set_column(at, field.name, texts)
    return table


def to_frame(table: pa.Table) -> pd.DataFrame:
    """Return a block as pandas holds it."""
    table = _dates_within_years(table)
    frame: pd.DataFrame = table.to_pandas(
        types_mapper=_types().get, split_blocks=True, ignore_metadata=True
    )
    return frame


@cache
def _types() -> dict[Any, Any]:
    """Return Arrow's type → that of pandas, where it is not the usual one."""
    import pandas as pd
    import pyarrow as pa

    # Whole numbers with gaps stay whole numbers, else large ones would lose their last digits.
    # Texts stay in Arrow's memory: by the usual way to the same type each is a Python object first.
    text = pd.StringDtype(na_value=float("nan"))
    numbers = {pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}
    return {**numbers, pa.string(): text, pa.large_string(): text}


class BlockColumns(MutableMapping[str, "pd.Series[Any]"]):
    """The columns of a block as pandas holds them, each made when it is asked for.

    What is made of one column then lies where what was made of the one before it lay.
    """

    def __init__(self, table: pa.Table) -> None:
        self._columns = dict(zip(table.schema.names, table.columns, strict=True))

    def __getitem__(self, name: str) -> pd.Series[Any]:
        """Return a column as `to_frame` has it."""
        import pyarrow as pa

        column = self._columns[name]
        if pa.types.is_temporal(column.type):
            return to_frame(pa.table({name: column}))[name]
        if column.num_chunks != 1:
            column = column.combine_chunks(memory_pool=pa.system_memory_pool())
        values: pd.Series[Any] = column.to_pandas(types_mapper=_types().get)
        return values

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def pop(self, name: str) -> pd.Series[Any]:  # type: ignore[override]
        """Return a column and let it go."""
        values = self[name]
        del self._columns[name]
        return values

    def __setitem__(self, name: str, values: pd.Series[Any]) -> None:
        raise TypeError("the columns of a block are only taken away")

    def __delitem__(self, name: str) -> None:
        del self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)
