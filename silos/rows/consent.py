"""Consent per row: only rows whose subject allows the job's purpose, now, are used for anything.

The answer for a purpose holds until the next moment at which a consent begins or ends; until then
a message costs a few file stats. A withdrawal changes the consent table, so the next message reads
it again and throws away every cached table that was made under another answer. What cannot be read
allows nothing: a table, a date, a subject. Names of subjects are in no file that this module
writes and in no message; `ConsentFilter.counts` is all that may be told.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import model_validator

from consilo.config import Config
from consilo.errors import ConsiloError, Refused
from consilo.machine.files import write_atomic
from consilo.machine.locks import file_lock
from silos.rows.consent_columns import (
    Moments,
    content,
    keys_of,
    moments_of,
    read_columns,
    sorted_where,
)
from silos.rows.sources import Source

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray


REASONS = ("withdrawn", "expired", "other_purpose", "none")
"""Why a row may not be used, the first that holds: see `Records.judged`."""
_CONSENTED = -1
_MEMO = "consent.json"


class Consent(Config):
    """Where a data set's consents are; ``consent: {NAME: …}`` in ``silo.yaml``.

    Args:
        source: the table of consents; None where they are columns of the data set itself.
        subject: the column of the data set that says whose row it is. It may be left out where the
            consents are columns of the data set: then each row stands for itself.
        key: the subject's column in the table of consents; None where it has the same name.
        purpose: its column that says what the consent is for.
        purposes: what it says there → the purposes of jobs that this covers; None where it says
            a job's purpose itself. What is not listed covers nothing.
        granted_at: its column that says since when; None where consents hold from the start.
        expires: its column that says until when; an empty cell means for ever.
        withdrawn_at: its column that says when the subject withdrew; an empty cell means never.
        date_format: of these columns, such as ``%d.%m.%Y``; None for ISO 8601. A date without a
            time is its first moment, one without a zone is UTC.
    """

    source: Source | None = None
    subject: str | None = None
    key: str | None = None
    purpose: str
    purposes: dict[str, tuple[str, ...]] | None = None
    granted_at: str | None = None
    expires: str | None = None
    withdrawn_at: str | None = None
    date_format: str | None = None

    @model_validator(mode="after")
    def _says_whose_row_it_is(self) -> Self:
        if self.source is not None and self.subject is None:
            raise ValueError("subject: which column of the data set says whose row it is?")
        if self.source is None and self.key is not None:
            raise ValueError("key is for a table of its own; remove it, or name the source")
        return self

    def resolve(self, directory: Path) -> Self:
        """Return the consent with relative paths starting at ``directory``."""
        if self.source is None:
            return self
        return self.model_copy(update={"source": self.source.resolve(directory)})

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        options = self.model_dump(mode="json", exclude={"source"})
        options["source"] = None if self.source is None else self.source.description
        text = json.dumps(options, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns to read of the table that holds the consents."""
        key = self.key or self.subject
        dates = (self.granted_at, self.expires, self.withdrawn_at)
        return tuple(dict.fromkeys(each for each in (key, self.purpose, *dates) if each))


@dataclass(frozen=True)
class Records:
    """Consents, one per position.

    Args:
        subjects: whose; a number per subject, -1 where the table does not say.
        purposes: what for, as the table says it; None where it does not.
        granted: since when; -inf for ever, +inf where the date cannot be read.
        expires: until when; +inf for ever, -inf where the date cannot be read.
        withdrawn: when it was withdrawn; +inf for never, -inf where the date cannot be read.
    """

    subjects: NDArray[np.int64]
    purposes: NDArray[np.object_]
    granted: Moments
    expires: Moments
    withdrawn: Moments

    def judged(
        self, covering: Sequence[str], num_subjects: int, now: float
    ) -> tuple[NDArray[np.int8], float, float]:
        """Return for each subject how it stands, and the moments between which this holds.

        A consent holds for a purpose that it covers, from when it was granted until it expires or
        is withdrawn. A withdrawal ends all consents that the subject gave for the purpose before:
        a second form that nobody crossed out does not outlive it; one granted later does.

        Args:
            covering: what the table says for consents that cover the purpose.
            num_subjects: subjects are 0 … num_subjects - 1.
            now: the moment.

        Returns:
            Per subject -1 for "consented", else a position in `REASONS`; the last change at or
            before ``now``, the first after it.
        """
        import pandas as pd

        known = self.subjects >= 0
        about = known & pd.Series(self.purposes, dtype=object).isin(list(covering)).to_numpy()
        of = self.subjects[about]
        granted, expires = self.granted[about], self.expires[about]
        withdrawn = self.withdrawn[about]
        gone = withdrawn <= now
        # What cannot be read could have been a moment ago.
        last = np.full(num_subjects, -math.inf)
        np.maximum.at(last, of[gone], np.where(np.isneginf(withdrawn), math.inf, withdrawn)[gone])
        ended = np.zeros(num_subjects, dtype=bool)
        ended[of[gone]] = True
        voided = ended[of] & ~(granted > last[of])
        holds = (granted <= now) & (now < expires) & ~gone & ~voided
        standing = np.full(num_subjects, REASONS.index("none"), dtype=np.int8)
        standing[self.subjects[known]] = REASONS.index("other_purpose")
        standing[of] = REASONS.index("expired")
        standing[ended] = REASONS.index("withdrawn")
        standing[of[holds]] = _CONSENTED
        moments = np.concatenate([granted, expires, withdrawn])
        moments = moments[np.isfinite(moments)]
        before, after = moments[moments <= now], moments[moments > now]
        return standing, float(before.max(initial=-math.inf)), float(after.min(initial=math.inf))


@dataclass(frozen=True)
class ConsentFilter:
    """Which rows of a data set one purpose may use now; a `silos.rows.sources.RowFilter`.

    Args:
        digest: changes whenever another row may be used.
        counts: ``rows``, ``consented``, and of the others how many for which reason; nothing else
            about consent leaves this module.
        since: the moment that it holds from.
        until: the moment that it holds until, itself not included; +inf for ever.
        book: where the consents are.
        purpose: the job's.
    """

    digest: str
    counts: dict[str, int]
    since: float
    until: float
    book: ConsentBook
    purpose: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The data set's columns that it looks at."""
        spec = self.book.spec
        return spec.columns if spec.subject is None else (spec.subject,)

    def keep(self, block: pa.Table) -> NDArray[np.bool_]:
        """Return for each row of a block whether it may be used.

        Raises:
            Refused: where the consents changed since the filter was made.
        """
        if self.book.spec.subject is None:
            return self.book.rows_alone(block, self.purpose, self.since)
        allowed = self._allowed
        keys = keys_of(block.column(self.book.spec.subject)).to_pylist()
        return np.fromiter((key in allowed for key in keys), dtype=bool, count=len(keys))

    @cached_property
    def _allowed(self) -> frozenset[str]:
        again = self.book.decide(self.purpose, self.since)
        if again.answer.digest != self.digest:
            raise Refused("the silo's consents changed meanwhile; ask again", code="consent")
        return frozenset(again.allowed.to_pylist())


@dataclass(frozen=True)
class _Answer:
    """What is remembered of a decision, in the cache's folder."""

    digest: str
    counts: dict[str, int]
    since: float
    until: float


@dataclass(frozen=True)
class _Decision:
    answer: _Answer
    allowed: pa.Array


class ConsentBook:
    """The consents of one data set.

    Args:
        data: the data set's name.
        spec: where its consents are.
        rows: the data set.
        cache: the silo's cache folder.
    """

    def __init__(self, data: str, spec: Consent, rows: Source, cache: Path) -> None:
        self.data = data
        self.spec = spec
        self._rows = rows
        self._cache = cache

    def filter(self, purpose: str, *, now: datetime) -> ConsentFilter:
        """Return which rows may be used for ``purpose``; ask it anew for every message.

        Tables of the cache that were made under another answer are deleted, before anything else
        is done.

        Raises:
            Refused: where the consents cannot be read: then no row may be used.
        """
        moment = now.astimezone(UTC).timestamp()
        self._cache.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file_lock(self._cache / "consent.lock"):
            try:
                state = self._state()
                known = self._remembered()
                answers = known.get("answers", {}) if known.get("state") == state else {}
                answer = answers.get(purpose)
                fresh = all(_holds(each, moment) for each in answers.values())
                if answer is None or not fresh:
                    asked = {*known.get("answers", {}), purpose}
                    made = {each: self.decide(each, moment).answer for each in sorted(asked)}
                    self._forget_others(known, made)
                    self._remember(state, made)
                    answer = made[purpose]
            except ConsiloError:
                raise Refused(
                    f"the consents for the data set '{self.data}' cannot be read, so no row may "
                    "be used; the silo's own log says why",
                    code="consent",
                ) from None
        return ConsentFilter(
            answer.digest, dict(answer.counts), moment, answer.until, self, purpose
        )

    def decide(self, purpose: str, now: float) -> _Decision:
        """Return the answer for a purpose at a moment, from the tables themselves."""
        spec = self.spec
        records, subjects, whose = self._read()
        standing, before, after = records.judged(self._covering(purpose), len(subjects), now)
        rows = np.full(len(whose), REASONS.index("none"), dtype=np.int8)
        rows[whose >= 0] = standing[whose[whose >= 0]]
        counts = {"rows": len(rows), "consented": int(np.sum(rows == _CONSENTED))}
        counts |= {name: int(np.sum(rows == at)) for at, name in enumerate(REASONS)}
        facts: list[Any] = [spec.digest, purpose]
        there = np.zeros(len(subjects), dtype=bool)
        if spec.subject is None:
            # The rows are in the cache's key already; what else counts is which moments are past.
            facts.append(str(before))
        else:
            there[whose[rows == _CONSENTED]] = True
        allowed = sorted_where(subjects, there)
        digest = hashlib.sha256(json.dumps(facts).encode())
        for part in content(allowed):
            digest.update(part)
        return _Decision(_Answer(digest.hexdigest(), counts, now, after), allowed)

    def rows_alone(self, rows: pa.Table, purpose: str, now: float) -> NDArray[np.bool_]:
        """Return which rows may be used where each row holds its own consent."""
        records = self._records(rows, np.arange(rows.num_rows))
        standing, _, _ = records.judged(self._covering(purpose), rows.num_rows, now)
        allowed: NDArray[np.bool_] = standing == _CONSENTED
        return allowed

    def _covering(self, purpose: str) -> list[str]:
        if self.spec.purposes is None:
            return [purpose]
        return [stated for stated, covered in self.spec.purposes.items() if purpose in covered]

    def _read(self) -> tuple[Records, pa.Array, NDArray[np.int64]]:
        """Return the consents, the subjects by number, and the number of each row's subject."""
        import pyarrow as pa

        spec = self.spec
        table = read_columns(spec.source or self._rows, spec.columns)
        if spec.subject is None:
            alone = np.arange(len(table))
            return self._records(table, alone), pa.nulls(len(table), pa.string()), alone
        subject = spec.subject
        rows = table if spec.source is None else read_columns(self._rows, [subject])
        in_table, in_rows = keys_of(table[spec.key or subject]), keys_of(rows[subject])
        chunks = [*in_table.chunks, *in_rows.chunks, pa.array([], pa.string())]
        both = pa.concat_arrays(chunks).dictionary_encode()
        numbers = both.indices.fill_null(-1).to_numpy().astype(np.int64)
        at, whose = numbers[: len(table)], numbers[len(table) :]
        return self._records(table, at), both.dictionary, whose

    def _records(self, table: pa.Table, subjects: NDArray[np.int64]) -> Records:
        spec = self.spec
        purposes = keys_of(table[spec.purpose]).to_numpy(zero_copy_only=False).astype(object)

        def moments(column: str | None, empty: float, unreadable: float) -> Moments:
            if column is None:
                return np.full(len(table), empty)
            return moments_of(table[column], spec.date_format, empty, unreadable)

        return Records(
            subjects=subjects,
            purposes=purposes,
            granted=moments(spec.granted_at, -math.inf, math.inf),
            expires=moments(spec.expires, math.inf, -math.inf),
            withdrawn=moments(spec.withdrawn_at, math.inf, -math.inf),
        )

    def _state(self) -> str:
        """Return what changes whenever an answer could change by other than time."""
        memo = self._cache / "fingerprints.json"
        sources = [self._rows, *([self.spec.source] if self.spec.source else [])]
        digests = [self.spec.digest, *(source.fingerprint(memo) for source in sources)]
        return hashlib.sha256(json.dumps(digests).encode()).hexdigest()

    def _remembered(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads((self._cache / _MEMO).read_bytes())[self.data]
            answers = {name: _Answer(**each) for name, each in known["answers"].items()}
            return {"state": known["state"], "answers": answers}
        return {}

    def _remember(self, state: str, answers: dict[str, _Answer]) -> None:
        place = self._cache / _MEMO
        known: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            known = json.loads(place.read_bytes())
        entries = {name: vars(each) for name, each in answers.items()}
        known[self.data] = {"state": state, "answers": entries}
        write_atomic(place, json.dumps(known).encode(), mode=0o600)

    def _forget_others(self, known: dict[str, Any], made: dict[str, _Answer]) -> None:
        """Delete what was made under another answer; the answers are remembered only after it."""
        before = known.get("answers")
        if before is not None and all(made[each].digest == before[each].digest for each in before):
            return
        forget_tables(self._cache)


def forget_tables(cache: Path) -> None:
    """Delete every table and every encoded row of a silo's cache, and the pages about them.

    All data sets' go: which rows an entry holds stands in none, and to make one again costs time,
    not harm. A reader that has one mapped keeps it until its message ends.
    """
    for place in [*cache.glob("*"), cache.parent / "gx"]:
        if place.is_dir() and not place.name.startswith("building-"):
            shutil.rmtree(place, ignore_errors=True)


def _holds(answer: _Answer, moment: float) -> bool:
    return answer.since <= moment < answer.until
