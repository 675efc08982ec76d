"""A canonical table that is put together block by block on disk, and then is one Arrow table.

Columns grow in files of their own; in the end they are mapped, and each is one contiguous array, as
if the table had been in memory. A table of less than a block never touches the disk.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

_FLUSH_ROWS = 65_536


class TableSpool:
    """Takes canonical blocks, as `silos.rows.cache.to_arrow` makes them, and gives back one table.

    Args:
        directory: where files may lie until the table has been written elsewhere; the owner's only.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._columns: list[_Column] = []
        self._schema: pa.Schema | None = None
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0
        self.num_rows = 0

    def append(self, block: pa.Table) -> None:
        """Add rows; every block has the names and types of the first."""
        if self._schema is None:
            self._schema = block.schema
        elif block.schema != self._schema:
            block = block.cast(self._schema)
        self._waiting.append(block)
        self._num_waiting += block.num_rows
        self.num_rows += block.num_rows
        if self._num_waiting >= _FLUSH_ROWS:
            # Whole bytes of bits only: the rest goes with the next rows.
            self._flush(self._num_waiting // 8 * 8)

    def table(self) -> pa.Table:
        """Return all rows; a table of more than one block is mapped from the files."""
        import pyarrow as pa

        if not self._columns:
            return pa.concat_tables(self._waiting).combine_chunks()
        if self._waiting:
            self._flush(self._num_waiting)
        columns = [column.take(self.num_rows) for column in self._columns]
        return pa.Table.from_arrays(columns, schema=self._schema)

    def remove(self) -> None:
        """Remove the files; a table that was mapped from them stays readable."""
        for column in self._columns:
            column.remove()

    def _flush(self, num_rows: int) -> None:
        import pyarrow as pa

        whole = self._waiting[0]
        if len(self._waiting) > 1:
            whole = pa.concat_tables(self._waiting).combine_chunks()
        if not self._columns:
            self._columns = [
                _Column(self._directory / f"column-{at}", field.type)
                for at, field in enumerate(whole.schema)
            ]
        for column, name in zip(self._columns, whole.schema.names, strict=True):
            column.add(whole[name].slice(0, num_rows))
        # Copied, or the few rows that are left would hold all the others.
        rest = whole.slice(num_rows)
        self._waiting = [rest.take(np.arange(rest.num_rows))] if rest.num_rows else []
        self._num_waiting = rest.num_rows


class _Column:
    """One column's buffers, as Arrow lays them out, each growing in a file."""

    def __init__(self, path: Path, kind: pa.DataType) -> None:
        import pyarrow as pa

        self._kind = kind
        self._is_text = pa.types.is_large_string(kind)
        self._is_bits = pa.types.is_boolean(kind)
        self._num_nulls = 0
        self._text_bytes = 0
        parts = ("valid", "offsets", "values") if self._is_text else ("valid", "values")
        self._files: dict[str, BinaryIO] = {}
        for part in () if pa.types.is_null(kind) else parts:
            place = path.with_name(f"{path.name}.{part}")
            place.touch(mode=0o600)
            self._files[part] = place.open("wb", buffering=0)
        if self._is_text:
            self._write("offsets", np.zeros(1, np.int64))

    def add(self, values: Any) -> None:
        """Append an array whose length, but for the last one's, is a multiple of eight."""
        import pyarrow as pa

        if pa.types.is_null(self._kind):
            return
        if values.num_chunks == 1:
            values = values.chunk(0)
        else:
            values = pa.concat_arrays(values.chunks) if values.chunks else pa.array([], self._kind)
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
