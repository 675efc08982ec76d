from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest
from opacus.accountants import RDPAccountant
from scipy import optimize, stats

from consilo.errors import IncompatibleJob
from consilo.privacy import renyi
from consilo.privacy.accounting import (
    CALIBRATION_TOLERANCE,
    least_epsilon,
    noise_multiplier,
    spent,
)


def test_golden_numbers() -> None:
    """Opacus 1.6: RDP 14.870, PRV 13.773; dp-accounting 0.6's PLD says 13.763."""
    spend = spent([(1.1, 0.05, 2000)], 1e-5)
    assert spend.epsilon_prv == pytest.approx(13.773, abs=5e-4)
    assert spend.epsilon_rdp == pytest.approx(14.870, abs=5e-4)
    assert spend.epsilon_prv == pytest.approx(13.763, abs=0.02)


def test_history_survives_json_and_its_order_does_not_matter() -> None:
    history = [(1.5, 0.05, 100), (2.0, 0.1, 50), (1.5, 0.05, 100)]
    whole = spent(history, 1e-5)
    assert spent(json.loads(json.dumps(history)), 1e-5) == whole
    assert spent([(2.0, 0.1, 50), (1.5, 0.05, 200)], 1e-5) == whole


def test_epsilon_grows_with_steps_and_falls_with_noise() -> None:
    by_steps = [spent([(2.0, 0.05, steps)], 1e-5) for steps in (0, 1, 10, 100, 400)]
    by_noise = [spent([(sigma, 0.05, 100)], 1e-5) for sigma in (4.0, 2.0, 1.0, 0.5)]
    for spends in (by_steps, by_noise):
        assert [each.epsilon_prv for each in spends] == sorted(each.epsilon_prv for each in spends)
        assert [each.epsilon_rdp for each in spends] == sorted(each.epsilon_rdp for each in spends)
    assert by_steps[0].epsilon_prv == 0.0
    assert by_steps[1].epsilon_prv > 0.0


@pytest.mark.parametrize(
    ("epsilon", "rate", "steps"), [(3.0, 0.02, 1500), (8.0, 0.1, 300), (1.0, 1.0, 10)]
)
def test_calibration_meets_the_target_and_wastes_little(
    epsilon: float, rate: float, steps: int
) -> None:
    sigma = noise_multiplier(target_epsilon=epsilon, delta=1e-4, sample_rate=rate, steps=steps)
    assert epsilon * 0.99 < spent([(sigma, rate, steps)], 1e-4).epsilon_prv <= epsilon
    smaller = sigma * (1 - 2 * CALIBRATION_TOLERANCE)
    assert spent([(smaller, rate, steps)], 1e-4).epsilon_prv > epsilon


def test_calibration_by_rdp() -> None:
    asked = {"target_epsilon": 3.0, "delta": 1e-5, "sample_rate": 0.05, "steps": 500}
    sigma = noise_multiplier(**asked, accountant="rdp")
    assert spent([(sigma, 0.05, 500)], 1e-5).epsilon_rdp <= 3.0
    assert sigma >= noise_multiplier(**asked)


@pytest.mark.parametrize("steps", [1, 10])
def test_full_batch_equals_the_analytic_gaussian(steps: int) -> None:
    """Oracle: Balle and Wang 2018, theorem 8; T steps at sigma are one at sigma / sqrt(T)."""
    sigma, delta = 5.0, 1e-5
    scale = sigma / math.sqrt(steps)

    def excess(epsilon: float) -> float:
        low = stats.norm.cdf(1 / (2 * scale) - epsilon * scale)
        high = stats.norm.cdf(-1 / (2 * scale) - epsilon * scale)
        return float(low - math.exp(epsilon) * high - delta)

    exact = optimize.brentq(excess, 1e-6, 50)
    found = spent([(sigma, 1.0, steps)], delta).epsilon_prv
    assert exact <= found <= exact + 0.021


def test_no_noise_costs_infinity_and_nothing_costs_nothing() -> None:
    assert spent([], 1e-5).epsilon_prv == 0.0
    assert math.isinf(spent([(0.0, 0.1, 1)], 1e-5).epsilon_prv)
    assert math.isinf(spent([(0.0, 0.1, 1), (1.0, 0.1, 1)], 1e-5).epsilon_rdp)


def test_a_large_epsilon_is_bounded_without_much_memory() -> None:
    spend = spent([(0.2, 0.5, 1000)], 1e-5)
    assert spend.epsilon_prv == spend.epsilon_rdp > 1000


@pytest.mark.parametrize(
    ("row", "delta"),
    [
        ((-1.0, 0.1, 1), 1e-5),
        ((math.nan, 0.1, 1), 1e-5),
        ((1.0, 0.0, 1), 1e-5),
        ((1.0, 1.1, 1), 1e-5),
        ((1.0, 0.1, -1), 1e-5),
        ((1.0, 0.1), 1e-5),
        ((1.0, 0.1, 1), 0.0),
        ((1.0, 0.1, 1), 1.0),
    ],
)
def test_odd_rows_are_refused(row: tuple[float, ...], delta: float) -> None:
    with pytest.raises(IncompatibleJob):
        spent([row], delta)


def test_odd_targets_are_refused() -> None:
    with pytest.raises(IncompatibleJob, match="above 0"):
        noise_multiplier(target_epsilon=0.0, delta=1e-5, sample_rate=0.1, steps=1)
    with pytest.raises(IncompatibleJob, match="raise epsilon"):
        noise_multiplier(
            target_epsilon=1e-3, delta=1e-5, sample_rate=1.0, steps=10, accountant="rdp"
        )


def test_importing_the_accounting_is_cheap() -> None:
    code = "import sys, consilo.privacy.accounting, consilo.privacy.noise, consilo.metrics;"
    code += "sys.exit(any(each in sys.modules for each in ('torch', 'opacus', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("delta", [1e-15, 1e-20])
def test_a_delta_within_the_rounding_of_prv_is_bounded_by_rdp(delta):
    """Opacus raised ValueError for it, in every silo."""
    spend = spent([(1.0, 0.01, 100)], delta)
    assert spend.epsilon_prv == spend.epsilon_rdp
    assert 3.0 < spend.epsilon_rdp < 50.0


def test_the_least_epsilon_is_that_of_the_most_noise():
    least = least_epsilon(1e-5, "rdp")
    sigma = noise_multiplier(
        target_epsilon=1.01 * least, delta=1e-5, sample_rate=0.01, steps=1, accountant="rdp"
    )
    assert sigma < 1e6
    with pytest.raises(IncompatibleJob, match="no noise keeps"):
        noise_multiplier(
            target_epsilon=0.99 * least, delta=1e-5, sample_rate=0.01, steps=1, accountant="rdp"
        )


def test_renyi_is_that_of_opacus_to_the_last_bit_without_the_rest_of_it():
    history = [(0.7, 0.013, 500), (1.3, 0.2, 17), (40.0, 1.0, 3)]
    code = (
        "import sys; from consilo.privacy.accounting import least_epsilon, _epsilon; "
        f"print(repr(_epsilon(tuple({history!r}), 1e-5, 'rdp'))); least_epsilon(1e-5, 'rdp'); "
        "sys.exit(any(each in sys.modules for each in ('torch', 'opacus')))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert list(renyi.ORDERS) == RDPAccountant.DEFAULT_ALPHAS
    theirs = RDPAccountant()
    theirs.history = history
    assert done.stdout.strip() == repr(float(theirs.get_epsilon(1e-5)))
    assert spent(history, 1e-5).epsilon_rdp == theirs.get_epsilon(1e-5)
