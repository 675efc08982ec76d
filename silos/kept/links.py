"""Accounts of the privacy ledger that hold the same rows: what one of them spent counts for each.

Two tables of ``ledger.db``, to which is only added: ``links``, a hash chain like the entries' own,
whose lines are named in the audit log too; and ``elsewhere``, uses of the same rows that another
directory has booked, or this one before it was restored from an older backup.

A link holds for ever, also where a data set is removed. Only of data that could not be compared
(``unknown``) people may say that they differ, with a reason that stays in the chain.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from consilo.errors import Refused
from consilo.jobs.job import Unit
from consilo.privacy.accounting import HistoryRow
from consilo.privacy.unit import unit_of
from consilo.record.chain import START, linked

Use = tuple[str, str, str, float, float, int]
"""Time, step, mark, σ, sampling rate, steps."""
ELSEWHERE = "elsewhere/"
"""How the names of other directories' accounts begin; no data set is called so."""
USE = "time, step_id, mark, sigma, sample_rate, steps"
TABLES = f"""
CREATE TABLE IF NOT EXISTS links (
    seq INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('linked', 'apart')),
    account TEXT NOT NULL,
    other TEXT NOT NULL CHECK (other <> account),
    why TEXT NOT NULL,
    prev TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS elsewhere (
    account TEXT NOT NULL,
    time TEXT NOT NULL,
    step_id TEXT NOT NULL,
    mark TEXT NOT NULL,
    sigma REAL NOT NULL CHECK (sigma > 0 AND sigma < 1e300),
    sample_rate REAL NOT NULL CHECK (sample_rate > 0 AND sample_rate <= 1),
    steps INTEGER NOT NULL CHECK (steps > 0),
    UNIQUE (step_id, mark, sigma, sample_rate, steps, account)
) STRICT;
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL) STRICT;
CREATE TRIGGER IF NOT EXISTS links_stay BEFORE DELETE ON links
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS links_are_final BEFORE UPDATE ON links
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS links_follow BEFORE INSERT ON links
    WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), -1) + 1 FROM links)
        OR NEW.prev IS NOT coalesce(
            (SELECT hash FROM links ORDER BY seq DESC LIMIT 1), '{START}')
    BEGIN SELECT RAISE(ABORT, 'a link of the privacy ledger follows the last one'); END;
CREATE TRIGGER IF NOT EXISTS elsewhere_stays BEFORE DELETE ON elsewhere
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS elsewhere_is_final BEFORE UPDATE ON elsewhere
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
"""


def grouped(lines: Iterable[Mapping[str, Any]], account: str) -> list[str]:
    """Return an account and all that is linked with it, also by way of others: its own first."""
    why: dict[frozenset[str], str] = {}
    for line in lines:
        body = line["body"]
        why[frozenset((body["account"], body["other"]))] = line["kind"]
    found = [account]
    for each in found:
        for pair, kind in why.items():
            found += [o for o in pair if kind == "linked" and each in pair and o not in found]
    return found


def group(database: sqlite3.Connection, account: str) -> list[str]:
    """Return `grouped` of the ledger."""
    return grouped(lines(database), account)


def lines(database: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return all links as lines of a chain: seq, time, kind, body, prev, hash."""
    rows = database.execute(
        "SELECT seq, time, kind, account, other, why, prev, hash FROM links ORDER BY seq"
    ).fetchall()
    return [
        {
            "seq": seq,
            "time": time,
            "kind": kind,
            "body": {"account": account, "other": other, "why": why},
            "prev": prev,
            "hash": head,
        }
        for seq, time, kind, account, other, why, prev, head in rows
    ]


def link(
    database: sqlite3.Connection, account: str, other: str, why: str, *, time: str
) -> str | None:
    """Append a link within a transaction; return its hash, or None where it was known."""
    if account == other or _says_enough(_newest(database, account, other), why):
        return None
    return _append(database, "linked", account, other, why, time)


def part(database: sqlite3.Connection, account: str, other: str, reason: str, *, time: str) -> str:
    """Append within a transaction that two accounts differ, as people say; return its hash.

    Raises:
        Refused: where they are not linked, or because their rows are the same.
    """
    newest = _newest(database, account, other)
    if newest is None or newest[0] != "linked":
        raise Refused(f"'{account}' and '{other}' are not linked directly", code="link")
    if newest[1] != "unknown":
        raise Refused(f"'{account}' and '{other}' hold the same rows: this link stays", code="link")
    return _append(database, "apart", account, other, reason, time)


def note_elsewhere(database: sqlite3.Connection, account: str, uses: Sequence[Use]) -> None:
    """Keep, within a transaction, what was spent elsewhere and is not in the ledger itself."""
    for time, *use in uses:
        known = database.execute(
            "SELECT 1 FROM entries WHERE kind = 'reserved'"
            " AND (step_id, mark, sigma, sample_rate, steps) = (?, ?, ?, ?, ?)",
            use,
        ).fetchone()
        if known is None:
            database.execute(
                "INSERT OR IGNORE INTO elsewhere VALUES (?, ?, ?, ?, ?, ?, ?)",
                (account, time, *use),
            )


def elsewhere(database: sqlite3.Connection) -> list[dict[str, Any]]:
    """Return what was spent elsewhere; each use with its account."""
    names = ("account", *USE.split(", "))
    rows = database.execute(f"SELECT {', '.join(names)} FROM elsewhere ORDER BY time, rowid")
    return [dict(zip(names, row, strict=True)) for row in rows.fetchall()]


def spent_elsewhere(
    database: sqlite3.Connection, accounts: Sequence[str], since: str, step: tuple[str, str]
) -> list[tuple[Unit, HistoryRow]]:
    """Return what was spent elsewhere after a time, and is no entry by now: unit, (σ, q, steps).

    Args:
        database: the ledger.
        accounts: whose.
        since: a time in ISO 8601.
        step: step and mark of what is about to be reserved. It may stand there already, where the
            process died after it had been noted and before it was an entry: that is one use.
    """
    asked = ", ".join("?" * len(accounts))
    rows = database.execute(
        "SELECT mark, sigma, sample_rate, steps FROM elsewhere"
        f" WHERE account IN ({asked}) AND time > ? AND (step_id, mark) <> (?, ?) AND NOT EXISTS"
        " (SELECT 1 FROM entries e WHERE e.kind = 'reserved' AND (e.step_id, e.mark, e.sigma,"
        " e.sample_rate, e.steps) = (elsewhere.step_id, elsewhere.mark, elsewhere.sigma,"
        " elsewhere.sample_rate, elsewhere.steps))",
        (*accounts, since, *step),
    ).fetchall()
    return [
        (unit_of(mark), (float(sigma), float(rate), int(steps)))
        for mark, sigma, rate, steps in rows
    ]


def length(database: sqlite3.Connection) -> int:
    """Return how many links and uses elsewhere there are."""
    query = "SELECT (SELECT count(*) FROM links) + (SELECT count(*) FROM elsewhere)"
    return int(database.execute(query).fetchone()[0])


def identity(database: sqlite3.Connection) -> str:
    """Return the ledger's own random name, drawn when it is first asked for."""
    database.execute(
        "INSERT INTO identity SELECT ? WHERE NOT EXISTS (SELECT 1 FROM identity)",
        (os.urandom(16).hex(),),
    )
    return str(database.execute("SELECT id FROM identity").fetchone()[0])


def _newest(database: sqlite3.Connection, account: str, other: str) -> tuple[str, str] | None:
    row = database.execute(
        "SELECT kind, why FROM links WHERE (account, other) IN (VALUES (?, ?), (?, ?))"
        " ORDER BY seq DESC LIMIT 1",
        (account, other, other, account),
    ).fetchone()
    return None if row is None else (str(row[0]), str(row[1]))


def _says_enough(newest: tuple[str, str] | None, why: str) -> bool:
    """Return whether a pair needs no new line: people's word stands until rows belie it."""
    if newest is None:
        return False
    return why == "unknown" or (newest[0] == "linked" and newest[1] != "unknown")


def _append(
    database: sqlite3.Connection, kind: str, account: str, other: str, why: str, time: str
) -> str:
    last = database.execute("SELECT seq, hash FROM links ORDER BY seq DESC LIMIT 1").fetchone()
    seq, prev = (0, START) if last is None else (last[0] + 1, last[1])
    body = {"account": account, "other": other, "why": why}
    _, head = linked(seq, time, kind, body, prev)
    database.execute(
        "INSERT INTO links VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (seq, time, kind, *body.values(), prev, head),
    )
    return head
