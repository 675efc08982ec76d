"""Kept ε is the accountants' own, to the last bit, and is computed once."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.privacy.accounting import spent
from consilo.privacy.curve import AHEAD, afresh, keep_ahead, kept_spend

DELTA = 1e-3


class Kept(dict[str, float]):
    """What a silo's store does, and how often it had to build."""

    built = 0

    def keep(self, key: str, build: Callable[[], float]) -> float:
        if key not in self:
            self.built += 1
            self[key] = build()
        return self[key]


@settings(max_examples=15)
@given(
    sigma=st.floats(0.8, 4.0),
    rate=st.floats(0.05, 0.5),
    steps=st.integers(1, 10),
    rounds=st.integers(1, 4),
)
def test_every_round_costs_exactly_what_it_costs_afresh(
    sigma: float, rate: float, steps: int, rounds: int
) -> None:
    kept, step = Kept(), (sigma, rate, steps)
    keep_ahead(kept.keep, [], step, DELTA, rounds=rounds)
    built = kept.built
    for number in range(1, rounds + 1):
        found = kept_spend(kept.keep, [step] * number, DELTA)
        assert found == spent([step] * number, DELTA)
        assert found == kept_spend(afresh, [(sigma, rate, steps * number)], DELTA)
    assert kept.built == built


def test_rounds_are_computed_in_batches_and_never_twice() -> None:
    kept, step, rounds = Kept(), (2.0, 0.1, 1), AHEAD + 5
    history, computed = [], []
    for number in range(1, rounds + 1):
        history.append(step)
        kept_spend(kept.keep, history, DELTA)
        computed.append(keep_ahead(kept.keep, history, step, DELTA, rounds=rounds - number))
    assert computed[0] == AHEAD
    assert sum(computed) == rounds - 1
    assert computed[-1] == 0
    assert kept.built == 2 * rounds


def test_another_history_or_delta_is_another_number() -> None:
    kept = Kept()
    one = kept_spend(kept.keep, [(1.0, 0.2, 8)], DELTA)
    assert kept_spend(kept.keep, [(1.0, 0.2, 9)], DELTA).epsilon_prv > one.epsilon_prv
    assert kept_spend(kept.keep, [(1.0, 0.2, 8)], DELTA / 10).epsilon_prv > one.epsilon_prv
    assert kept_spend(kept.keep, [], DELTA).epsilon_prv == 0.0
    assert kept_spend(kept.keep, [(0.0, 0.2, 8)], DELTA).epsilon_prv == float("inf")


def test_a_wrong_history_is_said_before_anything_is_kept() -> None:
    kept = Kept()
    with pytest.raises(Exception, match="noise multiplier"):
        kept_spend(kept.keep, [(-1.0, 0.2, 8)], DELTA)
    assert not kept
