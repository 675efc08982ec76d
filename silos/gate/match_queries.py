"""What a silo has been asked to match, with whom and how: the memory that its policy decides by.

PSI answers, for every key that a partner brings, whether it is here. So a partner is asked for sets
of a least size, has a number of queries, and may not compare two answers on nearly the same set,
which would tell of the few people in which they differ. ``matching.db`` keeps, per run and partner,
sizes, counts and a keyed sketch of the own set, never a key. Every decision is in the audit log.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from consilo.errors import Refused
from consilo.jobs.match import Match, MatchQuestion
from consilo.machine.database import open_database
from silos.gate.audit import audit_log, salted
from silos.gate.policy import MatchingRules

_DAY_S = 86_400.0
_TABLE = """
CREATE TABLE IF NOT EXISTS queries (
    run_id TEXT, partner TEXT, at REAL, recipe TEXT, dataset TEXT, own INTEGER, sketch BLOB,
    set_digest TEXT, theirs INTEGER, common INTEGER, PRIMARY KEY (run_id, partner));
"""


class MatchLog:
    """The queries of one silo.

    Args:
        directory: the silo's; ``matching.db`` is made in it at the first query.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._path = directory / "matching.db"

    def begin(self, question: MatchQuestion, rules: MatchingRules | None, *, now: datetime) -> None:
        """Count a query with every partner, once a run.

        Raises:
            Refused: where the rules do not allow it; then it does not count.
        """
        try:
            if rules is None:
                raise Refused(
                    "this silo's policy has no section 'matching': it is matched with nobody",
                    code="matching",
                )
            self._permit(question, rules, now.timestamp())
        except Refused as cause:
            self._note(question, decision="refused", code=cause.code, reason=str(cause))
            raise
        with self._open() as database:
            database.executemany(
                "INSERT OR IGNORE INTO queries (run_id, partner, at, recipe, dataset, own, sketch,"
                " set_digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        question.run_id,
                        partner,
                        now.timestamp(),
                        question.recipe_hash,
                        question.dataset,
                        question.num_entities,
                        question.sketch.astype("<u8").tobytes(),
                        question.set_digest,
                    )
                    for partner in question.partners
                ],
            )
        self._note(question, decision="allowed")

    def judge(
        self,
        run_id: str,
        partner: str,
        rules: MatchingRules | None,
        *,
        num_theirs: int,
        num_common: int | None,
        now: datetime,
    ) -> None:
        """Take in what is known of a partner's set.

        Raises:
            Refused: where it, or what is common, is too small, or nearly that of an earlier query.
        """
        cause = self._judged(run_id, partner, rules, num_theirs, num_common, now.timestamp())
        counts = {"theirs": num_theirs, "common": num_common}
        known = salted({"run": run_id, "partner": partner, **counts})
        if cause is not None:
            self._chain().append("match", decision="refused", code=cause.code, **known)
            raise cause
        with self._open() as database:
            database.execute(
                "UPDATE queries SET theirs = ?, common = coalesce(common, ?)"
                " WHERE run_id = ? AND partner = ?",
                (num_theirs, num_common, run_id, partner),
            )
        if num_common is not None:
            self._chain().append("match", decision="disclosed", **known)

    def kept(self, match: Match) -> None:
        """Note that a match is kept."""
        self._chain().append(
            "match",
            decision="kept",
            handle=match.handle,
            partners=list(match.partners),
            recipe=match.recipe_hash,
            expires=match.expires.isoformat(),
            **salted({"rows": len(match.rows)}),
        )

    def _permit(self, question: MatchQuestion, rules: MatchingRules, now: float) -> None:
        if rules.partners is not None:
            others = sorted(set(question.partners) - set(rules.partners))
            if others:
                raise Refused(
                    f"this silo's policy does not let it be matched with '{others[0]}'",
                    code="partner",
                )
        approved = rules.recipes
        if approved is not None and not any(question.recipe_hash.startswith(h) for h in approved):
            raise Refused(
                f"nobody in this silo has approved the key recipe {question.recipe_hash[:16]}; its "
                "operator puts the hash under matching.recipes in the policy",
                code="recipe",
            )
        if question.num_entities < rules.min_set_size:
            raise Refused(
                f"this silo's policy wants {rules.min_set_size} people at least in a match; it "
                "has fewer",
                code="set_size",
            )
        for partner in question.partners:
            earlier = self._earlier(question.run_id, partner, now - rules.window_days * _DAY_S)
            if len(earlier) >= rules.queries_per_partner:
                raise Refused(
                    f"this silo's policy lets '{partner}' ask {rules.queries_per_partner} times in "
                    f"{rules.window_days:g} days, and it has",
                    code="queries",
                )
            for row in earlier:
                self._require_unlike(question, row, rules)

    def _require_unlike(
        self, question: MatchQuestion, row: dict[str, Any], rules: MatchingRules
    ) -> None:
        """Raise `Refused` where the set is nearly an earlier one, under whatever recipe and name.

        Keys that another recipe makes may all be others, for the same people: then their number
        tells. The same number is taken for the same people.
        """
        if row["set_digest"] == question.set_digest:
            return
        before = np.frombuffer(row["sketch"], "<u8").astype(np.uint64)
        distance = sketch_distance(before, question.sketch)
        if row["dataset"] == question.dataset and row["recipe"] != question.recipe_hash:
            more = abs(row["own"] - question.num_entities) / max(row["own"], 1)
            distance = min(distance, more or distance)
        if distance < rules.refuse_similar:
            raise Refused(
                "this silo's people are nearly, but not quite, those of an earlier match with the "
                "same partner; the two answers would tell of single people",
                code="similar",
            )

    def _judged(
        self,
        run_id: str,
        partner: str,
        rules: MatchingRules | None,
        num_theirs: int,
        num_common: int | None,
        now: float,
    ) -> Refused | None:
        if rules is None:
            return Refused("this silo's policy has no section 'matching'", code="matching")
        if num_theirs < rules.min_set_size:
            return Refused(
                f"this silo's policy wants {rules.min_set_size} people at least in a match; "
                f"'{partner}' has fewer",
                code="set_size",
            )
        if num_common is None:
            return None
        if num_common < rules.min_intersection:
            return Refused(
                f"this silo's policy wants {rules.min_intersection} people at least in common; "
                f"with '{partner}' there are fewer; where there is none, the silo's log shows what "
                "its own keys look like",
                code="intersection",
            )
        share = rules.refuse_similar
        if self._is_judged(run_id, partner):  # by what it was at first, which is what is compared
            return None
        for row in self._earlier(run_id, partner, now - rules.window_days * _DAY_S):
            if row["theirs"] is None or row["common"] is None:
                continue
            theirs = abs(row["theirs"] - num_theirs) / max(row["theirs"], 1)
            common = abs(row["common"] - num_common) / max(row["common"], 1)
            if theirs < share and common < share and (theirs or common):
                return Refused(
                    f"the people of '{partner}' are nearly, but not quite, those of an earlier "
                    "match; the two answers would tell of single people",
                    code="similar",
                )
        return None

    def _is_judged(self, run_id: str, partner: str) -> bool:
        with self._open() as database:
            query = "SELECT common FROM queries WHERE run_id = ? AND partner = ?"
            row = database.execute(query, (run_id, partner)).fetchone()
        return row is not None and row[0] is not None

    def _earlier(self, run_id: str, partner: str, since: float) -> list[dict[str, Any]]:
        with self._open() as database:
            database.row_factory = sqlite3.Row
            found = database.execute(
                "SELECT * FROM queries WHERE partner = ? AND at >= ? AND run_id != ?",
                (partner, since, run_id),
            ).fetchall()
        return [dict(row) for row in found]

    def _note(self, question: MatchQuestion, **decision: Any) -> None:
        self._chain().append(
            "match",
            run=question.run_id,
            handle=question.handle,
            partners=list(question.partners),
            recipe=question.recipe_hash,
            contract=question.contract,
            dataset=question.dataset,
            purpose=question.purpose,
            **salted({"own": question.num_entities}),
            **decision,
        )

    def _chain(self) -> Any:
        return audit_log(self._directory)

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        database = open_database(self._path, lasting=True, schema=_TABLE)
        with contextlib.closing(database), database:
            yield database


def sketch_distance(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> float:
    """Return an estimate of the Jaccard distance of the sets behind two bottom-k sketches."""
    size = min(len(one), len(other))
    union = np.union1d(one, other)[: max(len(one), len(other))]
    if not len(union):
        return 0.0 if size == len(one) == len(other) else 1.0
    both = np.intersect1d(np.intersect1d(one, other), union)
    return 1.0 - len(both) / len(union)
