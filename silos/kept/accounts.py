"""The privacy accounts of a silo's data sets: its ledger, within the budgets of its policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from consilo.jobs.job import Unit
from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from silos.kept.budget import Budget, budget_of
from silos.kept.ledger import Ledger
from silos.kept.links import ELSEWHERE, Use


class Recogniser(Protocol):
    """Knows rows again that were charged for under another name."""

    def recognised(self, account: str) -> AbstractContextManager[Callable[[Use], None]]:
        """Link an account with those of the same rows; yield what notes a use beforehand."""
        ...


class Remembers(Protocol):
    """Knows whether the silo has forgotten what it spent."""

    def require_spent(self) -> None:
        """Raise `Refused` where it has; see `silos.gate.history`."""
        ...


class Accounts:
    """The role `consilo.kernel.roles.PrivacyAccount` over a ledger.

    Args:
        ledger: the silo's.
        budgets: by data set; ``*`` is every other one.
        same_rows: knows rows again.
        history: is asked before anything is reserved.
    """

    def __init__(
        self,
        ledger: Ledger,
        budgets: Mapping[str, Budget],
        same_rows: Recogniser,
        history: Remembers,
    ) -> None:
        self.ledger = ledger
        self._budgets = dict(budgets)
        self._same_rows = same_rows
        self._history = history

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Reserve a use of a data set within its budget; return the run's history up to it.

        Accounts with the same rows must be able to pay too. Whoever asks may begin a run without
        the question in which it is found out that the ledger was lost, so it is asked here.
        """
        self._history.require_spent()
        with self._same_rows.recognised(account) as note:
            return self.ledger.reserve(
                account,
                charge,
                self._budget(account),
                admit,
                budget_of=self._budget,
                before=lambda time: note((time, charge.step_id, charge.mark, *charge.row)),
            )

    def settle(self, step_id: str) -> None:
        """Note that a step's answer is kept."""
        self.ledger.settle(step_id)

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what a run has reserved so far: mechanism and (σ, q, steps)."""
        return self.ledger.run_charges(run_id)

    def quote(self, account: str, rows: Sequence[HistoryRow], unit: Unit = "record") -> Account:
        """Return how a data set's account would stand with ``rows`` besides, which hide a unit."""
        return self.ledger.quote(account, rows, self._budget(account), unit)

    def _budget(self, account: str) -> Budget | None:
        """Return the budget of a data set of this silo; none is known of one elsewhere."""
        return None if account.startswith(ELSEWHERE) else budget_of(self._budgets, account)
