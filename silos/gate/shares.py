"""Which shares of the rows jobs have held out here, so that no two of them tell single rows apart.

A row's side is its own number held against a job's share (`consilo.horizontal.holdout`). A share
that is moved by a hair moves one row, and two exact updates, one before and one after, differ by
that row's gradient, whatever number of rows each is made of. So the silo keeps the ends of the
shares and folds that exact answers were made of, and takes another one only where no row, or as
many rows as the policy's ``min_rows`` of what leaves, lie between it and its neighbours. The same
holds for the rows that one job drops for a missing feature and another does not, and for a split
by a column beside shares and other splits.

Where no exact statistic is to leave the exact numbers of rows on either side are all that does; the
places at which rows were cut are kept for that, too, and are few (`Shares.require_few`).

It holds for what a job's settings move. What else makes two answers differ by a row, such as a row
that came in between, only differential privacy hides: see docs/threat-model.md.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob, Refused, SchemaDrift
from consilo.horizontal.features import Encoding
from consilo.horizontal.holdout import (
    PURPOSE,
    TEST,
    TRAIN,
    Words,
    ends_of,
    sides,
    unit_numbers,
)
from consilo.jobs.job import Evaluation
from consilo.jobs.table_job import TableJob
from consilo.kernel.verbs import Asked, FromRows, Permitted
from silos.kept.store import Store
from silos.rows.tables import Tables

if TYPE_CHECKING:
    import pandas as pd

Sides = npt.NDArray[np.int8]

_BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Shares:
    """What a silo's guard asks before an exact answer is made.

    Args:
        rows: the silo's tables.
        store: what it remembers.
    """

    rows: Tables
    store: Store

    def require_few(self, job: TableJob, contract: Contract, *, most: int) -> None:
        """Keep where a job cuts the rows, of which exact numbers are told and nothing else.

        Args:
            job: over the silo's own rows.
            contract: what they obey.
            most: places, over all jobs.

        Raises:
            Refused: where they would be more.
        """
        ends = ends_of(job.evaluation)
        kind = f"{contract.digest}/counted"
        while ends is not None:
            known = self.store.cuts(kind)
            new = {str(each) for each in ends} - known.keys()
            if len(known) + len(new) > most:
                told = ", ".join(f"{int(each) / 2**64:.4g}" for each in sorted(known, key=int))
                raise Refused(
                    f"this silo has told how many rows lie on either side of {len(known)} shares, "
                    f"and would tell it of {most} (evaluation.shares of its policy): use one of "
                    f"those, {told}",
                    code="holdout",
                )
            if not new or self.store.keep_cuts(kind, known, dict.fromkeys(new, 1)):
                return

    def too_near(
        self, job: TableJob, contract: Contract, asked: Asked, permitted: Permitted
    ) -> dict[str, str]:
        """Return which optional fields are not to leave, and why; keep the job's share.

        Args:
            job: over the silo's own rows.
            contract: what they obey.
            asked: what its verb would let leave.
            permitted: what of it, and of how many rows it must be made.

        Raises:
            Refused: where this share and an earlier one tell few rows apart.
        """
        ends, floors = ends_of(job.evaluation), _floors(job, asked, permitted)
        most = max(floors.values(), default=1)
        if most < 2:
            return {}
        # A share is its ends, as texts; a split by a column its own text.
        split = job.evaluation.model_dump_json(include={"split"})
        wanted = {split} if ends is None else {str(each) for each in ends}
        drops = job.features.missing == "drop"
        kind, other = (f"{contract.digest}/{each}" for each in (drops, not drops))
        while True:
            known = self.store.cuts(kind)
            if all(known.get(each, 0) >= most for each in wanted):
                return {}
            try:
                numbers = self._numbers(job, contract)
                cuts = {int(each) for each in known if each.isdigit()}
                splits = [each for each in known if not each.isdigit()]
                if ends is None:
                    few = self._apart(job, contract, cuts, [split], splits)
                else:
                    few = _between(numbers, ends, cuts)
                    few = min(few, self._apart(job, contract, ends, splits, ()))
                if not known and self.store.cuts(other):
                    changed = job.changed(features={"missing": "mean" if drops else "drop"})
                    dropped = abs(len(self._numbers(changed, contract)) - len(numbers))
                    few = min(few, dropped or few)
            except (IncompatibleJob, SchemaDrift):  # nothing that is made of rows leaves
                return {}
            near = {name: _said(least) for name, least in floors.items() if few < least}
            optional = {each.name for each in asked.fields if each.optional}
            for name, why in near.items():
                if name not in optional:
                    raise Refused(why, code="group")
            least = max((least for name, least in floors.items() if name not in near), default=1)
            if least < 2:
                return near
            new = {each: max(least, known.get(each, 0)) for each in wanted}
            if self.store.keep_cuts(kind, known, new):
                return near

    def _apart(
        self,
        job: TableJob,
        contract: Contract,
        cuts: Collection[int],
        splits: Collection[str],
        others: Collection[str],
    ) -> float:
        """Return the fewest rows, but none, by which splits differ from shares and other splits.

        Args:
            job: says which rows can be learnt from.
            contract: what they obey.
            cuts: ends of shares, below which rows are held out.
            splits: as they are kept.
            others: more of them.
        """
        if not splits or not (cuts or others):
            return math.inf
        found = [np.zeros(0, np.uint64)]
        on: dict[str, list[Sides]] = {each: [np.zeros(0, np.int8)] for each in (*splits, *others)}
        for block, key in self._usable(job, contract):
            found.append(unit_numbers(block, contract, key))
            for each, sofar in on.items():
                evaluation = Evaluation.model_validate_json(each)
                sofar.append(sides(block, contract, evaluation, key))
        numbers = np.concatenate(found)
        told = {each: np.concatenate(parts) for each, parts in on.items()}
        shares = [np.where(numbers < np.uint64(each), TEST, TRAIN) for each in cuts]
        counts = [
            len(np.unique(numbers[(told[split] == side) != (other == side)]))
            for split in splits
            for other in (*shares, *(told[each] for each in others if each != split))
            for side in (TRAIN, TEST)
        ]
        return min((each for each in counts if each), default=math.inf)

    def _numbers(self, job: TableJob, contract: Contract) -> Words:
        """Return the numbers of the rows that a job may learn from, sorted, equal ones once."""
        found = [np.zeros(0, np.uint64)]
        for block, key in self._usable(job, contract):
            found.append(unit_numbers(block, contract, key))
        return np.unique(np.concatenate(found))

    def _usable(self, job: TableJob, contract: Contract) -> Iterator[tuple[pd.DataFrame, bytes]]:
        """Yield the rows that a job may learn from, in blocks, with the key of their numbers."""
        frame = self.rows.frame(contract, purpose=job.purpose)
        encoding, key = Encoding.plan(contract, job), self.store.lasting(PURPOSE)
        for start in range(0, len(frame), _BLOCK_ROWS):
            yield encoding.usable(frame.iloc[start : start + _BLOCK_ROWS]), key


def _floors(job: TableJob, asked: Asked, permitted: Permitted) -> dict[str, int]:
    """Return of how many rows each field must be made that would leave exactly.

    What is noisy counts as exact where the policy does not want noise: nothing bounds then how
    often it is asked, and the mean of many answers is as good as exact.
    """
    return {
        each.name: max(permitted.floors.get(disclosure, 1) for disclosure in each.disclosures)
        for each in asked.fields
        if each.name not in permitted.withheld
        and each.rows not in (FromRows.NONE, FromRows.CHECKED, FromRows.MATCH)
        and not (permitted.wants_privacy and job.privacy is not None)
    }


def _between(numbers: Words, ends: Collection[int], known: Collection[int]) -> float:
    """Return the fewest rows, but none, between an end and one beside it; infinity without any."""
    places = sorted({*ends, *known})
    found = np.searchsorted(numbers, np.array(places, np.uint64))
    counts = [
        int(after - before)
        for (low, before), (high, after) in pairwise(zip(places, found, strict=True))
        if low in ends or high in ends
    ]
    return min((each for each in counts if each), default=math.inf)


def _said(least: int) -> str:
    return (
        f"fewer than {least} of this silo's rows lie between this job's share of the rows and one "
        "that was asked before, so that two exact answers would tell of them; use the same share, "
        "or one that differs by more"
    )
