"""A canonical table that is put together block by block on disk, and then is one Arrow table.

Columns grow in files of their own; in the end they are mapped, and each is one contiguous array, as
if the table had been in memory. A table of less than a block never touches the disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_FLUSH_ROWS = 65_536


class TableSpool:
    """Takes canonical columns, as `silos.rows.arrow` makes them, block by block; gives one table.

    Args:
        directory: where files may lie until the table has been written elsewhere; the owner's only.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._columns: dict[str, _Column] = {}
        self._kinds: dict[str, pa.DataType] = {}
        self._waiting: list[pa.Table] = []
        self.num_rows = 0

    def append(self, num_rows: int, columns: Iterable[tuple[str, pa.Array]]) -> None:
        """Add rows; every block has the names of the first, and its types or what becomes them.

        Args:
            num_rows: of each column.
            columns: name, values; each is written before the next is asked for.
        """
        import pyarrow as pa

        self.num_rows += num_rows
        alike = self._alike(columns)
        if self.num_rows < _FLUSH_ROWS:
            self._waiting.append(pa.table(dict(alike) or {"": pa.nulls(num_rows)}))
            return
        for table in self._waiting:
            for name, values in zip(table.schema.names, table.columns, strict=True):
                self._column(name, values.type).add(values.combine_chunks())
        self._waiting = []
        for name, values in alike:
            self._column(name, values.type).add(values)

    def table(self) -> pa.Table:
        """Return all rows; a table of more than a few is mapped from the files."""
        import pyarrow as pa

        if self._waiting:
            return pa.concat_tables(self._waiting).combine_chunks()
        columns = {name: column.take(self.num_rows) for name, column in self._columns.items()}
        return pa.table(columns or {"": pa.nulls(self.num_rows)})

    def remove(self) -> None:
        """Remove the files; a table that was mapped from them stays readable."""
        for column in self._columns.values():
            column.remove()

    def _alike(self, columns: Iterable[tuple[str, pa.Array]]) -> Iterator[tuple[str, pa.Array]]:
        for name, values in columns:
            kind = self._kinds.setdefault(name, values.type)
            yield name, values if values.type == kind else values.cast(kind)

    def _column(self, name: str, kind: pa.DataType) -> _Column:
        if name not in self._columns:
            path = self._directory / f"column-{len(self._columns)}"
            self._columns[name] = _Column(path, kind)
        return self._columns[name]


class _Column:
    """One column's buffers, as Arrow lays them out, each growing in a file."""

    def __init__(self, path: Path, kind: pa.DataType) -> None:
        import pyarrow as pa

        self._kind = kind
        self._is_text = pa.types.is_large_string(kind)
        self._is_bits = pa.types.is_boolean(kind)
        self._num_nulls = 0
        self._text_bytes = 0
        self._waiting: pa.Array | None = None
        parts = ("valid", "offsets", "values") if self._is_text else ("valid", "values")
        self._files: dict[str, BinaryIO] = {}
        for part in () if pa.types.is_null(kind) else parts:
            place = path.with_name(f"{path.name}.{part}")
            place.touch(mode=0o600, exist_ok=False)
            # Not emptied: ext4 puts a file that was emptied on the disk when it is closed, and
            # these are deleted soon.
            self._files[part] = place.open("r+b", buffering=0)
        if self._is_text:
            self._write("offsets", np.zeros(1, np.int64))

    def add(self, values: pa.Array) -> None:
        """Append an array."""
        import pyarrow as pa

        if pa.types.is_null(self._kind):
            return
        if self._waiting is not None:
            values = pa.concat_arrays([self._waiting, values])
        # Whole bytes of bits only: the rest goes with the next rows. It is copied, or the few rows
        # that are left would hold all the others.
        num_rows = len(values) // 8 * 8
        rest = values.slice(num_rows)
        self._waiting = rest.take(np.arange(len(rest))) if len(rest) else None
        self._put(values.slice(0, num_rows))

    def _put(self, values: pa.Array) -> None:
        import pyarrow as pa

        self._num_nulls += values.null_count
        if values.null_count:
            valid = np.packbits(values.is_valid().to_numpy(zero_copy_only=False), bitorder="little")
        else:
            valid = np.full(-(-len(values) // 8), 255, np.uint8)
        self._write("valid", valid)
        if self._is_text:
            _, raw, text = values.buffers()
            offsets = np.frombuffer(raw, np.int64)[values.offset : values.offset + len(values) + 1]
            first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
            self._write("offsets", offsets[1:] - first + self._text_bytes)
            if text is not None:
                self._write("values", text.slice(first, last - first))
            self._text_bytes += last - first
        elif self._is_bits:
            bits = values.fill_null(False).to_numpy(zero_copy_only=False)
            self._write("values", np.packbits(bits, bitorder="little"))
        else:
            plain = values.view(pa.int64()) if pa.types.is_timestamp(self._kind) else values
            plain = plain.fill_null(0) if plain.null_count else plain
            self._write("values", plain.to_numpy(zero_copy_only=False))

    def take(self, num_rows: int) -> pa.Array:
        """Return the whole column, mapped."""
        import pyarrow as pa

        if pa.types.is_null(self._kind):
            return pa.nulls(num_rows)
        if self._waiting is not None:
            self._put(self._waiting)
        mapped = {}
        for part, file in self._files.items():
            file.close()
            with pa.memory_map(file.name) as source:
                mapped[part] = source.read_buffer()
        valid = mapped.pop("valid") if self._num_nulls else None
        buffers = [valid, *(mapped[part] for part in self._files if part != "valid")]
        return pa.Array.from_buffers(self._kind, num_rows, buffers, self._num_nulls)

    def remove(self) -> None:
        """Remove the files."""
        for file in self._files.values():
            file.close()
            Path(file.name).unlink(missing_ok=True)

    def _write(self, part: str, data: Any) -> None:
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        while view:
            view = view[self._files[part].write(view) :]
