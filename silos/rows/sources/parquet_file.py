"""Parquet files, block by block, without holding a row group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from consilo.errors import SourceUnreadable
from silos.rows.sources.blocks import BLOCK_ROWS, cast, common_schema
from silos.rows.sources.files import FilesSource

if TYPE_CHECKING:
    import pyarrow as pa

_READ_AHEAD = 1 << 20


class ParquetSource(FilesSource):
    """Parquet files; where a column's type differs between files, the wider one is taken.

    Args:
        path: files, folders, or patterns such as ``visits-*.parquet``. Relative to the silo's
            directory.
    """

    endings: ClassVar = (".parquet", ".pq")

    type: Literal["parquet"] = "parquet"

    def _names_in(self, path: Path) -> list[str]:
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)

    def _tables(
        self, wanted: Sequence[str], text: Sequence[str], types: Mapping[str, pa.DataType]
    ) -> Iterator[pa.Table]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        files = self.files()
        kinds = [pq.read_schema(path) for path in files]
        for each in wanted:
            if any(pa.types.is_nested(kind.field(each).type) for kind in kinds):
                raise SourceUnreadable(
                    f"{self.where}: column '{each}' holds lists or structures, and a cell is one "
                    "value; take it apart in a query of a source of type duckdb"
                )
        schema = common_schema([pa.schema([each.field(name) for name in wanted]) for each in kinds])
        yield schema.empty_table()
        for path in files:
            # With pre_buffer, or without a buffer, a whole row group's columns would be in memory.
            with pq.ParquetFile(path, pre_buffer=False, buffer_size=_READ_AHEAD) as file:
                for batch in file.iter_batches(batch_size=BLOCK_ROWS, columns=list(wanted)):
                    yield cast(pa.Table.from_batches([batch]), schema)

    def _why(self, cause: Exception) -> str:
        return f"a file cannot be read as Parquet ({type(cause).__name__})"
