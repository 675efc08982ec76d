"""The one place that writes what must last; when each thing does is in docs/durability.md.

A file that is replaced: written beside it, synced, renamed, and its folder synced. A line that is
appended: written and synced, and the folder too where the file is new. A folder that is made: its
own folder synced. When a function here returns, what it did outlives the loss of power.

All of it asks `Disk`, which is the operating system; a simulation puts one in its place that knows
what was synced and what was not, and that dies at any of its calls.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import sqlite3
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import IO

_BLOCK_BYTES = 1 << 20
_LEFT = re.compile(r"\..+\.[0-9a-f]{16}")


class Disk:
    """What writing that must last asks of the operating system: each of its calls is one step."""

    def write(self, file: IO[bytes], data: bytes | memoryview) -> None:
        """Hand ``data`` to the operating system, which may lose it yet; nothing is held back."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]

    def sync(self, file: IO[bytes]) -> None:
        """Return when what was written to a file is on the disk."""
        os.fsync(file.fileno())

    def sync_directory(self, directory: Path) -> None:
        """Return when the names in a folder are on the disk as they are now."""
        handle = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def replace(self, old: Path, new: Path) -> None:
        """Let ``new`` be what ``old`` was."""
        os.replace(old, new)

    def unlink(self, path: Path) -> None:
        """Delete a file, if it is there."""
        path.unlink(missing_ok=True)

    def mkdir(self, path: Path, mode: int) -> None:
        """Make a folder."""
        path.mkdir(mode=mode)

    def connect(self, path: Path, timeout_s: float) -> sqlite3.Connection:
        """Open a SQLite file; threads may share the connection, one at a time."""
        return sqlite3.connect(path, timeout=timeout_s, check_same_thread=False)


_REAL = Disk()
_disk: ContextVar[Disk] = ContextVar("disk", default=_REAL)


def disk() -> Disk:
    """Return what is written to."""
    return _disk.get()


@contextlib.contextmanager
def on(other: Disk) -> Iterator[None]:
    """Write to another disk in the block, such as one that is simulated."""
    token = _disk.set(other)
    try:
        yield
    finally:
        _disk.reset(token)


def write_atomic(path: Path, data: bytes | Iterable[memoryview], *, mode: int = 0o600) -> None:
    """Replace ``path`` by ``data``; a reader sees the old content or the new, never a part.

    Args:
        path: the file; its folder is made where it is missing.
        data: the whole content, or its parts in order.
        mode: permission bits; what is made to be handed on gets 0o644.
    """
    with _beside(path, mode) as (made, file):
        for part in (data,) if isinstance(data, bytes) else data:
            disk().write(file, part)
        disk().sync(file)
        disk().replace(made, path)
    disk().sync_directory(path.parent)


def write_new(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Make ``path`` with ``data``, whole or not at all; of two who do, the first wins.

    Args:
        path: the file; its folder is made where it is missing.
        data: the whole content.
        mode: permission bits.

    Raises:
        FileExistsError: where it exists already.
    """
    with making(path, mode=mode) as file:
        disk().write(file, data)


@contextlib.contextmanager
def making(path: Path, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """Yield a file to write to, which is there as ``path``, whole, once the block has ended.

    Args:
        path: the file; its folder is made where it is missing.
        mode: permission bits.

    Raises:
        FileExistsError: at the block's end, where it exists by then.
    """
    with _beside(path, mode) as (made, file):
        yield file
        file.flush()
        disk().sync(file)
        with _alone_in(path.parent):
            if path.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
            disk().replace(made, path)
    disk().sync_directory(path.parent)


def append(file: IO[bytes], path: Path, line: bytes) -> None:
    """Write ``line`` to the end of ``path``, which is open as ``file``.

    Raises:
        OSError: where the disk is full or broken; the file is as it was.
    """
    end = file.seek(0, os.SEEK_END)
    if not end:  # first, so that a file with a line in it is known to be in its folder
        disk().sync_directory(path.parent)
    try:
        disk().write(file, line)
        disk().sync(file)
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file.fileno(), end)
        raise


def move(old: Path, new: Path) -> None:
    """Put a file that is synced already, or a folder of such, in the place of ``new``."""
    disk().replace(old, new)
    disk().sync_directory(new.parent)
    if old.parent != new.parent:
        disk().sync_directory(old.parent)


def make_directory(path: Path, *, mode: int = 0o777) -> None:
    """Make a folder and those above it, where they are missing; ``mode`` is the last one's.

    One that is there is made sure of: whoever made it may have died before it was synced.
    """
    if path.is_dir():
        with contextlib.suppress(PermissionError):  # then it is in a folder that is not ours
            disk().sync_directory(path.parent)
        return
    make_directory(path.parent)
    with contextlib.suppress(FileExistsError):
        disk().mkdir(path, mode)
    disk().sync_directory(path.parent)


def remove(path: Path) -> None:
    """Delete a file, if it is there, so that it does not come back."""
    if path.exists():
        disk().unlink(path)
        disk().sync_directory(path.parent)


def erase(path: Path) -> None:
    """Write over a file, which may hold a key, and delete it."""
    with contextlib.suppress(FileNotFoundError), path.open("r+b") as file:
        size = os.fstat(file.fileno()).st_size
        for at in range(0, size, _BLOCK_BYTES):
            disk().write(file, bytes(min(_BLOCK_BYTES, size - at)))
        disk().sync(file)
    remove(path)


def sync_file(path: Path) -> None:
    """Return when a file that somebody else has written is on the disk."""
    with path.open("rb") as file:
        disk().sync(file)


def rely_on(path: Path) -> bool:
    """Return whether a file is there; if so, it stays.

    Whoever made it may have died before it was synced.
    """
    if not path.exists():
        return False
    sync_file(path)
    disk().sync_directory(path.parent)
    return True


def is_full(cause: BaseException) -> bool:
    """Return whether an error says that a disk is full, or a quota used up."""
    if isinstance(cause, sqlite3.Error):
        return getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)


def sync_directory(directory: Path) -> None:
    """Make a change of the names in ``directory`` durable."""
    disk().sync_directory(directory)


def tidy(folder: Path, *, below: bool = True) -> None:
    """Delete what processes that died while they wrote have left in a folder, and below it.

    Args:
        folder: where.
        below: whether in its folders, too.
    """
    for place, folders, files in os.walk(folder):
        for name in files:
            if _LEFT.fullmatch(name):
                _delete_unlocked(Path(place) / name)
        if not below:
            folders.clear()


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Let nobody else make a new file in a folder meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def _beside(path: Path, mode: int) -> Iterator[tuple[Path, IO[bytes]]]:
    """Yield a new file beside ``path``, which is open; it is gone after an error.

    What processes that died while they wrote have left there is deleted first: a writer holds a
    lock on its file, which ends with it.
    """
    if not path.exists():
        make_directory(path.parent)
    _delete_left(path)
    made, file = _locked_beside(path, mode)
    try:
        with file:
            yield made, file
    except BaseException:
        with contextlib.suppress(OSError):  # who asked hears what went wrong first
            disk().unlink(made)
        raise


def _locked_beside(path: Path, mode: int) -> tuple[Path, IO[bytes]]:
    while True:
        made = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        handle = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        file = os.fdopen(handle, "wb")
        os.fchmod(handle, mode)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is deleted there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return made, file
        file.close()  # taken for one that was left, before it was locked


def _delete_left(path: Path) -> None:
    start, length = f".{path.name}.", len(path.name) + 18
    for name in os.listdir(path.parent):
        if len(name) == length and name.startswith(start):
            _delete_unlocked(path.with_name(name))


def _delete_unlocked(left: Path) -> None:
    """Delete a file beside another that no writer holds."""
    with contextlib.suppress(OSError), left.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left.unlink()
