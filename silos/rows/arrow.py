"""Canonical tables between pandas, Arrow and a file; numbers without gaps are never copied."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from consilo.machine.files import sync_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


def to_arrow(frame: pd.DataFrame) -> pa.Table:
    """Return a canonical table as Arrow, numbers without gaps uncopied; see `to_pandas`."""
    import pyarrow as pa

    columns = {name: column_to_arrow(frame[name]) for name in frame.columns}
    table = pa.table(columns) if columns else pa.table({"": pa.nulls(len(frame))})
    return table.combine_chunks()


def column_to_arrow(series: pd.Series[Any]) -> pa.Array:
    """Return a column of a canonical table as Arrow; see `to_arrow`."""
    import pyarrow as pa

    if series.dtype == "float64":
        # NaN stays a value: a column without nulls is mapped, not copied.
        return pa.array(series.to_numpy(), from_pandas=False)
    values = pa.array(series, from_pandas=True)
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values.cast(pa.large_string()) if pa.types.is_string(values.type) else values


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return the canonical table that `to_arrow` took, with its dtypes; numbers are mapped."""
    import pandas as pd
    import pyarrow as pa

    if table.schema.names == [""]:
        return pd.DataFrame(index=pd.RangeIndex(table.num_rows))
    text = pd.StringDtype(na_value=float("nan"))
    types: dict[Any, Any] = {
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
        pa.string(): text,
        pa.large_string(): text,
    }
    frame: pd.DataFrame = table.to_pandas(types_mapper=types.get, split_blocks=True)
    return frame


def write_table(path: Path, table: pa.Table) -> str:
    """Write a table as an Arrow file that only the owner can read, and sync it to disk.

    Returns:
        The SHA-256 of the file, in hexadecimal.
    """
    import pyarrow as pa

    path.touch(mode=0o600)
    with path.open("wb") as file, ThreadPoolExecutor(1) as beside:
        hashed = _Hashed(file, beside)
        with pa.PythonFile(hashed, mode="w") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    sync_file(path)
    return hashed.sha256.hexdigest()


_ASIDE_BYTES = 1 << 20
"""From so many bytes on it pays to hash what is written in another thread."""


class _Hashed:
    """A file for pyarrow to write to, hashed at the same time; who opened it closes it."""

    closed = False

    def __init__(self, file: BinaryIO, beside: ThreadPoolExecutor) -> None:
        self._file = file
        self._beside = beside
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        whole = memoryview(data)
        if len(whole) < _ASIDE_BYTES:
            self.sha256.update(whole)
            self._file.write(whole)
        else:
            hashing = self._beside.submit(self.sha256.update, whole)
            try:
                self._file.write(whole)
            finally:
                hashing.result()  # what is written is not ours any more afterwards
        return len(whole)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.flush()
