"""Parquet files, block by block, without holding a row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from silos.rows.sources.blocks import BLOCK_ROWS, cast, common_schema

if TYPE_CHECKING:
    import pyarrow as pa

_READ_AHEAD = 1 << 20


def names_of(path: Path) -> list[str]:
    """Return the names of a file's columns."""
    import pyarrow.parquet as pq

    return list(pq.read_schema(path).names)


def tables(paths: Sequence[Path], wanted: Sequence[str]) -> Iterator[pa.Table]:
    """Yield the rows of all files; where types differ between files, the wider one is taken."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schemas = [pq.read_schema(path) for path in paths]
    schema = common_schema([pa.schema([each.field(name) for name in wanted]) for each in schemas])
    yield schema.empty_table()
    for path in paths:
        # With pre_buffer, or without a buffer, a whole row group's columns would be in memory.
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AHEAD) as file:
            for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=list(wanted)):
                yield cast(pa.Table.from_batches([batch]), schema)
