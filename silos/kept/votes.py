"""A silo's votes on models: what it has answered, all figures with it, and what its people say.

One SQLite file, ``votes.db``, mode 0600. What leaves of a vote its policy says; here is the rest,
for people (`consilo silo vote`, the silo's page). The audit log notes each vote as it is given, and
each time that people overrule. What was answered about the champion, night by night, is kept apart
from the votes on candidates.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection
from typing import Any

from consilo.decisions.rules import VoteRules
from consilo.decisions.vote import MOST_WORDS, VERDICTS, Verdict, Vote
from consilo.errors import ConfigInvalid
from consilo.machine.database import open_database, transaction
from consilo.record.chain import Chain, in_utc

_TABLES = """
CREATE TABLE IF NOT EXISTS questions (
    question TEXT PRIMARY KEY, at REAL NOT NULL, vote TEXT);
CREATE TABLE IF NOT EXISTS votes (
    place INTEGER PRIMARY KEY, at REAL NOT NULL, voting TEXT NOT NULL, run TEXT NOT NULL,
    vote TEXT NOT NULL, UNIQUE (voting, run, vote));
CREATE TABLE IF NOT EXISTS readings (
    place INTEGER PRIMARY KEY, at REAL NOT NULL, voting TEXT NOT NULL, run TEXT NOT NULL,
    vote TEXT NOT NULL, UNIQUE (voting, run, vote));
CREATE TABLE IF NOT EXISTS words (
    run TEXT PRIMARY KEY, at REAL NOT NULL, verdict TEXT NOT NULL, reason TEXT NOT NULL);
"""
_GIVEN = "SELECT at, voting, vote FROM {} WHERE ?1 IN ('', run) ORDER BY place"
_KEEP = "INSERT OR IGNORE INTO {} (at, voting, run, vote) VALUES (?, ?, ?, ?)"
_DAY_S = 86_400.0
_RUN = re.compile(r"[A-Za-z0-9][\w.-]{0,199}")


@dataclass(frozen=True)
class KeptVote:
    """A vote as the silo keeps it.

    Args:
        at: when, in seconds since 1970.
        voting: the run that asked; empty for what people say.
        vote: with all figures.
    """

    at: float
    voting: str
    vote: Vote

    def to_json(self) -> dict[str, Any]:
        """Return the vote as plain JSON values."""
        return {"time": in_utc(self.at), "voting": self.voting, **self.vote.to_json()}


class Votes:
    """The role `consilo.decisions.roles.Votes`.

    Args:
        directory: the silo's.
        rules: of its policy.
        audit: its audit log.
        now: seconds since 1970.
    """

    def __init__(
        self,
        directory: Path,
        rules: VoteRules,
        audit: Chain,
        *,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._path = directory / "votes.db"
        self._rules = rules
        self._audit = audit
        self._now = now

    def vote_rules(self) -> VoteRules:
        """Return the policy's rules."""
        return self._rules

    def people_say(self, run: str) -> tuple[Verdict, str] | None:
        """Return what people here say of a run's model, and why."""
        return self.words().get(run)

    def begin_vote(self, question: str) -> Mapping[str, Any] | bool:
        """Return what was answered to a question, or whether another may be asked: it counts now.

        A question that was begun and not answered, since the process died, is gone on with.
        """
        with self._open() as database, transaction(database):
            known = database.execute(
                "SELECT vote FROM questions WHERE question = ?", (question,)
            ).fetchone()
            if known is not None:
                return True if known[0] is None else dict(json.loads(known[0]))
            most, now = self._rules.per_day, self._now()
            asked = database.execute(
                "SELECT count(*) FROM questions WHERE at > ?", (now - _DAY_S,)
            ).fetchone()[0]
            if most is not None and asked >= most:
                return False
            database.execute("INSERT INTO questions VALUES (?, ?, NULL)", (question, now))
        return True

    def keep_vote(
        self, question: str, vote: Mapping[str, Any], voting: str, *, monitors: bool = False
    ) -> None:
        """Keep a vote with all its figures, and note in the audit log that it is given."""
        text, now = json.dumps(vote, sort_keys=True), self._now()
        with self._open() as database, transaction(database):
            if question:
                database.execute(
                    "UPDATE questions SET vote = ? WHERE question = ? AND vote IS NULL",
                    (text, question),
                )
            place = "readings" if monitors else "votes"
            database.execute(_KEEP.format(place), (now, voting, str(vote["run"]), text))
        self._audit.append(
            "monitored" if monitors else "voted",
            run=voting,
            candidate=vote["candidate"],
            trained=vote["run"],
            champion=vote["champion"],
            verdict=vote["verdict"],
            reasons=list(vote["reasons"]),
        )

    def overrule(self, run: str, verdict: Verdict, reason: str) -> None:
        """Let people's word count for a run's model, in any voting to come, and note it.

        Raises:
            ConfigInvalid: where there is no reason, one that is too long, or no name of a run.
        """
        faults = []
        if not _RUN.fullmatch(run):
            faults.append(f"'{run[:80]}' is no name of a run; 'consilo silo vote' lists those")
        if verdict not in VERDICTS:
            faults.append(f"expected one of {', '.join(VERDICTS)}, found '{verdict}'")
        if not reason.strip() or len(reason) > MOST_WORDS:
            faults.append(f"--reason: expected 1 to {MOST_WORDS} characters, found {len(reason)}")
        if faults:
            raise ConfigInvalid("vote", faults)
        with self._open() as database, transaction(database):
            database.execute(
                "INSERT OR REPLACE INTO words VALUES (?, ?, ?, ?)",
                (run, self._now(), verdict, reason.strip()),
            )
        self._audit.append("overruled", trained=run, verdict=verdict, reason=reason.strip())

    def withdraw(self, run: str) -> bool:
        """Let the policy vote on a run's model again; return whether people had said anything."""
        with self._open() as database, transaction(database):
            gone = database.execute("DELETE FROM words WHERE run = ?", (run,)).rowcount
        if gone:
            self._audit.append("overruled", trained=run, verdict="", reason="")
        return bool(gone)

    def words(self) -> dict[str, tuple[Verdict, str]]:
        """Return what people here say, by run."""
        if not self._path.exists():
            return {}
        with self._open() as database:
            rows = database.execute("SELECT run, verdict, reason FROM words ORDER BY at").fetchall()
        return {run: (verdict, reason) for run, verdict, reason in rows}

    def given(self, run: str = "") -> list[KeptVote]:
        """Return the votes that were given, the newest last; of one run where it is named."""
        return self._kept("votes", run)

    def readings(self, run: str = "") -> list[KeptVote]:
        """Return what was said of champions in use, as `given` returns votes on candidates."""
        return self._kept("readings", run)

    def _kept(self, place: str, run: str) -> list[KeptVote]:
        if not self._path.exists():
            return []
        with self._open() as database:
            rows = database.execute(_GIVEN.format(place), (run,)).fetchall()
        return [KeptVote(at, voting, Vote.from_json(json.loads(vote))) for at, voting, vote in rows]

    @contextmanager
    def _open(self) -> Iterator[Connection]:
        database = open_database(self._path, lasting=True, begin=None, schema=_TABLES)
        with contextlib.closing(database):
            yield database
