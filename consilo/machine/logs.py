"""Logs that a process goes on writing to are turned over, so that they do not grow for ever."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable
from pathlib import Path

from consilo.machine.files import write_atomic

MOST_LOG_BYTES = 16 << 20
"""A log that is larger is turned over: what it holds goes to ``NAME.1``."""


def turn_over(logs: Iterable[Path], *, most_bytes: int = MOST_LOG_BYTES) -> list[Path]:
    """Empty logs that have grown too large, which a process goes on writing to; return which.

    What a log held is beside it, as ``NAME.1``. The process has it open for appending, so that it
    goes on at the beginning; lines that it writes in the moment between are lost.
    """
    turned = []
    for log in logs:
        if log.is_file() and log.stat().st_size > most_bytes:
            write_atomic(log.with_name(f"{log.name}.1"), log.read_bytes())
            os.truncate(log, 0)
            turned.append(log)
    return turned


def turn_over_own(descriptor: int = 2, *, most_bytes: int = MOST_LOG_BYTES) -> bool:
    """Turn over the file that this process appends its output to, whoever has opened it.

    A pipe, a terminal or a journal is left to who reads it, and so is a file that is not opened for
    appending, since writing would go on where it was.

    Args:
        descriptor: of the output; standard error unless said.
        most_bytes: a larger one is turned over.

    Returns:
        Whether it was.
    """
    known = os.fstat(descriptor)
    if not stat.S_ISREG(known.st_mode) or known.st_size <= most_bytes:
        return False
    if not fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
        return False
    return bool(
        turn_over([Path(os.readlink(f"/proc/self/fd/{descriptor}"))], most_bytes=most_bytes)
    )
