"""Where a silo's rows are, and how they are read: in blocks, so that any table fits.

`Source` is one of the kinds that `kinds` lists, a class in a file each: `csv_file`, `parquet_file`,
`sqlite`, `sql` (whatever SQLAlchemy knows; `postgres` is the fast way to that one), `duck` (DuckDB
over any). `raw_table` says what they have in common.
"""

from __future__ import annotations

from silos.rows.sources.blocks import BLOCK_ROWS, RowFilter, TypesChanged, kept_rows
from silos.rows.sources.csv_file import DEFAULT_NULLS, CsvSource
from silos.rows.sources.duck import DuckSource
from silos.rows.sources.kinds import Source, load_source, parse_source
from silos.rows.sources.parquet_file import ParquetSource
from silos.rows.sources.sql import SqlSource
from silos.rows.sources.sqlite import SqliteSource

__all__ = [
    "BLOCK_ROWS",
    "DEFAULT_NULLS",
    "CsvSource",
    "DuckSource",
    "ParquetSource",
    "RowFilter",
    "Source",
    "SqlSource",
    "SqliteSource",
    "TypesChanged",
    "kept_rows",
    "load_source",
    "parse_source",
]
