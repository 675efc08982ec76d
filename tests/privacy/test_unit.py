"""What uses that hide subjects cost a row, and uses that hide rows a subject."""

from __future__ import annotations

import numpy as np
import pytest
from opacus.accountants import RDPAccountant
from opacus.accountants.analysis.rdp import compute_rdp

from consilo.privacy.account import Charge
from consilo.privacy.accounting import adjacency
from consilo.privacy.unit import named, plain, seen, unit_of

AT = np.linspace(-60.0, 60.0, 120_001)


def log_normal(mean: float, sigma: float) -> np.ndarray:
    return -(((AT - mean) / sigma) ** 2) / 2 - np.log(sigma * np.sqrt(2 * np.pi))


def mixture(mean: float, rate: float, sigma: float) -> np.ndarray:
    """The log density of a step in which a subject's vector takes part with a chance."""
    there = np.log(rate) + log_normal(mean, sigma)
    return there if rate == 1 else np.logaddexp(there, np.log1p(-rate) + log_normal(0, sigma))


@pytest.mark.parametrize("rate", [0.001, 0.02, 0.1, 0.3, 0.6, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("sigma", [0.6, 1.0, 1.7, 4.0])
def test_a_change_within_a_subject_costs_at_most_half_the_noise(rate, sigma) -> None:
    """From one end of the ball to the other, at all orders that can be integrated here.

    Rows that are added, removed or replaced move a subject's vector by that much at most; both
    directions are one, since the pair is its own mirror image.
    """
    one, other = mixture(1.0, rate, sigma), mixture(-1.0, rate, sigma)
    orders = [each for each in RDPAccountant.DEFAULT_ALPHAS if each < 30 * sigma]
    stated = compute_rdp(q=rate, noise_multiplier=sigma / 2, steps=1, orders=orders)
    for order, most in zip(orders, stated, strict=True):
        exponent = order * one + (1 - order) * other
        top = exponent.max()
        found = (top + np.log(np.sum(np.exp(exponent - top)) * (AT[1] - AT[0]))) / (order - 1)
        assert found <= most * (1 + 1e-6) + 1e-9, (order, found, most)


def test_a_unit_is_named_in_mechanism_and_mark() -> None:
    assert unit_of("dp_sgd") == "record"
    assert unit_of(named("dp_sgd", "subject")) == "subject"
    assert plain(named("dp_sgd", "subject")) == plain("dp_sgd") == "dp_sgd"
    assert adjacency("dp_sgd/subject").startswith("one subject, with all of its rows")
    with pytest.raises(ValueError, match="two units"):
        Charge("run", "step", "ab", "dp_sgd/subject", 1.0, 1.0, 1, 5)


def test_what_each_unit_sees_of_both() -> None:
    uses = [("record", (3.0, 0.5, 2)), ("subject", (4.0, 0.1, 7))]
    assert seen(uses, "record") == ([(3.0, 0.5, 2), (2.0, 0.1, 7)], False)
    assert seen(uses, "subject") == ([(4.0, 0.1, 7)], True)
