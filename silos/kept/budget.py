"""What a data set's privacy account may pay: within any period of days, and in all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field, model_validator

from consilo.config import Config
from consilo.errors import BudgetExhausted
from consilo.jobs.job import Unit
from consilo.privacy.account import Limit
from consilo.privacy.accounting import HistoryRow


class Budget(Config):
    """The privacy budget of one data set, over all jobs and all years.

    Data sets that hold the same rows pay for each other: the budget of each must be able to.

    ```yaml
    privacy:
      budgets:
        "*": {epsilon: 10, delta: 1.0e-5, window_days: 365, total_epsilon: 30}
    ```

    Args:
        epsilon: what all that was reserved within ``window_days`` may cost together, at ``delta``.
        delta: at which the account is kept, whatever the δ of the jobs; smaller than one over the
            number of rows.
        window_days: length of the rolling period; None makes ``epsilon`` the limit for ever.
        total_epsilon: what everything that was ever reserved may cost; None sets no such limit.
            A person who stays in the data is protected by this one; the period only slows down.
        min_noise_multiplier: what no single mechanism may fall below.
        unit: whose ε it bounds: a row's, or a subject's with all of its rows. One of subjects pays
            for mechanisms that hide subjects only, and bounds what rows cost besides while any
            use counts that was about rows.
    """

    epsilon: float = Field(gt=0, allow_inf_nan=False)
    delta: float = Field(gt=0, lt=1)
    window_days: int | None = Field(default=None, ge=1)
    total_epsilon: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    min_noise_multiplier: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    unit: Unit = "record"

    @model_validator(mode="after")
    def _limits_differ(self) -> Self:
        if self.total_epsilon is not None and self.window_days is None:
            raise ValueError(
                "total_epsilon: without window_days, epsilon is the limit in all; give one of them"
            )
        if self.total_epsilon is not None and self.total_epsilon < self.epsilon:
            raise ValueError("total_epsilon: must be at least epsilon")
        return self

    @property
    def limits(self) -> tuple[Limit, ...]:
        """What must hold at once."""
        found = [Limit(self.epsilon, self.window_days)]
        if self.total_epsilon is not None:
            found.append(Limit(self.total_epsilon, None))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Return the budget as plain JSON values; a unit is said where it is not a row."""
        return self.model_dump(mode="json", exclude={"unit"} if self.unit == "record" else None)

    def require_unit(self, unit: Unit) -> None:
        """Raise `BudgetExhausted` where a mechanism does not hide what the budget is about."""
        if self.unit == "subject" and unit == "record":
            raise BudgetExhausted(
                "this silo's budget is about subjects, and pays for nothing that hides single rows "
                "only; give the job privacy.unit 'subject'"
            )

    def require_noise(self, sigma: float) -> None:
        """Raise `BudgetExhausted` where a mechanism's noise multiplier is too small."""
        if sigma < self.min_noise_multiplier:
            raise BudgetExhausted(
                f"the job's noise multiplier would be {sigma:.3g}, this silo's budget wants "
                f"{self.min_noise_multiplier:g} or more; lower the job's ε, or let it train longer"
            )


def budget_of(budgets: dict[str, Budget], dataset: str) -> Budget | None:
    """Return the budget of a data set: its own, else that of ``*``, else None."""
    return budgets.get(dataset, budgets.get("*"))


def units_of(uses: Iterable[tuple[Unit, HistoryRow]], budget: Budget) -> tuple[Unit, ...]:
    """Return whose costs a budget bounds, given the uses that count.

    Rows', which are never below those of subjects; of a budget about subjects theirs alone, unless
    a use counts that was about rows: a change of unit gives no new budget.
    """
    if budget.unit == "record":
        return ("record",)
    if any(unit == "record" for unit, _ in uses):
        return ("record", "subject")
    return ("subject",)
