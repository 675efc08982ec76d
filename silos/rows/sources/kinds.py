"""The kinds of sources there are: a new one is a file with its class, and its name here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, RootModel

from consilo.config import parse, read_yaml
from silos.rows.sources.csv_file import CsvSource
from silos.rows.sources.duck import DuckSource
from silos.rows.sources.parquet_file import ParquetSource
from silos.rows.sources.sql import SqlSource
from silos.rows.sources.sqlite import SqliteSource

Source = Annotated[
    CsvSource | ParquetSource | SqliteSource | DuckSource | SqlSource,
    Field(discriminator="type"),
]
"""Where one table is and how to read it; ``type`` says by which class."""

DuckSource.model_rebuild()  # its tables are sources of any kind


class _Described(RootModel[Source]):
    """One source as a person describes it."""


def parse_source(value: Any, *, where: str) -> Source:
    """Return the source that parsed YAML describes.

    Raises:
        ConfigInvalid: with one finding per fault.
    """
    return parse(_Described, value, where=where).root


def load_source(path: Path) -> Source:
    """Return the source that a YAML file describes; relative paths start at its directory.

    Raises:
        ConfigInvalid: with one finding per fault.
    """
    return parse_source(read_yaml(path), where=str(path)).resolve(path.parent)
