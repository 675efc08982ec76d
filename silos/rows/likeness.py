"""How many of a silo's rows are alike, and how many lack a label: for the people in the silo.

Rows that are equal in all that a model sees tell nothing new. Where no key or date tells them apart
they are held out together, so that nothing is judged by what it was learnt from; where one does,
or a subject's rows are copies of another's, they may stand on both sides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.contract import Contract

if TYPE_CHECKING:
    import pandas as pd

_MANY = 0.05
"""A share of equal rows from which on figures of held-out rows are too good."""


@dataclass(frozen=True)
class Likeness:
    """What a silo's people should know of its rows.

    Args:
        rows: of the table.
        equal: rows that equal an earlier one in every feature and target.
        apart: rows that equal another one in every feature and target, though the split may put
            the two on different sides: their subjects differ or, without a subject, other columns.
        unlabelled: rows in which a target is empty.
    """

    rows: int
    equal: int
    apart: int
    unlabelled: int

    def to_json(self) -> dict[str, Any]:
        """Return the counts by name."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return what to say, a sentence each; nothing where there is nothing to say."""
        lines = []
        if self.unlabelled:
            lines.append(
                f"{self.unlabelled} of {self.rows} rows have no target: they are left out of "
                "training and evaluation, and can be scored"
            )
        if self.equal:
            lines.append(
                f"{self.equal} of {self.rows} rows ({self.equal / self.rows:.1%}) equal an earlier "
                "row in every feature and target"
            )
        if self.apart:
            warning = "; figures of held-out rows will be too good" if self._is_much else ""
            lines.append(
                f"{self.apart} of {self.rows} rows ({self.apart / self.rows:.1%}) have an equal "
                f"that may be on the other side of the held-out split{warning}: leave copies out, "
                "and give the column of who they are the role subject if none has it"
            )
        return lines

    @property
    def _is_much(self) -> bool:
        return self.apart > _MANY * self.rows


def likeness(blocks: Iterable[pd.DataFrame], contract: Contract) -> Likeness:
    """Return how many canonical rows are alike.

    Args:
        blocks: of the canonical table, in order.
        contract: what they obey.
    """
    seen = [*contract.features, *contract.targets]
    decides = [column.name for column in contract.table]
    if contract.subject is not None:
        decides = [contract.subject]
    alike, sides, rows, unlabelled = [], [], 0, 0
    for block in blocks:
        there = [name for name in seen if name in block]
        alike.append(_hashes(block, there))
        sides.append(_hashes(block, [name for name in decides if name in block]))
        targets = [name for name in contract.targets if name in block]
        unlabelled += int(block[targets].isna().any(axis=1).sum()) if targets else 0
        rows += len(block)
    if not rows or not seen:
        return Likeness(rows, 0, 0, unlabelled)
    values, side = np.concatenate(alike), np.concatenate(sides)
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    pairs = np.unique(np.stack([which.astype(np.uint64), side], axis=1), axis=0)
    num_sides = np.bincount(pairs[:, 0].astype(np.int64), minlength=len(counts))
    apart = int((num_sides[which] > 1).sum())
    return Likeness(rows, int(rows - len(counts)), apart, unlabelled)


def _hashes(block: pd.DataFrame, names: list[str]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    import pandas as pd

    if not names:
        return np.zeros(len(block), np.uint64)
    hashed = pd.util.hash_pandas_object(block[names], index=False)
    return np.asarray(hashed.to_numpy(), np.uint64)
