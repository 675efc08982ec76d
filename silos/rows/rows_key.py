"""The state of a data set's rows, which names what is kept of them: so it is never out of date."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from consilo.contracts.contract import Contract
from consilo.wire.payload import digest
from silos.rows.mapping import Mapping
from silos.rows.sources import RowFilter, Source

RULES_VERSION = 5
"""Raised when the same rows could be standardised, judged or encoded otherwise; what is kept of
them then lapses."""


@dataclass(frozen=True)
class RawRows:
    """Which rows a data set has for a purpose, and in which order.

    A match holds for these, whatever becomes of their values: the canonical table has all of them,
    in this order.

    Args:
        fingerprint: of the source's content and reading options.
        allowed: digest of what decides which of them may be used; None where all may.
    """

    fingerprint: str
    allowed: str | None = None

    @classmethod
    def of(cls, source: Source, keep: RowFilter | None, *, memo: Path) -> Self:
        """Return the state of a source as it is now; a few file stats where it has not changed.

        Args:
            source: the silo's rows.
            keep: which of them may be used; None for all.
            memo: remembers the hashes of unchanged files.

        Raises:
            SourceUnreadable: where a file or table is not there.
        """
        return cls(source.fingerprint(memo), None if keep is None else keep.digest)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal; matches are kept with it."""
        return digest([self.fingerprint, self.allowed or ""])


@dataclass(frozen=True)
class RowsKey:
    """The state of canonical rows: the raw ones, and all that makes a contract's table of them.

    Args:
        raw: the rows before the mapping.
        contract: digest of the contract.
        mapping: digest of the mapping.
        day: today in UTC, for a contract with rules about dates, since a table can break those by
            growing old; else None.
        rules: the version of the code that standardises, judges and encodes.
    """

    raw: RawRows
    contract: str
    mapping: str
    day: str | None
    rules: int

    @classmethod
    def of(cls, raw: RawRows, mapping: Mapping, contract: Contract, *, now: datetime) -> Self:
        """Return the state of the rows that ``mapping`` makes of ``raw`` now."""
        day = now.astimezone(UTC).date().isoformat() if contract.depends_on_today else None
        return cls(raw, contract.digest, mapping.digest, day, RULES_VERSION)

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal; canonical tables and encoded rows are kept under it."""
        raw = self.raw
        parts = [
            self.rules,
            raw.fingerprint,
            self.contract,
            self.mapping,
            self.day,
            raw.allowed,
        ]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
