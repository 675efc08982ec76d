"""Where a silo's rows are, and how they are read: in blocks, so that any table fits.

`Source` is the one door. Behind it a file per kind: `csv_file`, `parquet_file`, `database` (SQLite
and whatever SQLAlchemy knows), `postgres` (the fast way to that one), `duck` (DuckDB over any).
"""

from __future__ import annotations

from silos.rows.sources.blocks import BLOCK_ROWS, RowFilter, TypesChanged, kept_rows
from silos.rows.sources.source import DEFAULT_NULLS, Source

__all__ = ["BLOCK_ROWS", "DEFAULT_NULLS", "RowFilter", "Source", "TypesChanged", "kept_rows"]
