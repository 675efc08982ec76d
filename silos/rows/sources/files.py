"""Which files a source is made of, and what they hold: names, folders, patterns, content hashes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from consilo.errors import SourceUnreadable
from silos.rows.sources.raw_table import RawTable


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | Path) else value


def _one(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    if len(paths) > 1:
        raise ValueError(f"takes one path, found {len(paths)}")
    return paths


def _schema(**limits: int) -> WithJsonSchema:
    text = {"type": "string"}
    return WithJsonSchema({"anyOf": [text, {"type": "array", "items": text, **limits}]})


_Paths = Annotated[tuple[Path, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
SomePaths = Annotated[_Paths, _schema(minItems=1)]
OnePath = Annotated[_Paths, AfterValidator(_one), _schema(minItems=1, maxItems=1)]
_SETTLED_NS = 2_000_000_000
"""A file changed less than this before it was hashed may change again with the same time stamp."""


class FilesSource(RawTable):
    """Files with the same columns that are read one after the other, as one table.

    Args:
        path: files, folders, or patterns such as ``visits-*.csv``. Relative to the silo's
            directory.
    """

    endings: ClassVar[tuple[str, ...]]
    """Of the names of files that a folder is searched for."""

    path: SomePaths

    @abstractmethod
    def _names_in(self, path: Path) -> list[str]:
        """Return the names of a file's columns."""

    def resolve(self, directory: Path) -> Self:
        """Return the source with relative paths starting at ``directory``."""
        return self.model_copy(update={"path": below(directory, self.path)})

    def files(self) -> tuple[Path, ...]:
        """Return the files that ``path`` stands for, in the order to read them.

        Raises:
            SourceUnreadable: where there is none, or an empty one.
        """
        return files_of(self.path, self.endings, self.where)

    def parts(self) -> list[tuple[str | None, Self]]:
        """Return (name, source) of each file; the name where there are several."""
        files = self.files()
        return [
            (each.name if len(files) > 1 else None, self.model_copy(update={"path": (each,)}))
            for each in files
        ]

    def _names(self) -> list[str]:
        first, *others = self.files()
        names = self._names_in(first)
        for path in others:
            if set(self._names_in(path)) != set(names):
                # Which ones stays unsaid: a header that is not one holds values.
                fault = f"the file {path.name} has other columns than {first.name}"
                raise SourceUnreadable(f"{self.where}: {fault}; all files need the same")
        return names

    def _content(self, memo: Path | None) -> list[str]:
        return remembered_hashes(self.files(), memo)


def below(directory: Path, paths: Sequence[Path]) -> tuple[Path, ...]:
    """Return paths with relative ones starting at ``directory``."""
    return tuple(directory / each for each in paths)


def with_log(file: Path, ending: str) -> list[Path]:
    """Return a database's file and, where there is one, the log of what it has not yet taken in."""
    log = file.with_name(file.name + ending)
    return [file, log] if log.is_file() else [file]


def files_of(paths: Sequence[Path], endings: Sequence[str], where: str) -> tuple[Path, ...]:
    """Return the files that names, folders and patterns stand for, in the order to read them.

    A folder stands for all files below it whose names have one of the endings; a pattern (``*``,
    ``?``, ``[…]``) for what it matches. Each is sorted by path; names that begin with a dot or an
    underscore are left out. Without endings each path is a file's name.

    Raises:
        SourceUnreadable: where there is no file, or an empty one.
    """
    files: dict[Path, None] = {}
    for path in paths:
        files.update(dict.fromkeys(_expanded(path, endings, where)))
    for path in files:
        if path.stat().st_size == 0:
            raise SourceUnreadable(f"{where}: the file {path.name} is empty")
    return tuple(files)


def _expanded(path: Path, endings: Sequence[str], where: str) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        if not endings:
            raise SourceUnreadable(f"{where}: {path.name} is a folder; name the file")
        inside = [each for each in path.rglob("*") if each.name.lower().endswith(tuple(endings))]
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
    """Return the SHA-256 of each file; see `RawTable.fingerprint`."""
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
