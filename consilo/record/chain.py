"""Hash-chained JSON lines: an append-only log in which any edit, removal or reordering shows.

Line k holds the SHA-256 of line k-1 and its own. Several processes may append to one file: each
append holds a lock, links to the line that is last at that moment, and is on disk when it returns.
What was cut off at the end does not show in the chain itself; who keeps a *head* (the hash of the
last line) from earlier notices it. Heads are exchanged between silos and coordinator in every run.
"""

from __future__ import annotations

import json
import mmap
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from consilo.errors import RecordTampered
from consilo.machine.files import append, rely_on
from consilo.machine.locks import lock_open, share_open
from consilo.wire.payload import canonical_json, digest

START = "0" * 64
"""The head of a chain without a line."""

_TAIL_BYTES = 64 * 1024


def in_utc(seconds: float) -> str:
    """Return a time, in seconds since 1970, in UTC, ISO 8601, to the second."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def now_utc() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return in_utc(time.time())


class Chain:
    """An append-only file of linked lines.

    Args:
        path: the file; made at the first append, mode 0600.
        now: the clock.
    """

    def __init__(self, path: Path, *, now: Callable[[], str] = now_utc) -> None:
        self.path = path
        self._now = now

    @property
    def head(self) -> str:
        """Hash of the last line, which stays; `START` where there is none."""
        return self.standing()[1]

    def standing(self) -> tuple[int, str]:
        """Return how many lines there are, and the hash of the last one, all of which stay."""
        if not rely_on(self.path):
            return 0, START
        with self._locked() as file:
            return _last(file, self.path.name)

    def has(self, text: bytes) -> bool:
        """Return whether a line holds this text; what came lately is found first."""
        return self._last_with(text) is not None

    def last_with(self, *texts: bytes) -> dict[str, Any] | None:
        """Return the last entry whose line holds one of these texts; None where none does.

        Args:
            texts: what is likely to be found last comes first: the others are looked for behind it.
        """
        line = self._last_with(*texts)
        return None if line is None else dict(json.loads(line))

    def _last_with(self, *texts: bytes) -> bytes | None:
        if not self.path.exists() or not self.path.stat().st_size:
            return None
        with (
            self.path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            at = -1
            for text in texts:
                at = max(at, content.rfind(text, at + 1))
            if at < 0:
                return None
            start, end = content.rfind(b"\n", 0, at) + 1, content.find(b"\n", at)
            return content[start : end if end >= 0 else len(content)]

    def append(self, kind: str, **body: Any) -> str:
        """Append an entry and return its hash; it is on disk then.

        Args:
            kind: what happened.
            body: plain JSON values; names, counts and hashes, never a row or a value of one.

        Raises:
            RecordTampered: where the last line is not one of a chain.
        """
        with self._locked() as file:
            seq, prev = _last(file, self.path.name)
            line, head = linked(seq, self._now(), kind, body, prev)
            append(file, self.path, line)
        return head

    def append_signed(
        self, kind: str, body: Mapping[str, Any], sign: Callable[[str], Mapping[str, str]]
    ) -> str:
        """Append an entry that is signed at its place in the chain, and return its hash.

        Args:
            kind: what happened.
            body: as of `append`.
            sign: given the hash of the entry without it, returns what is added to the body.

        Raises:
            RecordTampered: where the last line is not one of a chain.
        """
        with self._locked() as file:
            seq, prev = _last(file, self.path.name)
            time = self._now()
            bare = linked(seq, time, kind, body, prev)[1]
            line, head = linked(seq, time, kind, {**body, **sign(bare)}, prev)
            append(file, self.path, line)
        return head

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        handle = os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600)
        with os.fdopen(handle, "r+b") as file:
            lock_open(file)
            yield file


def linked(seq: int, time: str, kind: str, body: Mapping[str, Any], prev: str) -> tuple[bytes, str]:
    """Return a line of a chain, with its newline, and its hash."""
    # The canonical JSON of a line without and with its hash; the body, which is long, is made once.
    told = b'{"body":' + canonical_json(dict(body)) + b","
    rest = canonical_json({"kind": kind, "prev": prev, "seq": seq, "time": time})[1:]
    head = digest(told + rest)
    return told + b'"hash":"' + head.encode() + b'",' + rest + b"\n", head


def unsigned(entry: Mapping[str, Any], added: Collection[str]) -> str:
    """Return the hash of an entry of `Chain.append_signed` without what its signature added.

    Args:
        entry: of a chain.
        added: the keys of its body that came with the signature.
    """
    body = {key: value for key, value in entry["body"].items() if key not in added}
    return linked(entry["seq"], entry["time"], entry["kind"], body, entry["prev"])[1]


def read(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a chain's file; their links are not looked at.

    Whoever is appending to it is waited for, so that no line is seen half written.

    Raises:
        RecordTampered: where a line is not canonical JSON, or the last one has no end.
    """
    *lines, rest = _text(path).split(b"\n")
    if rest or not lines:
        raise RecordTampered(f"{path.name}: the end is missing, or it was never closed")
    return _entries(lines, path.name)


def _text(path: Path) -> bytes:
    with path.open("rb") as file:
        share_open(file)
        return file.read()


def _entries(lines: Sequence[bytes], name: str) -> list[dict[str, Any]]:
    entries = []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            if not isinstance(entry, dict) or canonical_json(entry) != line:
                raise ValueError("not as it was written")
        except (ValueError, RecursionError):
            raise RecordTampered(f"{name}, line {number}: the line was edited") from None
        entries.append(entry)
    return entries


def last_entry(path: Path) -> dict[str, Any] | None:
    """Return the last entry that has its end, however long the file is; None where there is none.

    Raises:
        RecordTampered: where it is no entry.
    """
    if not path.exists() or not path.stat().st_size:
        return None
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        end = content.rfind(b"\n")
        if end < 0:
            return None
        line = content[content.rfind(b"\n", 0, end) + 1 : end]
    return _entries([line], path.name)[0]


def check_links(entries: Sequence[Mapping[str, Any]], name: str) -> str:
    """Return the head of a chain whose every line fits the one before it.

    Args:
        entries: as `read` returns them.
        name: of the file, for the message.

    Raises:
        RecordTampered: naming the first line that does not fit.
    """
    prev = START
    for number, entry in enumerate(entries, start=1):
        where = f"{name}, line {number}"
        stated = entry.get("hash")
        content = {key: value for key, value in entry.items() if key != "hash"}
        if entry.get("seq") != number - 1 or entry.get("prev") != prev:
            raise RecordTampered(f"{where}: a line before it was removed, added or moved")
        if digest(content) != stated:
            raise RecordTampered(f"{where}: the line was edited")
        prev = str(stated)
    return prev


def verify(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a chain that is whole.

    Raises:
        RecordTampered: naming the first line that does not fit.
    """
    entries = read(path)
    check_links(entries, path.name)
    return entries


def verify_open(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a chain that is still written to, none where it has not begun.

    A last line without its end is left out: its machine died as it was written, and nobody was told
    of it. The next `Chain.append` cuts it off.

    Raises:
        RecordTampered: naming the first line that does not fit.
    """
    lines = _text(path).split(b"\n")[:-1] if path.exists() else []
    entries = _entries(lines, path.name)
    check_links(entries, path.name)
    return entries


def _last(file: IO[bytes], name: str) -> tuple[int, str]:
    """Return the number of the next line and the head; a torn last line is cut off.

    A line without its end was never acknowledged: `append` had not returned when the machine died.
    """
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return 0, START
    span = _TAIL_BYTES
    while True:
        file.seek(max(0, end - span))
        tail = file.read(min(span, end))
        whole, newline, torn = tail.rpartition(b"\n")
        start = whole.rfind(b"\n") + 1
        if start or span >= end:
            break
        span *= 4  # a line longer than the tail
    if torn:
        file.truncate(end - len(torn))
    if not newline:
        return 0, START
    try:
        entry = json.loads(whole[start:])
        return int(entry["seq"]) + 1, str(entry["hash"])
    except (ValueError, KeyError, TypeError):
        raise RecordTampered(f"{name}: its last line is not one of a chain") from None
