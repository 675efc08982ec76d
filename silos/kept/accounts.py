"""The privacy accounts of a silo's data sets: its ledger, within the budgets of its policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from consilo.privacy.account import Account, Admit, Charge
from consilo.privacy.accounting import HistoryRow
from silos.kept.budget import Budget, budget_of
from silos.kept.ledger import Ledger


class Accounts:
    """The role `consilo.kernel.roles.PrivacyAccount` over a ledger.

    Args:
        ledger: the silo's.
        budgets: by data set; ``*`` is every other one.
    """

    def __init__(self, ledger: Ledger, budgets: Mapping[str, Budget]) -> None:
        self.ledger = ledger
        self._budgets = dict(budgets)

    def reserve(self, account: str, charge: Charge, admit: Admit) -> list[HistoryRow]:
        """Reserve a use of a data set within its budget; return the run's history up to it."""
        return self.ledger.reserve(account, charge, budget_of(self._budgets, account), admit)

    def settle(self, step_id: str) -> None:
        """Note that a step's answer is kept."""
        self.ledger.settle(step_id)

    def reserved(self, run_id: str) -> list[tuple[str, HistoryRow]]:
        """Return what a run has reserved so far: mechanism and (σ, q, steps)."""
        return self.ledger.run_charges(run_id)

    def quote(self, account: str, rows: Sequence[HistoryRow]) -> Account:
        """Return how a data set's account would stand with ``rows`` besides."""
        return self.ledger.quote(account, rows, budget_of(self._budgets, account))
