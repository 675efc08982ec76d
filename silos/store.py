"""What a silo remembers: answers by step, privacy spent, numbers that are dear to compute, secrets.

One SQLite file in the silo's directory, readable by its owner only; every write is a transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from consilo.parcel import Parcel

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    place INTEGER PRIMARY KEY, step_id TEXT UNIQUE, header BLOB, body BLOB);
CREATE TABLE IF NOT EXISTS spends (
    place INTEGER PRIMARY KEY, run_id TEXT, step_id TEXT UNIQUE,
    sigma REAL, sample_rate REAL, steps INTEGER, at TEXT DEFAULT CURRENT_TIMESTAMP);
CREATE TABLE IF NOT EXISTS numbers (key TEXT PRIMARY KEY, value REAL);
"""
_KEPT_REPLIES = 16
_KEPT_BYTES = 1 << 30


class Store:
    """The memory of one silo.

    Args:
        directory: the silo's; ``state.db`` and ``secrets/`` are made in it.
    """

    def __init__(self, directory: Path) -> None:
        self._secrets = directory / "secrets"
        self._path = directory / "state.db"
        directory.mkdir(parents=True, exist_ok=True)
        self._secrets.mkdir(mode=0o700, exist_ok=True)
        if not self._path.exists():
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        with self._open() as database:
            database.executescript(_TABLES)

    def remembered(self, step_id: str) -> Parcel | None:
        """Return the answer that was given to a step, while it is kept."""
        with self._open() as database:
            row = database.execute(
                "SELECT header, body FROM replies WHERE step_id = ?", (step_id,)
            ).fetchone()
        return None if row is None else Parcel(bytes(row[0]), bytes(row[1]))

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep an answer; the newest 16 are kept, and no more than 1 GiB beside the newest."""
        with self._open() as database:
            database.execute(
                "INSERT OR IGNORE INTO replies (step_id, header, body) VALUES (?, ?, ?)",
                (step_id, reply.header, reply.body),
            )
            total, lapsed = 0, []
            sizes = database.execute(
                "SELECT place, length(body) FROM replies ORDER BY place DESC"
            ).fetchall()
            for age, (place, size) in enumerate(sizes):
                total += size
                if age and (age >= _KEPT_REPLIES or total > _KEPT_BYTES):
                    lapsed.append((place,))
            database.executemany("DELETE FROM replies WHERE place = ?", lapsed)

    def spend(
        self, run_id: str, step_id: str, *, sigma: float, sample_rate: float, steps: int
    ) -> list[tuple[float, float, int]]:
        """Book one training step, once per ``step_id``; return the run's history (σ, q, steps)."""
        with self._open() as database:
            database.execute(
                "INSERT OR IGNORE INTO spends (run_id, step_id, sigma, sample_rate, steps)"
                " VALUES (?, ?, ?, ?, ?)",
                (run_id, step_id, sigma, sample_rate, steps),
            )
            rows = database.execute(
                "SELECT sigma, sample_rate, steps FROM spends WHERE run_id = ? ORDER BY place",
                (run_id,),
            ).fetchall()
        return [(float(sigma), float(rate), int(count)) for sigma, rate, count in rows]

    def kept_number(self, key: str, build: Callable[[], float]) -> float:
        """Return the number kept under ``key``, or build and keep it."""
        with self._open() as database:
            row = database.execute("SELECT value FROM numbers WHERE key = ?", (key,)).fetchone()
        if row is not None:
            return float(row[0])
        value = float(build())
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (key, value))
        return value

    def secret(self, run_id: str) -> bytes:
        """Return the run's 32 secret bytes, made at the first call, mode 0600."""
        name = hashlib.sha256(run_id.encode()).hexdigest()[:32]
        path = self._secrets / f"{name}.key"
        if not path.exists():
            made = self._secrets / f".{name}.{secrets.token_hex(8)}"
            handle = os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            # Linked, not renamed: of two processes that come here at once, one wins for both.
            with contextlib.suppress(FileExistsError):
                os.link(made, path)
            made.unlink()
        return path.read_bytes()

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # A connection per call: calls come from forked children, which must not share one.
        database = sqlite3.connect(self._path, timeout=30.0)
        try:
            database.execute("PRAGMA synchronous = FULL")
            with database:
                yield database
        finally:
            database.close()
