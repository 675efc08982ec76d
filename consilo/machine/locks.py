"""Locks between processes and threads; the kernel lets go of them when their holder dies."""

from __future__ import annotations

import fcntl
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
