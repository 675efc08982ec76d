"""What a file says of how it is written: its kind, and of CSV encoding, separator and header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping as Mapped
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from consilo.errors import SourceUnreadable
from silos.rows.sources.csv_file import CsvSource
from silos.rows.sources.csv_form import wide_encoding
from silos.rows.sources.files import files_of
from silos.rows.sources.kinds import Source, load_source, parse_source
from silos.rows.sources.parquet_file import ParquetSource

_SEPARATORS = (",", ";", "\t", "|")
_HEAD_BYTES = 64 << 10
_NUMBER = re.compile(r"[-+]?[\d.,]*\d[\d.,]*(?:[eE][-+]?\d+)?|\?")


def source_at(path: Path) -> Source:
    """Return what lies at a path as a source that a silo could have.

    A CSV or Parquet file; a folder or a pattern of such files, all of one kind; or a description as
    in ``silo.yaml``, in a file of its own that ends in .yaml. Of CSV files separator, header and
    encoding are found out by the first one.

    Raises:
        SourceUnreadable: where there is no file, or there are files of both kinds.
        ConfigInvalid: where a description is not valid.
    """
    if path.suffix.lower() in (".yaml", ".yml"):
        return load_source(path)
    named = path.is_dir() or not path.exists()
    both = (*CsvSource.endings, *ParquetSource.endings)
    files = files_of([path], both, str(path)) if named else (path,)
    kinds = {each.suffix.lower() in ParquetSource.endings for each in files}
    if len(kinds) > 1:
        raise SourceUnreadable(f"{path}: CSV and Parquet files lie there; give those of one kind")
    kind = "parquet" if kinds == {True} else "csv"
    described, _ = completed({"type": kind, "path": str(path.resolve())}, path.parent)
    return parse_source(described, where=str(path))


def completed(described: Mapped[str, Any], directory: Path) -> tuple[dict[str, Any], list[str]]:
    """Return a CSV source with separator, header and encoding found out, and what was found."""
    made = {key: value for key, value in described.items() if value is not None}
    if made.get("type") != "csv":
        return made, []
    paths = made["path"] if isinstance(made["path"], list) else [made["path"]]
    first = _first_file([directory / each for each in paths])
    if first is None:
        return made, []
    head = _head(first)
    notes = []
    if "encoding" not in made and (encoding := _encoding(head)) is not None:
        made["encoding"] = encoding
        notes.append(f"the file is not UTF-8; read as {encoding}")
    text = head.decode(made.get("encoding", "utf-8"), errors="replace")
    if "separator" not in made and (separator := _separator(text)) != ",":
        made["separator"] = separator
        notes.append(f"fields are separated by {separator!r}")
    if "header" not in made and "names" not in made:
        line = next(csv.reader(io.StringIO(text), delimiter=made.get("separator", ",")), [])
        if _looks_like_values(line):
            made["header"] = False
            notes.append("the first line holds values, so there is no header")
    if made.get("names"):
        made.setdefault("header", False)
    return made, notes


def _first_file(paths: Sequence[Path]) -> Path | None:
    try:
        return files_of(paths, CsvSource.endings, "")[0]
    except SourceUnreadable:  # whoever reads the source says it
        return None


def _head(path: Path) -> bytes:
    """Return the first bytes of a file's text, which may be compressed."""
    import pyarrow as pa

    with pa.input_stream(str(path), compression="detect") as file:
        head: bytes = file.read(_HEAD_BYTES)
    return head


def _encoding(head: bytes) -> str | None:
    """Return how a file is encoded, by its first bytes; None for UTF-8."""
    if (wide := wide_encoding(head)) is not None:
        return wide
    if _is_utf8(head):
        return None
    # Windows has letters where Latin-1 has control signs that nobody types.
    return "cp1252" if any(0x80 <= each < 0xA0 for each in head) else "latin-1"


def _is_utf8(head: bytes) -> bool:
    try:
        # The last character may be cut.
        head[: max(len(head) - 4, 0) if len(head) == _HEAD_BYTES else None].decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _separator(text: str) -> str:
    lines = [line for line in text.splitlines()[:20] if line.strip()]
    if len(lines) > 1 and len(text) >= _HEAD_BYTES // 2:
        lines = lines[:-1]

    def steadiness(separator: str) -> tuple[bool, int]:
        counts = [len(row) - 1 for row in csv.reader(lines, delimiter=separator) if row]
        return min(counts, default=0) > 0 and len(set(counts)) == 1, min(counts, default=0)

    return max(_SEPARATORS, key=steadiness)


def _looks_like_values(fields: Sequence[str]) -> bool:
    """Return whether a first line holds values: names are no numbers, and differ."""
    values = [each.strip() for each in fields]
    numbers = sum(_NUMBER.fullmatch(each) is not None for each in values)
    return bool(values) and (numbers > len(values) / 2 or len(set(values)) < len(values) / 2)
