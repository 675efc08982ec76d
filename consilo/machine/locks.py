"""Locks between processes and threads; the kernel lets go of them when their holder dies."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from filelock import FileLock, lock_descriptor

_LOOK_S = 0.005


def file_lock(path: Path, *, timeout_s: float = -1.0) -> FileLock:
    """Return a lock for a ``with``: a file of mode 0600, made where it is missing, never removed.

    Args:
        path: the file.
        timeout_s: how long to wait for who holds it, then `filelock.Timeout` is raised; a negative
            number waits for ever.
    """
    # No soft lock where the file system has no real one: it would outlive its holder.
    return FileLock(path, timeout_s, mode=0o600, poll_interval=_LOOK_S, fallback_to_soft=False)


def lock_open(file: IO[bytes]) -> None:
    """Wait until nobody else has locked this file; closing it lets go."""
    lock_descriptor(file.fileno(), poll_interval=_LOOK_S)


def share_open(file: IO[bytes]) -> None:
    """Wait until nobody has locked this file for writing; other readers may share it."""
    fcntl.flock(file.fileno(), fcntl.LOCK_SH)


class Held(Exception):
    """Another process holds a file.

    Args:
        pid: its id; 0 where the file does not say.
        since: when it took the file, ISO 8601; empty where the file does not say.
    """

    def __init__(self, pid: int, since: str) -> None:
        self.pid = pid
        self.since = since
        super().__init__(f"process {pid or '(unknown)'} holds it since {since or '(unknown)'}")


@contextmanager
def holding(path: Path) -> Iterator[None]:
    """Hold a file while the block runs, and say in it who does: our process id and the time.

    The kernel lets go of it when we die, however: what a dead holder has written counts for nothing
    and is written over. The file has mode 0600, is made where it is missing, and never removed.

    Raises:
        Held: where another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+") as file:
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _holder(file.read()) from None
        file.truncate()
        json.dump({"pid": os.getpid(), "since": datetime.now(UTC).isoformat()}, file)
        file.flush()
        yield


def _holder(text: str) -> Held:
    try:
        told = json.loads(text)
        return Held(int(told["pid"]), str(told["since"]))
    except (ValueError, KeyError, TypeError):  # it has taken the file this moment
        return Held(0, "")
