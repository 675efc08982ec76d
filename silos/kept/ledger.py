"""The privacy ledger: every use of every data set, reserved before it happens, settled after.

One SQLite file, ``ledger.db``, mode 0600. Its entries are appended and never changed (triggers
refuse it), each holds the hash of the one before, and every job and every year adds to the account
of its data set. What counts as spent is what was reserved, whether or not it was settled: a silo
that dies in between has paid. The same question asked again finds its reservation and pays nothing.

A reservation is decided on a snapshot and written only if the account is still the same, in one
transaction that no other process can be in: two at once cannot both spend what is left.

Accounts that hold the same rows are *linked* (`silos.kept.links`): what one of them spent counts
for each, and the budget of each must be able to pay.

Tables whose names begin with ``known_`` hold what is dear to compute and could be computed again.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from consilo.errors import BudgetExhausted
from consilo.jobs.job import Unit
from consilo.machine.database import Connect, open_database, patient, transaction
from consilo.privacy import composition
from consilo.privacy.account import Account, Admit, Balance, Charge, Limit
from consilo.privacy.accounting import HistoryRow
from consilo.privacy.composition import Floats
from consilo.privacy.unit import seen, unit_of
from consilo.record.chain import START, linked
from silos.kept import links
from silos.kept.budget import Budget, units_of

_VERSION = 2
_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    seq INTEGER PRIMARY KEY,
    time TEXT NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('reserved', 'settled')),
    account TEXT NOT NULL,
    run_id TEXT NOT NULL,
    step_id TEXT NOT NULL,
    mark TEXT NOT NULL,
    mechanism TEXT NOT NULL,
    sigma REAL NOT NULL CHECK (sigma > 0 AND sigma < 1e300),
    sample_rate REAL NOT NULL CHECK (sample_rate > 0 AND sample_rate <= 1),
    steps INTEGER NOT NULL CHECK (steps > 0),
    num_rows INTEGER NOT NULL CHECK (num_rows >= 0),
    prev TEXT NOT NULL,
    hash TEXT NOT NULL,
    UNIQUE (step_id, mark, sigma, sample_rate, steps, kind)
) STRICT;
CREATE INDEX IF NOT EXISTS by_account
    ON entries (account, kind, sigma, sample_rate, time, steps);
CREATE INDEX IF NOT EXISTS by_run ON entries (run_id, kind, seq);
CREATE TRIGGER IF NOT EXISTS entries_stay BEFORE DELETE ON entries
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_are_final BEFORE UPDATE ON entries
    BEGIN SELECT RAISE(ABORT, 'the privacy ledger is append-only'); END;
CREATE TRIGGER IF NOT EXISTS entries_follow BEFORE INSERT ON entries
    WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), -1) + 1 FROM entries)
        OR NEW.prev IS NOT coalesce(
            (SELECT hash FROM entries ORDER BY seq DESC LIMIT 1), '{START}')
    BEGIN SELECT RAISE(ABORT, 'an entry of the privacy ledger follows the last one'); END;
CREATE TABLE IF NOT EXISTS known_moments (
    sigma REAL, sample_rate REAL, vector BLOB, PRIMARY KEY (sigma, sample_rate)) STRICT;
CREATE TABLE IF NOT EXISTS known_costs (
    place INTEGER PRIMARY KEY, account TEXT, delta REAL, rows TEXT, epsilon REAL) STRICT;
{links.TABLES}
PRAGMA user_version = {_VERSION};
COMMIT;
"""
_KEPT_COSTS = 8
_FIELDS = ("account", "run_id", "step_id", "mark", "mechanism")
_NUMBERS = ("sigma", "sample_rate", "steps", "num_rows")


class Ledger:
    """The privacy ledger of one silo.

    Args:
        path: the file; made at the first reservation, mode 0600.
        now: the clock.
        connect: opens the file.
    """

    def __init__(
        self,
        path: Path,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        connect: Connect = patient,
    ) -> None:
        self.path = path
        self._now = now
        self._connect = connect

    def reserve(
        self,
        account: str,
        charge: Charge,
        budget: Budget | None = None,
        admit: Admit = lambda history: None,
        *,
        budget_of: Callable[[str], Budget | None] = lambda account: None,
        before: Callable[[str], None] = lambda time: None,
    ) -> list[HistoryRow]:
        """Reserve a charge, once; return what its run has cost up to and with it.

        Args:
            account: the data set.
            charge: what is about to be done.
            budget: of the data set; None sets no limit.
            admit: what the run itself allows; called before anything is written.
            budget_of: the budgets of accounts that are linked with it.
            before: called with the entry's time right before it is written; what it raises
                prevents that.

        Raises:
            BudgetExhausted: where the budget cannot pay, or ``admit`` says no; nothing is reserved.
        """
        if budget is not None:
            budget.require_unit(charge.unit)
            budget.require_noise(charge.sigma)
        with self._open() as database:
            while True:
                _require_one_unit(database, charge)
                known = _reservation(database, charge)
                history = _run_history(database, charge.run_id, upto=known)
                length = _length(database)
                if known is not None:
                    return history
                admit([*history, charge.row])
                _, *others = links.group(database, account)
                limits = [(account, budget), *((each, budget_of(each)) for each in others)]
                for name, each in limits:
                    if each is not None:
                        each.require_unit(charge.unit)
                        self._require(database, name, charge, each)
                with transaction(database):
                    if _length(database) == length:
                        before(self._time(database))
                        self._append(database, "reserved", account, charge)
                        return [*history, charge.row]

    def settle(self, step_id: str) -> bool:
        """Note that a step's answer is kept, and will be sent; return whether that is news.

        A step that reserved nothing is none of the ledger's.
        """
        if not self.path.exists():
            return False
        with self._open() as database:
            if _unsettled(database, step_id) is None:
                return False
            with transaction(database):
                found = _unsettled(database, step_id)
                if found is not None:
                    self._append(database, "settled", *found)
        return found is not None

    def quote(
        self,
        account: str,
        rows: Sequence[HistoryRow],
        budget: Budget | None,
        unit: Unit = "record",
    ) -> Account:
        """Return how the account would stand with ``rows`` besides; nothing is spent.

        Args:
            account: the data set.
            rows: (noise multiplier, sampling rate, steps) of what would be done.
            budget: of the data set.
            unit: what it would hide.

        Raises:
            BudgetExhausted: where a row has less noise than the budget wants, or hides less.
        """
        if budget is not None and rows:
            budget.require_unit(unit)
            for sigma, _, _ in rows:
                budget.require_noise(sigma)
        with self._open() as database:
            counts = dict(
                database.execute(
                    "SELECT kind, count(*) FROM entries WHERE account = ? GROUP BY kind", (account,)
                ).fetchall()
            )
            balances = (
                []
                if budget is None
                else [
                    self._balance(database, account, rows, budget, each, unit, exact=True)
                    for each in budget.limits
                ]
            )
        return Account(
            account, counts.get("reserved", 0), counts.get("settled", 0), tuple(balances)
        )

    def accounts(self) -> list[str]:
        """Return the names of all data sets that were ever used."""
        if not self.path.exists():
            return []
        with self._open() as database:
            rows = database.execute("SELECT DISTINCT account FROM entries ORDER BY account")
            return [str(name) for (name,) in rows]

    @property
    def identity(self) -> str:
        """What tells this ledger from any other, also where it is restored from a backup."""
        with self._open() as database:
            return links.identity(database)

    def group(self, account: str) -> list[str]:
        """Return the accounts whose spends count for a data set: its own first."""
        if not self.path.exists():
            return [account]
        with self._open() as database:
            return links.group(database, account)

    def link(self, account: str, other: str, why: str) -> str | None:
        """Note that two accounts hold the same rows, for ever; return the line's hash.

        None where it was known.

        Args:
            account: a data set.
            other: another, or what is called ``elsewhere/…``.
            why: ``source``, ``rows``, or ``unknown`` where it cannot be told that they do not.
        """
        with self._open() as database, transaction(database):
            return links.link(database, account, other, why, time=self._time(database))

    def part(self, account: str, other: str, reason: str) -> str:
        """Note that people say of two accounts, which could not be compared, that they differ.

        Returns:
            The line's hash.

        Raises:
            Refused: where they are not linked, or because their rows are the same.
        """
        with self._open() as database, transaction(database):
            return links.part(database, account, other, reason, time=self._time(database))

    def ties(self) -> dict[str, Any]:
        """Return the chain of links, and what was spent elsewhere for accounts that are linked."""
        if not self.path.exists():
            return {"links": [], "elsewhere": []}
        with self._open() as database:
            return {"links": links.lines(database), "elsewhere": links.elsewhere(database)}

    def uses(self, *, after: int = -1) -> list[tuple[int, str, links.Use]]:
        """Return what was reserved: number of the entry, account, use."""
        if not self.path.exists():
            return []
        with self._open() as database:
            rows = database.execute(
                f"SELECT seq, account, {links.USE} FROM entries"
                " WHERE kind = 'reserved' AND seq > ? ORDER BY seq",
                (after,),
            ).fetchall()
        return [(seq, account, tuple(use)) for seq, account, *use in rows]

    def note_elsewhere(self, account: str, uses: Sequence[links.Use]) -> None:
        """Count what was spent where this ledger does not know of it; each use once."""
        with self._open() as database, transaction(database):
            links.note_elsewhere(database, account, uses)

    def run_charges(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what a run has reserved, each with its mechanism."""
        if not self.path.exists():
            return []
        with self._open() as database:
            rows = database.execute(
                "SELECT mechanism, sigma, sample_rate, steps FROM entries"
                " WHERE run_id = ? AND kind = 'reserved' ORDER BY seq",
                (run_id,),
            ).fetchall()
        return [(mechanism, (sigma, rate, steps)) for mechanism, sigma, rate, steps in rows]

    @property
    def head(self) -> str:
        """Hash of the newest entry; `consilo.record.chain.START` where there is none."""
        if not self.path.exists():
            return START
        with self._open() as database:
            row = database.execute("SELECT hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        return START if row is None else str(row[0])

    def has(self, head: str) -> bool:
        """Return whether an entry or a link has this hash."""
        if not self.path.exists():
            return False
        with self._open() as database:
            query = (
                "SELECT 1 FROM entries WHERE hash = ?1 UNION SELECT 1 FROM links WHERE hash = ?1"
            )
            return database.execute(query, (head,)).fetchone() is not None

    def entries(self) -> list[dict[str, Any]]:
        """Return all entries as lines of a chain: seq, time, kind, body, prev, hash."""
        if not self.path.exists():
            return []
        with self._open() as database:
            rows = database.execute(
                f"SELECT seq, time, kind, {', '.join((*_FIELDS, *_NUMBERS))}, prev, hash"
                " FROM entries ORDER BY seq"
            ).fetchall()
        names = (*_FIELDS, *_NUMBERS)
        return [
            {
                "seq": seq,
                "time": time,
                "kind": kind,
                "body": dict(zip(names, values, strict=True)),
                "prev": prev,
                "hash": head,
            }
            for seq, time, kind, *values, prev, head in rows
        ]

    def _require(
        self, database: sqlite3.Connection, account: str, charge: Charge, budget: Budget
    ) -> None:
        for limit in budget.limits:
            found = self._balance(
                database,
                account,
                [charge.row],
                budget,
                limit,
                charge.unit,
                ahead=charge.ahead,
                step=(charge.step_id, charge.mark),
            )
            if not found.fits:
                raise BudgetExhausted(found.refusal(account))

    def _balance(
        self,
        database: sqlite3.Connection,
        account: str,
        rows: Sequence[HistoryRow],
        budget: Budget,
        limit: Limit,
        unit: Unit,
        *,
        ahead: int = 0,
        exact: bool = False,
        step: tuple[str, str] = ("", ""),
    ) -> Balance:
        """Return how the account stands at a limit without and with ``rows``.

        Of the units that the budget bounds, that whose ε is larger.

        Args:
            unit: what ``rows`` hide.
            ahead: see `Charge`.
            exact: ask PRV even where the bound by Rényi moments is within the limit, and for
                ``before`` too; else ``before`` is that of ``after`` where that one fits.
            step: step and mark of a charge that ``rows`` are.
        """
        uses = self._history(database, account, limit, step)
        found = []
        for each in units_of(uses, budget):
            past, tight = seen(uses, each)
            more, tight_too = seen([(unit, row) for row in rows], each)
            terms = (budget.delta, limit)
            is_tight = tight and tight_too
            after = self._cost(
                database, account, past, more, *terms, ahead, exact=exact, tight=is_tight
            )
            before = after
            if rows and (exact or after > limit.epsilon):
                before = self._cost(database, account, past, [], *terms, 0, exact=True, tight=tight)
            found.append(Balance(limit, budget.delta, min(before, after), after))
        return max(found, key=lambda each: each.after)

    def _history(
        self, database: sqlite3.Connection, account: str, limit: Limit, step: tuple[str, str]
    ) -> list[tuple[Unit, HistoryRow]]:
        """Return what counts at a limit, one row for each kind, with its unit."""
        since = ""
        if limit.days is not None:
            since = (self._now() - timedelta(days=limit.days)).isoformat(timespec="seconds")
        group = links.group(database, account)
        asked = ", ".join("?" * len(group))
        rows = database.execute(
            "SELECT mechanism, sigma, sample_rate, sum(steps) FROM entries"
            f" WHERE account IN ({asked}) AND kind = 'reserved' AND time > ?"
            " GROUP BY mechanism, sigma, sample_rate",
            (*group, since),
        ).fetchall()
        own = [
            (unit_of(name), (float(sigma), float(rate), int(steps)))
            for name, sigma, rate, steps in rows
        ]
        return [*own, *links.spent_elsewhere(database, group, since, step)]

    def _cost(
        self,
        database: sqlite3.Connection,
        account: str,
        past: Sequence[HistoryRow],
        rows: Sequence[HistoryRow],
        delta: float,
        limit: Limit,
        ahead: int,
        *,
        exact: bool,
        tight: bool,
    ) -> float:
        """Return an upper bound of the ε of ``past`` and ``rows`` together.

        Rényi moments come first; PRV is asked only where they exceed the limit. What PRV said of a
        longer history holds for a shorter one, so that a run asks it once, for all its rounds.

        Args:
            tight: whether PRV may be asked; see `consilo.privacy.unit.seen`.
        """
        whole = composition.merged([*past, *rows])
        epsilon = composition.by_renyi(_moments(database, whole), delta)
        if (epsilon <= limit.epsilon and not exact) or not tight:
            return epsilon
        if not exact:
            known = _known_cost(database, account, whole, delta, limit.epsilon)
            if known is not None:
                return known
        if rows and ahead:
            sigma, rate, _ = rows[0]
            plan = composition.merged([*whole, (sigma, rate, ahead)])
            planned = composition.by_prv(plan, delta)
            if planned <= limit.epsilon:
                _keep_cost(database, account, plan, delta, planned)
                return min(planned, epsilon)
        found = composition.by_prv(whole, delta)
        if found <= limit.epsilon and not exact:
            _keep_cost(database, account, whole, delta, found)
        return min(found, epsilon)

    def _append(
        self, database: sqlite3.Connection, kind: str, account: str, charge: Charge
    ) -> None:
        last = database.execute(
            "SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        seq, prev = (0, START) if last is None else (last[0] + 1, last[1])
        time = self._time(database)
        body = body_of(account, charge)
        _, head = linked(seq, time, kind, body, prev)
        database.execute(
            f"INSERT INTO entries VALUES ({', '.join('?' * 14)})",
            (seq, time, kind, *body.values(), prev, head),
        )

    def _time(self, database: sqlite3.Connection) -> str:
        """Return the time; after a clock was set back, that of the newest entry.

        So that no use falls out of the period sooner.
        """
        last = database.execute("SELECT time FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        return max("" if last is None else last[0], self._now().isoformat(timespec="seconds"))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # A connection per call: calls come from forked children, which must not share one.
        database = open_database(self.path, lasting=True, begin=None, connect=self._connect)
        with contextlib.closing(database):
            if database.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                database.executescript(_TABLES)
            yield database


def body_of(account: str, charge: Charge) -> dict[str, Any]:
    """Return what an entry says of a charge; plain JSON values, in the order of the columns."""
    return {
        "account": account,
        "run_id": charge.run_id,
        "step_id": charge.step_id,
        "mark": charge.mark,
        "mechanism": charge.mechanism,
        "sigma": float(charge.sigma),
        "sample_rate": float(charge.sample_rate),
        "steps": int(charge.steps),
        "num_rows": int(charge.rows),
    }


def _require_one_unit(database: sqlite3.Connection, charge: Charge) -> None:
    """Raise `BudgetExhausted` where a run has paid for another unit: its ε is about one."""
    names = database.execute(
        "SELECT DISTINCT mechanism FROM entries WHERE run_id = ?", (charge.run_id,)
    ).fetchall()
    if any(unit_of(name) != charge.unit for (name,) in names):
        raise BudgetExhausted(
            f"this run has paid for another unit of privacy than {charge.unit}s; start a new run"
        )


def _unsettled(database: sqlite3.Connection, step_id: str) -> tuple[str, Charge] | None:
    """Return a step's newest reservation, unless it is settled."""
    row = database.execute(
        f"SELECT account, {', '.join((*_FIELDS[1:], *_NUMBERS))} FROM entries"
        " WHERE step_id = ? AND kind = 'reserved' ORDER BY seq DESC LIMIT 1",
        (step_id,),
    ).fetchone()
    if row is None:
        return None
    account, *values = row
    charge = Charge(*values)
    done = database.execute(
        "SELECT 1 FROM entries WHERE step_id = ? AND mark = ? AND kind = 'settled'"
        " AND (sigma, sample_rate, steps) = (?, ?, ?)",
        (step_id, charge.mark, *charge.row),
    ).fetchone()
    return (str(account), charge) if done is None else None


def _moments(database: sqlite3.Connection, rows: Sequence[HistoryRow]) -> Floats:
    """Return the summed Rényi moments of ``rows``, from those that are kept; keep the others."""
    query = "SELECT vector FROM known_moments WHERE sigma = ? AND sample_rate = ?"
    vectors, new = [], []
    for sigma, rate, _ in rows:
        found = database.execute(query, (sigma, rate)).fetchone()
        if found is None:
            vectors.append(composition.moments(sigma=sigma, sample_rate=rate))
            new.append((sigma, rate, vectors[-1].tobytes()))
        else:
            vectors.append(np.frombuffer(found[0], np.float64))
    if new:
        with transaction(database):
            database.executemany("INSERT OR IGNORE INTO known_moments VALUES (?, ?, ?)", new)
    if not vectors:
        return np.zeros(0)
    return np.asarray(np.array([steps for _, _, steps in rows], np.float64) @ np.stack(vectors))


def _known_cost(
    database: sqlite3.Connection,
    account: str,
    rows: Sequence[HistoryRow],
    delta: float,
    limit: float,
) -> float | None:
    """Return the kept cost, within the limit, of a history that covers ``rows``."""
    kept = database.execute(
        "SELECT rows, epsilon FROM known_costs"
        " WHERE account = ? AND delta = ? AND epsilon <= ? ORDER BY place DESC",
        (account, delta, limit),
    ).fetchall()
    for text, epsilon in kept:
        if composition.covers([tuple(row) for row in json.loads(text)], rows):
            return float(epsilon)
    return None


def _keep_cost(
    database: sqlite3.Connection,
    account: str,
    rows: Sequence[HistoryRow],
    delta: float,
    epsilon: float,
) -> None:
    with transaction(database):
        database.execute(
            "INSERT INTO known_costs (account, delta, rows, epsilon) VALUES (?, ?, ?, ?)",
            (account, delta, json.dumps(rows), epsilon),
        )
        database.execute(
            "DELETE FROM known_costs WHERE account = ? AND place NOT IN"
            " (SELECT place FROM known_costs WHERE account = ? ORDER BY place DESC LIMIT ?)",
            (account, account, _KEPT_COSTS),
        )


def _length(database: sqlite3.Connection) -> int:
    """Return the number of all that counts: it only grows."""
    (entries,) = database.execute("SELECT coalesce(max(seq), -1) + 1 FROM entries").fetchone()
    return int(entries) + links.length(database)


def _reservation(database: sqlite3.Connection, charge: Charge) -> int | None:
    row = database.execute(
        "SELECT seq FROM entries WHERE step_id = ? AND mark = ? AND kind = 'reserved'"
        " AND (sigma, sample_rate, steps) = (?, ?, ?)",
        (charge.step_id, charge.mark, *charge.row),
    ).fetchone()
    return None if row is None else int(row[0])


def _run_history(
    database: sqlite3.Connection, run_id: str, *, upto: int | None
) -> list[HistoryRow]:
    rows = database.execute(
        "SELECT sigma, sample_rate, steps FROM entries"
        " WHERE run_id = ? AND kind = 'reserved' AND seq <= ? ORDER BY seq",
        (run_id, 2**62 if upto is None else upto),
    ).fetchall()
    return [(float(sigma), float(rate), int(steps)) for sigma, rate, steps in rows]
