"""What all silos of one user on one machine know of each other's rows: keyed hashes, and spends.

One SQLite file, mode 0600, in a folder of mode 0700: ``$CONSILO_STATE``, else the user's state
directory (``$XDG_STATE_HOME/consilo``, or ``~/.local/state/consilo``). A second directory over the
same rows finds here what the first one spent, also where that one was deleted or has left. It holds
a key, sketches (`silos.rows.sketch`), links, and noise histories; no name and no value.
"""

from __future__ import annotations

import contextlib
import hmac
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from consilo.errors import Refused
from consilo.machine.database import open_database, transaction
from consilo.machine.files import make_directory
from consilo.machine.locks import file_lock
from silos.kept.links import USE, Use

STATE = "CONSILO_STATE"
"""Environment variable: the folder, in place of the user's."""
_FILE = "sketches.db"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS own (key BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS sketches (
    place INTEGER PRIMARY KEY, handle TEXT NOT NULL, state TEXT NOT NULL, sketch BLOB NOT NULL,
    UNIQUE (handle, state)) STRICT;
CREATE TABLE IF NOT EXISTS pairs (
    handle TEXT NOT NULL, other TEXT NOT NULL, why TEXT NOT NULL,
    PRIMARY KEY (handle, other, why)) STRICT;
CREATE TABLE IF NOT EXISTS pushed (owner TEXT PRIMARY KEY, seq INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS spends (
    handle TEXT NOT NULL, time TEXT NOT NULL, step_id TEXT NOT NULL, mark TEXT NOT NULL,
    sigma REAL NOT NULL, sample_rate REAL NOT NULL, steps INTEGER NOT NULL,
    PRIMARY KEY (handle, step_id, mark, sigma, sample_rate, steps)) STRICT;
"""


def state_folder(environment: Mapping[str, str] | None = None) -> Path:
    """Return the folder that all silos of this user share on this machine."""
    known = os.environ if environment is None else environment
    if known.get(STATE):
        return Path(known[STATE])
    base = known.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "consilo"


class Sketches:
    """The file.

    Args:
        folder: that holds it; made where it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold off other silos of this user meanwhile; the file is there.

        Raises:
            Refused: where it cannot be written.
        """
        try:
            make_directory(self.folder, mode=0o700)
            with self._open():
                pass
            lock = file_lock(self.folder / "sketches.lock")
            lock.acquire()
        except Exception as cause:
            raise Refused(
                "this silo cannot write where it knows rows again (a private run needs that); its "
                f"people set {STATE} to a folder that it may write ({type(cause).__name__})",
                code="state",
            ) from None
        try:
            yield
        finally:
            lock.release()

    @property
    def key(self) -> bytes:
        """32 secret bytes, the same for all silos that share the file."""
        with self._open() as database:
            database.execute(
                "INSERT INTO own SELECT ? WHERE NOT EXISTS (SELECT 1 FROM own)", (os.urandom(32),)
            )
            return bytes(database.execute("SELECT key FROM own").fetchone()[0])

    def handle(self, owner: str, account: str) -> str:
        """Return what an account of a ledger is called here."""
        return hmac.digest(self.key, f"account/{owner}/{account}".encode(), "sha256")[:8].hex()

    def has(self, handle: str, state: str = "") -> bool:
        """Return whether an account has a sketch, of this state of its rows or of any."""
        with self._open() as database:
            query = "SELECT 1 FROM sketches WHERE handle = ? AND state LIKE ?"
            return database.execute(query, (handle, state or "%")).fetchone() is not None

    def all(self) -> list[tuple[int, str, bytes]]:
        """Return every sketch: its place, the account's handle, its content."""
        with self._open() as database:
            query = "SELECT place, handle, sketch FROM sketches ORDER BY place"
            return [(place, handle, each) for place, handle, each in database.execute(query)]

    def keep(
        self,
        handle: str,
        state: str,
        sketch: bytes,
        pairs: Iterable[tuple[str, str]],
        *,
        instead_of: Iterable[int] = (),
    ) -> None:
        """Keep a sketch, and which accounts hold the same rows, with why.

        Args:
            handle: of the account.
            state: keyed hash of the rows' fingerprint.
            sketch: of these rows.
            pairs: (another account's handle, why).
            instead_of: places of earlier sketches, all of whose rows are in this one.
        """
        with self._open() as database, transaction(database):
            rows = [(handle, other, why) for other, why in pairs]
            database.executemany("INSERT OR IGNORE INTO pairs VALUES (?, ?, ?)", rows)
            gone = [(place,) for place in instead_of]
            database.executemany("DELETE FROM sketches WHERE place = ?", gone)
            database.execute(
                "INSERT OR IGNORE INTO sketches (handle, state, sketch) VALUES (?, ?, ?)",
                (handle, state, sketch),
            )

    def pairs(self) -> list[tuple[str, str, str]]:
        """Return all pairs of handles whose rows are the same, with why."""
        with self._open() as database:
            return [
                (str(one), str(other), str(why))
                for one, other, why in database.execute("SELECT handle, other, why FROM pairs")
            ]

    def push(self, owner: str, uses: Iterable[tuple[int, str, Use]]) -> None:
        """Keep what a ledger has reserved: number, handle, use; each once."""
        with self._open() as database, transaction(database):
            for seq, handle, use in uses:
                self._spend(database, handle, use)
                database.execute("INSERT OR REPLACE INTO pushed VALUES (?, ?)", (owner, seq))

    def pushed(self, owner: str) -> int:
        """Return the number of a ledger's newest entry that is here; -1 where there is none."""
        with self._open() as database:
            query = "SELECT seq FROM pushed WHERE owner = ?"
            row = database.execute(query, (owner,)).fetchone()
        return -1 if row is None else int(row[0])

    def spend(self, handle: str, use: Use) -> None:
        """Keep a use that is about to be reserved."""
        with self._open() as database:
            self._spend(database, handle, use)

    def spends(self, handle: str) -> list[Use]:
        """Return all that an account spent."""
        with self._open() as database:
            rows = database.execute(f"SELECT {USE} FROM spends WHERE handle = ?", (handle,))
            return [tuple(row) for row in rows.fetchall()]

    @staticmethod
    def _spend(database: sqlite3.Connection, handle: str, use: Use) -> None:
        database.execute(
            "INSERT OR IGNORE INTO spends VALUES (?, ?, ?, ?, ?, ?, ?)", (handle, *use)
        )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        path = self.folder / _FILE
        database = open_database(path, lasting=True, begin=None, schema=_SCHEMA)
        with contextlib.closing(database):
            yield database
