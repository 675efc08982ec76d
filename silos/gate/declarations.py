"""By which contract's cells exact tables were told of a data set, so that no two are laid over it.

Bins that are moved by a hair move one row from one to the next, and two exact tables, one before
and one after, tell which it is, whatever number of rows each cell is made of. A contract with other
bins, or one that calls the same columns something else, is such a move. So the silo keeps by which
declaration it has told anything exactly, and takes no other for these rows, under whatever name
they are listed, unless its operator writes that down (``statistics_on`` in the policy).

No job can move anything: which rows are meant, and what their cells are, follows from contract and
rows alone. What was held out by a share, and told of exactly before, is held against all rows as
one share is against another (`silos.gate.shares`).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from consilo.contracts.contract import Contract
from consilo.errors import Refused
from consilo.horizontal.asked.axes import Axes
from consilo.jobs.job import Evaluation
from consilo.jobs.table_job import TableJob
from consilo.kernel.verbs import Asked, Permitted
from silos.gate.shares import Shares
from silos.kept.store import Store
from silos.rows.tables import Tables

_NOTHING_HELD_OUT = {"evaluation": Evaluation(holdout=2.0**-80)}
_SHOWN = 12


@dataclass(frozen=True)
class Declarations:
    """What a silo's guard asks before tables on declared cells are told.

    Args:
        rows: the silo's tables.
        store: what it remembers.
        shares: which shares of the rows jobs have held out.
    """

    rows: Tables
    store: Store
    shares: Shares

    def require_one(
        self,
        job: TableJob,
        contract: Contract,
        asked: Asked,
        permitted: Permitted,
        allowed: Collection[str],
    ) -> None:
        """Keep by which declaration a data set is told of exactly.

        Args:
            job: over the silo's own rows.
            contract: what they obey, and what is declared.
            asked: what its verb would let leave.
            permitted: what of it, and of how many rows it must be made.
            allowed: digests of further declarations, or how they begin, that the operator admits.

        Raises:
            Refused: where it was told by another one, or where all rows and those that an earlier
                job learnt from differ by few.
        """
        if permitted.wants_privacy and job.privacy is not None:
            return  # paid: the ledger bounds how often it is asked, and on which bins
        own = Axes.of(contract).digest
        whole = job.model_copy(update=_NOTHING_HELD_OUT)
        self.shares.too_near(whole, contract, asked, permitted)
        dataset = self.rows.dataset(contract)
        for name in sorted({dataset, *self.rows.sharing(dataset)}):
            kind = f"{name}/declared"
            while True:
                known = self.store.cuts(kind)
                others = {each for each in known if each != own}
                admitted = any(own.startswith(each) for each in allowed)
                if others and own not in known and not admitted:
                    raise Refused(
                        "this silo has told of these rows on the cells of another declaration "
                        f"({min(others)[:_SHOWN]}); exact tables on both would tell of the rows "
                        "between their bins. Ask under that contract, or with "
                        "privacy.statistics_epsilon, or have the silo's operator list "
                        f"'{own[:_SHOWN]}' under statistics_on in its policy",
                        code="group",
                    )
                if own in known or self.store.keep_cuts(kind, known, {own: 1}):
                    break
