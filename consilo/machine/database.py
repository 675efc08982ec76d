"""Open a SQLite file that only its owner reads, and whose commits last, or need not."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from consilo.machine.files import disk

BUSY_S = 60.0
"""How long a statement waits for another process that writes."""

Connect = Callable[[Path], sqlite3.Connection]


def patient(path: Path) -> sqlite3.Connection:
    """Connect to a file; the threads of this process may share the connection, one at a time."""
    return disk().connect(path, BUSY_S)


def open_database(
    path: Path,
    *,
    lasting: bool,
    begin: Literal["IMMEDIATE"] | None = "IMMEDIATE",
    wal: bool = False,
    schema: str = "",
    connect: Connect = patient,
) -> sqlite3.Connection:
    """Open a database; a new file has mode 0600 before anything is in it.

    A commit that lasts takes ``synchronous=FULL`` where SQLite writes ahead, and EXTRA where it has
    a rollback journal: with FULL the journal's deletion is not synced, so that after a loss of
    power it may be there again and take the commit back.

    Args:
        path: the file; its directory exists.
        lasting: whether a commit outlives a loss of power; if not, the process's end only.
        begin: the transaction that a statement which writes begins by itself; None leaves that to
            `transaction`.
        wal: write ahead, so that others read meanwhile; for a connection that stays open.
        schema: statements that make what is missing; they may run each time.
        connect: opens the file.
    """
    # Only where it is new: to open and close it besides SQLite would end SQLite's locks on it.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    database = connect(path)
    try:
        database.isolation_level = begin
        if wal:
            database.execute("PRAGMA journal_mode = WAL")
        level = "OFF" if not lasting else "FULL" if wal else "EXTRA"
        database.execute(f"PRAGMA synchronous = {level}")
        if schema:
            database.executescript(schema)
    except BaseException:
        database.close()
        raise
    return database


@contextlib.contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """Make the block a transaction that no other process can be in; an exception takes it back."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    finally:
        if database.in_transaction:
            database.execute("ROLLBACK")
