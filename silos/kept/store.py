"""What a silo remembers: answers by step, numbers that are dear to compute, secrets.

One SQLite file in the silo's directory, readable by its owner only; every write is a transaction. A
large answer lies in a file beside it, which is on the disk before the transaction that names it.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consilo.kernel.standing import Standing
from consilo.machine.database import open_database
from consilo.machine.files import erase, make_directory, rely_on, write_new
from consilo.wire.parcel import Parcel

_TABLES = """
CREATE TABLE IF NOT EXISTS replies (
    place INTEGER PRIMARY KEY, step_id TEXT UNIQUE, header BLOB, body BLOB,
    file TEXT, size INTEGER);
CREATE TABLE IF NOT EXISTS requests (step_id TEXT PRIMARY KEY, at REAL);
CREATE INDEX IF NOT EXISTS requests_by_time ON requests (at);
CREATE TABLE IF NOT EXISTS strangers (
    place INTEGER PRIMARY KEY CHECK (place = 0), since REAL, written INTEGER, folded INTEGER);
CREATE TABLE IF NOT EXISTS permits (
    step_id TEXT PRIMARY KEY, run_id TEXT, at REAL, judged INTEGER, consents TEXT, withheld TEXT);
CREATE INDEX IF NOT EXISTS permits_by_time ON permits (at);
CREATE TABLE IF NOT EXISTS cuts (of TEXT, cut TEXT, least INTEGER, PRIMARY KEY (of, cut));
CREATE TABLE IF NOT EXISTS concluded (run_id TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS owners (run_id TEXT PRIMARY KEY, number INTEGER, at REAL);
CREATE TABLE IF NOT EXISTS numbers (key TEXT PRIMARY KEY, value REAL);
"""
_STANDINGS = """
CREATE TABLE IF NOT EXISTS standings (
    silo TEXT PRIMARY KEY, key TEXT, lines INTEGER, head TEXT, signature TEXT, states INTEGER);
"""
_ONLY_NEWEST = "DELETE FROM {0} WHERE rowid <= (SELECT max(rowid) FROM {0}) - ?"
_KEPT_REPLIES = 16
_KEPT_BYTES = 1 << 30
_FILE_BYTES = 1 << 20
_WRITING_S = 600.0
_DAY_S = 86_400.0
_OWNERS_S = 30 * _DAY_S
_KEPT_ENDS = 10_000
_KEPT_NUMBERS = 1_000
_LASTING_RUNS = ("matching",)
"""Names of secrets that look like those of runs, and are of no run."""
_STRANGERS_WITHIN_S = 600.0
_STRANGERS_LINES = 40
"""So many lines are written in so many seconds about requests that nobody vouches for: 4 MiB a
day at most."""


def _secret_name(run_id: str) -> str:
    return hashlib.sha256(run_id.encode()).hexdigest()[:32]


def lasting_secret(root: bytes, purpose: str) -> bytes:
    """Return 32 bytes for one purpose, derived from a silo's own secret."""
    return hmac.digest(root, b"lasting/" + purpose.encode(), "sha256")


@dataclass(frozen=True)
class Permit:
    """The conditions under which a step was allowed; asked again, it must meet them still.

    Args:
        judged: whether a model was judged on held-out rows.
        consents: digest of which rows consents allowed; empty where there are none to ask.
        withheld: optional fields that were kept back.
    """

    judged: bool = False
    consents: str = ""
    withheld: frozenset[str] = frozenset()


@dataclass(frozen=True)
class KeptStanding:
    """What is known of a partner's audit log.

    Args:
        silo: the partner.
        key: what it signs with: its raw Ed25519 public key in hexadecimal.
        standing: the newest that it has signed.
        states: whether it has ever stated what it holds of others.
    """

    silo: str
    key: str
    standing: Standing
    states: bool


class Store:
    """The memory of one silo: the roles `Memory`, `Numbers` and `Secrets` of its kernel.

    Args:
        directory: the silo's; ``state.db``, ``standings.db``, ``replies/`` and ``secrets/`` are
            made in it.
    """

    def __init__(self, directory: Path) -> None:
        self._secrets = directory / "secrets"
        self._path = directory / "state.db"
        self._standings = directory / "standings.db"
        self._files = directory / "replies"
        if not self._secrets.is_dir():
            make_directory(self._secrets, mode=0o700)
        with self._open(schema=_TABLES) as database:
            known = {row[1] for row in database.execute("PRAGMA table_info(replies)")}
            for column in {"file TEXT", "size INTEGER"}:
                if column.split()[0] not in known:  # made by an earlier version
                    database.execute(f"ALTER TABLE replies ADD COLUMN {column}")

    def remembered(self, step_id: str) -> Parcel | None:
        """Return the answer that was given to a step, while it is kept."""
        with self._open() as database:
            row = database.execute(
                "SELECT header, body, file FROM replies WHERE step_id = ?", (step_id,)
            ).fetchone()
        if row is None:
            return None
        if row[2] is None:
            return Parcel(bytes(row[0]), bytes(row[1]))
        try:
            return Parcel(bytes(row[0]), (self._files / row[2]).read_bytes())
        except FileNotFoundError:  # it lapsed meanwhile
            return None

    def remember(self, step_id: str, reply: Parcel) -> None:
        """Keep an answer; the newest 16 are kept, and no more than 1 GiB beside the newest."""
        name = self._write(reply.body) if len(reply.body) > _FILE_BYTES else None
        body = reply.body if name is None else b""
        with self._open() as database:
            kept = database.execute(
                "INSERT OR IGNORE INTO replies (step_id, header, body, file, size)"
                " VALUES (?, ?, ?, ?, ?)",
                (step_id, reply.header, body, name, len(reply.body)),
            ).rowcount
            total, lapsed = 0, []
            rows = database.execute(
                "SELECT place, coalesce(size, length(body)), file FROM replies ORDER BY place DESC"
            ).fetchall()
            for age, (place, size, _) in enumerate(rows):
                total += size
                if age and (age >= _KEPT_REPLIES or total > _KEPT_BYTES):
                    lapsed.append((place,))
            database.executemany("DELETE FROM replies WHERE place = ?", lapsed)
        gone = {place for (place,) in lapsed}
        if name is not None and not kept:
            (self._files / name).unlink(missing_ok=True)
        for place, _, file in rows:
            if file is not None and place in gone:
                (self._files / file).unlink(missing_ok=True)
        if lapsed:
            self._sweep({file for _, _, file in rows})

    def _write(self, body: bytes) -> str:
        """Write an answer's body to the disk; return its file's name."""
        if not self._files.is_dir():
            make_directory(self._files, mode=0o700)
        name = secrets.token_hex(16)
        write_new(self._files / name, body)
        return name

    def _sweep(self, named: set[str | None]) -> None:
        """Delete what a process that died has left, but not what is just being written."""
        for file in self._files.glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if file.name not in named and time.time() - file.stat().st_mtime > _WRITING_S:
                    file.unlink()

    def standings(self) -> dict[str, KeptStanding]:
        """Return what is known of partners' logs, by name."""
        with self._others() as database:
            rows = database.execute(
                "SELECT silo, key, lines, head, signature, states FROM standings"
            ).fetchall()
        return {
            silo: KeptStanding(silo, key, Standing(lines, head, signature), bool(states))
            for silo, key, lines, head, signature, states in rows
        }

    def keep_standings(self, news: Sequence[KeptStanding]) -> None:
        """Keep what partners' logs stand at now; of one key, never fewer lines than before.

        It is of help to partners and comes again, with each request: nothing waits for the disk.
        """
        with self._others() as database:
            database.executemany(
                "INSERT INTO standings VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (silo) DO UPDATE SET"
                " key = excluded.key, lines = excluded.lines, head = excluded.head,"
                " signature = excluded.signature,"
                " states = excluded.states OR (key = excluded.key AND states)"
                " WHERE key != excluded.key OR excluded.lines >= lines",
                [
                    (
                        each.silo,
                        each.key,
                        each.standing.lines,
                        each.standing.head,
                        each.standing.signature,
                        int(each.states),
                    )
                    for each in news
                ],
            )

    def note_request(self, step_id: str, *, at: float) -> None:
        """Count a step that was allowed, when it last was; those older than a day are forgotten.

        Args:
            step_id: which.
            at: when, in seconds since 1970.
        """
        with self._open() as database:
            database.execute("DELETE FROM requests WHERE at < ?", (at - _DAY_S,))
            database.execute("INSERT OR REPLACE INTO requests VALUES (?, ?)", (step_id, at))

    def count_requests(self, *, since: float) -> int:
        """Return how many steps were allowed since a time, in seconds since 1970."""
        with self._open() as database:
            query = "SELECT count(*) FROM requests WHERE at >= ?"
            return int(database.execute(query, (since,)).fetchone()[0])

    def admit_stranger(self, *, at: float) -> tuple[bool, int]:
        """Return whether a line about an unverified request may be written, and how many were not.

        Args:
            at: when, in seconds since 1970.

        Returns:
            Whether this one may; and how many before it were left out and are to be told of now.
        """
        with self._open() as database:
            row = database.execute("SELECT since, written, folded FROM strangers").fetchone()
            since, written, folded = row or (at, 0, 0)
            told = 0
            # A clock that was set back begins a new time, too.
            if not 0 <= at - since <= _STRANGERS_WITHIN_S:
                since, written, folded, told = at, 0, 0, folded
            is_written = written < _STRANGERS_LINES
            database.execute(
                "INSERT OR REPLACE INTO strangers VALUES (0, ?, ?, ?)",
                (since, written + is_written, folded + (not is_written)),
            )
        return is_written, told

    def note_permit(self, step_id: str, permit: Permit, *, run_id: str, at: float) -> None:
        """Keep under which conditions a step was allowed, the newest; for a day.

        Where a model was judged once in the step, that stays: its verb may ask for more besides,
        and counts for as long as its run may ask.

        Args:
            step_id: which.
            permit: the conditions.
            run_id: of which run.
            at: when, in seconds since 1970.
        """
        withheld = "\n".join(sorted(permit.withheld))
        row = (step_id, run_id, at, int(permit.judged), permit.consents, withheld)
        with self._open() as database:
            database.execute(
                "DELETE FROM permits WHERE at < ? AND (NOT judged OR run_id IN"
                " (SELECT run_id FROM concluded))",
                (at - _DAY_S,),
            )
            database.execute(
                "INSERT INTO permits VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (step_id) DO UPDATE SET"
                " run_id = excluded.run_id, at = excluded.at, consents = excluded.consents,"
                " withheld = excluded.withheld, judged = max(judged, excluded.judged)",
                row,
            )

    def permit(self, step_id: str) -> Permit | None:
        """Return the conditions under which a step was allowed; None where none are kept."""
        with self._open() as database:
            query = "SELECT judged, consents, withheld FROM permits WHERE step_id = ?"
            row = database.execute(query, (step_id,)).fetchone()
        return None if row is None else Permit(bool(row[0]), row[1], frozenset(row[2].split()))

    def count_judged(self, *, since: float, but: str, run_id: str | None = None) -> int:
        """Return how many steps judged a model since a time.

        Args:
            since: seconds since 1970; those of runs that have ended are kept for a day.
            but: a step that is not counted.
            run_id: of this run alone; None is all.
        """
        query = "SELECT count(*) FROM permits WHERE judged AND at >= ? AND step_id <> ?"
        values: tuple[object, ...] = (since, but)
        if run_id is not None:
            query, values = f"{query} AND run_id = ?", (*values, run_id)
        with self._open() as database:
            return int(database.execute(query, values).fetchone()[0])

    def cuts(self, of: str) -> dict[str, int]:
        """Return how rows were held out so far, and for which least number of rows.

        Args:
            of: which rows.
        """
        with self._open() as database:
            query = "SELECT cut, least FROM cuts WHERE of = ?"
            return dict(database.execute(query, (of,)).fetchall())

    def keep_cuts(self, of: str, known: Mapping[str, int], new: Mapping[str, int]) -> bool:
        """Keep more of them, for ever; False, and nothing kept, where ``known`` are not all now."""
        with self._open() as database:
            database.execute("DELETE FROM cuts WHERE 0")  # begins the transaction
            rows = database.execute("SELECT cut, least FROM cuts WHERE of = ?", (of,))
            if dict(rows.fetchall()) != known:
                return False
            database.executemany(
                "INSERT OR REPLACE INTO cuts VALUES (?, ?, ?)",
                [(of, cut, least) for cut, least in new.items()],
            )
        return True

    def conclude(self, run_id: str) -> None:
        """Remember that a run has ended, of the newest 10,000, and erase its secret.

        Were it asked anything once its end is forgotten, it would be another run to us: with
        another secret, so that all it asks has other noise and a price of its own.
        """
        with self._open() as database:
            database.execute("INSERT OR IGNORE INTO concluded VALUES (?)", (run_id,))
            database.execute(_ONLY_NEWEST.format("concluded"), (_KEPT_ENDS,))
        self._erase_secrets([run_id])

    def is_concluded(self, run_id: str) -> bool:
        """Return whether a run has ended."""
        return self.run(run_id)[0]

    def run(self, run_id: str) -> tuple[bool, int]:
        """Return whether a run has ended, and the largest number of an owner that asked in it."""
        query = (
            "SELECT EXISTS (SELECT 1 FROM concluded WHERE run_id = :run),"
            " coalesce((SELECT number FROM owners WHERE run_id = :run), 0)"
        )
        with self._open() as database:
            ended, owner = database.execute(query, {"run": run_id}).fetchone()
        return bool(ended), int(owner)

    def note_owner(self, run_id: str, number: int, *, at: float) -> int:
        """Keep the number of a run's owner, and return the largest that was kept; for 30 days.

        A run that asked nothing for so long, and whose end nobody told, loses its secret too.

        Args:
            run_id: which run.
            number: of who asks.
            at: when, in seconds since 1970.
        """
        with self._open() as database:
            lapsed = database.execute(
                "DELETE FROM owners WHERE at < ? AND run_id <> ? RETURNING run_id",
                (at - _OWNERS_S, run_id),
            ).fetchall()
            database.execute(
                "INSERT INTO owners VALUES (:run, :number, :at) ON CONFLICT (run_id)"
                " DO UPDATE SET number = max(number, :number), at = :at",
                {"run": run_id, "number": number, "at": at},
            )
            query = "SELECT number FROM owners WHERE run_id = ?"
            largest = int(database.execute(query, (run_id,)).fetchone()[0])
        self._erase_secrets([each for (each,) in lapsed])
        return largest

    def number(self, key: str) -> float | None:
        """Return the number kept under ``key``; None where there is none."""
        with self._open() as database:
            row = database.execute("SELECT value FROM numbers WHERE key = ?", (key,)).fetchone()
        return None if row is None else float(row[0])

    def keep_number(self, key: str, value: float) -> None:
        """Keep a number under ``key``, in place of one that was there; the newest 1,000."""
        with self._open() as database:
            database.execute("INSERT OR REPLACE INTO numbers VALUES (?, ?)", (key, value))
            database.execute(_ONLY_NEWEST.format("numbers"), (_KEPT_NUMBERS,))

    def secret(self, run_id: str) -> bytes:
        """Return the run's 32 secret bytes, made at the first call, mode 0600."""
        return self._secret(_secret_name(run_id))

    def lasting(self, purpose: str) -> bytes:
        """Return 32 bytes for one purpose, derived from the silo's own secret, in every run alike.

        That secret is ``secrets/silo.key``, made at the first call; no run's name leads to it.
        """
        return lasting_secret(self._secret("silo"), purpose)

    def _erase_secrets(self, runs: Sequence[str]) -> None:
        """Erase the secrets of runs that are over."""
        for run in runs:
            if run not in _LASTING_RUNS:
                erase(self._secrets / f"{_secret_name(run)}.key")

    def _secret(self, name: str) -> bytes:
        path = self._secrets / f"{name}.key"
        if not rely_on(path):
            # Of two processes that come here at once, one wins for both.
            with contextlib.suppress(FileExistsError):
                write_new(path, secrets.token_bytes(32))
        return path.read_bytes()

    @contextmanager
    def _others(self) -> Iterator[sqlite3.Connection]:
        database = open_database(self._standings, lasting=False, schema=_STANDINGS)
        with contextlib.closing(database), database:
            yield database

    @contextmanager
    def _open(self, schema: str = "") -> Iterator[sqlite3.Connection]:
        # A connection per call: calls come from forked children, which must not share one.
        database = open_database(self._path, lasting=True, schema=schema)
        with contextlib.closing(database), database:
            yield database
