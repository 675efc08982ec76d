"""A data set's privacy account in words: what is charged to it, its limits, how it stands.

The account itself is kept by the silo (`silos.kept.ledger`); both sides speak of it in these terms.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from consilo.jobs.job import Unit
from consilo.privacy.accounting import HistoryRow
from consilo.privacy.unit import unit_of

Admit = Callable[[Sequence[HistoryRow]], None]
"""Given a run's history with the charge in it, raises where the run itself may not pay for it."""


@dataclass(frozen=True)
class Charge:
    """One use of a data set: what is reserved before it, and settled after.

    Args:
        run_id: for which run.
        step_id: names the question; asked the same again, nothing more is paid.
        mark: names its unit too (`consilo.privacy.unit`), and what the answer depends on besides
            the question, such as the rows; secret to everybody else. A question that is asked of
            other rows is another use.
        mechanism: ``dp_sgd``, ``gaussian_sums``, …; it names the unit (`consilo.privacy.unit`).
        sigma: noise multiplier, above 0.
        sample_rate: probability of each row to take part in a step, in (0, 1].
        steps: how many, 1 or more.
        rows: how many rows, or subjects, it is computed from.
        ahead: like steps that the same run is likely to ask for later; they are not reserved, and
            let what is dear to compute be computed once.
    """

    run_id: str
    step_id: str
    mark: str
    mechanism: str
    sigma: float
    sample_rate: float
    steps: int
    rows: int
    ahead: int = 0

    def __post_init__(self) -> None:
        if unit_of(self.mark) != unit_of(self.mechanism):
            raise ValueError(f"{self.mechanism}: mark and mechanism name two units of privacy")

    @property
    def unit(self) -> Unit:
        """What is hidden: a row, or a subject."""
        return unit_of(self.mechanism)

    @property
    def row(self) -> HistoryRow:
        """What the accountant sees."""
        return self.sigma, self.sample_rate, self.steps


@dataclass(frozen=True)
class Limit:
    """One of a budget's limits.

    Args:
        epsilon: what may be spent at most.
        days: within how many days; None is in all.
    """

    epsilon: float
    days: int | None

    def __str__(self) -> str:
        return "in all" if self.days is None else f"within {self.days} days"


@dataclass(frozen=True)
class Balance:
    """How an account stands at one limit.

    Args:
        limit: what may be spent.
        delta: at which ε is meant.
        before: ε of what is reserved.
        after: ε with what is asked for, both by the smaller of the bounds that were computed.
    """

    limit: Limit
    delta: float
    before: float
    after: float

    @property
    def left(self) -> float:
        """What is left before, 0 or more."""
        return max(0.0, self.limit.epsilon - self.before)

    @property
    def fits(self) -> bool:
        """Whether the account can pay."""
        return self.after <= self.limit.epsilon

    def refusal(self, account: str) -> str:
        """Return the sentence that says what an account cannot pay; names and numbers only."""
        return (
            f"the privacy account '{account}' cannot pay: this would bring it to ε "
            f"{self.after:.4g} at δ {self.delta:g}, the silo's budget {self.limit} is "
            f"{self.limit.epsilon:g}, of which {self.left:.4g} is left"
        )


@dataclass(frozen=True)
class Account:
    """How an account stands.

    Args:
        name: of the data set.
        reserved: uses that were reserved.
        settled: uses whose answer was given.
        balances: one for each limit; empty where the data set has no budget.
    """

    name: str
    reserved: int
    settled: int
    balances: tuple[Balance, ...]
