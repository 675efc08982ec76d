"""Which files a source is made of, and what they hold: names, folders, patterns, content hashes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consilo.errors import SourceUnreadable

SUFFIXES = {
    "csv": (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt"),
    "parquet": (".parquet", ".pq"),
}
_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again with the same time stamp."""


def files_of(paths: Sequence[Path], kind: str, where: str) -> tuple[Path, ...]:
    """Return the files that names, folders and patterns stand for, in the order to read them.

    A folder stands for all files below it whose names end as files of this kind do; a pattern
    (``*``, ``?``, ``[…]``) for what it matches. Each is sorted by path; names that begin with a dot
    or an underscore are left out.

    Raises:
        SourceUnreadable: where there is no file, or an empty one.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found.update(dict.fromkeys(_expanded(path, kind, where)))
    for path in found:
        if path.stat().st_size == 0:
            raise SourceUnreadable(f"{where}: the file {path.name} is empty")
    return tuple(found)


def _expanded(path: Path, kind: str, where: str) -> list[Path]:
    if path.is_file():
        return [path]
    endings = SUFFIXES.get(kind, ())
    if path.is_dir():
        if not endings:
            raise SourceUnreadable(f"{where}: {path.name} is a folder; name the file")
        inside = [each for each in path.rglob("*") if each.name.lower().endswith(endings)]
        files = _visible(path, inside)
        if not files:
            hint = f"expected names that end in {', '.join(endings)}"
            raise SourceUnreadable(f"{where}: the folder {path.name} holds no such file; {hint}")
        return files
    pattern = next((at for at, part in enumerate(path.parts) if set(part) & set("*?[")), None)
    if pattern is None or not endings:
        raise SourceUnreadable(f"{where}: the file {path.name} does not exist")
    start = Path(*path.parts[:pattern])
    files = _visible(start, list(start.glob(str(Path(*path.parts[pattern:])))))
    if not files:
        raise SourceUnreadable(f"{where}: no file matches {path.name}")
    return files


def _visible(start: Path, files: Sequence[Path]) -> list[Path]:
    return sorted(
        each
        for each in files
        if each.is_file()
        and not any(part.startswith((".", "_")) for part in each.relative_to(start).parts)
    )


def remembered_hashes(paths: Sequence[Path], memo: Path | None) -> list[str]:
    """Return the SHA-256 of each file; see `silos.rows.sources.Source.fingerprint`."""
    remembered = _read_memo(memo)
    fresh: dict[str, Any] = {}
    hashes = []
    for path in paths:
        stamp = _stamp(path)
        known = remembered.get(str(path.resolve()))
        if isinstance(known, Mapping) and known.get("stamp") == stamp:
            hashes.append(str(known["sha256"]))
            continue
        now_ns = time.time_ns()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if now_ns - max(stamp[2:]) > _SETTLED_NS and _stamp(path) == stamp:
            fresh[str(path.resolve())] = {"stamp": stamp, "sha256": digest}
        hashes.append(digest)
    if memo is not None and fresh:
        _write_memo(memo, {**remembered, **fresh})
    return hashes


def _stamp(path: Path) -> list[int]:
    # The time of change cannot be set back by hand, the time of modification can.
    stat = path.stat()
    return [stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_memo(memo: Path | None) -> dict[str, Any]:
    try:
        value = json.loads(memo.read_text()) if memo is not None else {}
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _write_memo(memo: Path, value: dict[str, Any]) -> None:
    part = memo.with_name(f"{memo.name}.{os.getpid()}.part")
    part.touch(mode=0o600)
    part.write_text(json.dumps(value))
    part.replace(memo)
