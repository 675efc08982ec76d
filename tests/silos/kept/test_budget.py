"""A budget's limits, and which budget a data set has."""

import pytest

from consilo.config import parse
from consilo.errors import BudgetExhausted, ConfigInvalid
from consilo.privacy.account import Limit
from silos.kept.budget import Budget, budget_of

BUDGET = {"epsilon": 3.0, "delta": 1e-5}


def test_without_a_period_the_limit_is_for_ever():
    assert Budget(**BUDGET).limits == (Limit(3.0, None),)
    assert str(Limit(3.0, None)) == "in all"


def test_a_period_and_a_total_hold_at_once():
    both = Budget(**BUDGET, window_days=365, total_epsilon=9.0)
    assert both.limits == (Limit(3.0, 365), Limit(9.0, None))
    assert str(both.limits[0]) == "within 365 days"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"epsilon": 0}, "above 0"),
        ({"epsilon": float("inf")}, "finite"),
        ({"delta": 1.0}, "below 1"),
        ({"window_days": 0}, "at least 1"),
        ({"total_epsilon": 9.0}, "without window_days"),
        ({"total_epsilon": 2.0, "window_days": 30}, "must be at least epsilon"),
        ({"windows_days": 30}, "window_days"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(changes, said):
    with pytest.raises(ConfigInvalid, match=said):
        parse(Budget, {**BUDGET, **changes}, where="policy.yaml")


def test_a_data_sets_own_budget_comes_before_that_of_all_others():
    own, others = Budget(**BUDGET), Budget(epsilon=9.0, delta=1e-5)
    assert budget_of({"a": own, "*": others}, "a") is own
    assert budget_of({"a": own, "*": others}, "b") is others
    assert budget_of({"a": own}, "b") is None


def test_the_least_noise_is_allowed_and_less_is_not():
    limit = Budget(**BUDGET, min_noise_multiplier=1.0)
    limit.require_noise(1.0)
    with pytest.raises(BudgetExhausted, match=r"0\.999"):
        limit.require_noise(0.999)
