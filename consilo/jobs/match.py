"""A match: which rows of this silo are the same people as which rows of the others.

Every silo keeps its own half under the same handle: numbers of its own rows, in an order that is
the same in all of them and that none of them chose. Place ``i`` of one silo and place ``i`` of
another are one entity.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np

from consilo.errors import Refused
from consilo.wire.payload import digest

HANDLE = r"^[a-z0-9][a-z0-9_-]{0,62}$"


@dataclass(frozen=True)
class MatchQuestion:
    """What a silo's policy is asked before any of its keys leaves, even blinded.

    Args:
        run_id: the run.
        handle: under which name the match shall be kept.
        partners: whom the silo would be matched with.
        recipe_hash: of the key recipe.
        contract: ``name@version``.
        dataset: the silo's data set.
        purpose: what for.
        num_entities: how many there are in the silo.
        sketch: uint64: the smallest keyed hashes of its strongest key's values, sorted.
        set_digest: keyed hash of that whole set.
    """

    run_id: str
    handle: str
    partners: tuple[str, ...]
    recipe_hash: str
    contract: str
    dataset: str
    purpose: str
    num_entities: int
    sketch: np.ndarray[Any, Any]
    set_digest: str


@dataclass(frozen=True)
class Match:
    """One silo's half of a match.

    Args:
        handle: its name, the same in all silos.
        rows: int64, [matched entities]: numbers of the silo's canonical rows, from 0, in the joint
            order; each at most once.
        partners: the other silos.
        recipe_hash: of the key recipe that all silos used.
        contract: ``name@version`` whose canonical rows the keys were made from.
        dataset: the silo's data set; every contract over it has the same rows in the same order.
        purpose: what the match was made for; consents were asked for it.
        created: when, with its zone.
        expires: from when on it is refused.
        report: the quality report that all silos may see: sizes, match rate, duplicates, drift.
        fingerprint: of the rows it was made on; the silo's software fills it in.
        run: id of the run that made it, the same in all silos.
    """

    handle: str
    rows: np.ndarray[Any, Any]
    partners: tuple[str, ...]
    recipe_hash: str
    contract: str
    dataset: str
    purpose: str
    created: datetime
    expires: datetime
    report: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: str = ""
    run: str = ""

    def __post_init__(self) -> None:
        """Raise `ValueError` where the parts do not make a match."""
        if not re.match(HANDLE, self.handle):
            raise ValueError(f"'{self.handle[:40]}' is no handle; use small letters, digits, _, -")
        if self.rows.dtype != np.int64 or self.rows.ndim != 1 or (self.rows < 0).any():
            raise ValueError("rows of a match are int64 numbers from 0 in one dimension")
        if len(np.unique(self.rows)) < len(self.rows):
            raise ValueError("a row can be matched once only")
        if self.created.tzinfo is None or self.expires.tzinfo is None:
            raise ValueError("the times of a match need their zone")

    @property
    def mark(self) -> str:
        """What the halves of one match have in common, and no other match has."""
        return digest([self.handle, self.recipe_hash, len(self.rows), self.run])

    def require_usable(self, *, purpose: str, fingerprint: str, now: datetime) -> None:
        """Raise `Refused` unless the match holds for these rows, this purpose and this time.

        Args:
            purpose: what it shall be used for.
            fingerprint: of the present rows.
            now: the time, with its zone.
        """
        if now >= self.expires:
            raise Refused(
                f"the match '{self.handle}' ended at {self.expires.isoformat()}; match again",
                code="match_expired",
            )
        if purpose != self.purpose:
            raise Refused(
                f"the match '{self.handle}' was made for the purpose '{self.purpose}', not for "
                f"'{purpose}'",
                code="match_purpose",
            )
        if fingerprint != self.fingerprint:
            raise Refused(
                f"the rows changed since the match '{self.handle}' was made; match again",
                code="match_stale",
            )
