"""Noisy figures of merit: what is told of their noise is so; what is mostly noise is left out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from consilo.horizontal.private_figures import FIGURES_OF, GROUPS, noisy_tally
from consilo.metrics import MOST_NOISE, all_of, metrics_of, noise_of
from consilo.privacy.noise import SecretStream

BINARY = {"correct": 1.0, "log_loss_sum": 8.0, "scores_0": 1.0, "scores_1": 1.0}
REGRESSION = {
    "values": 0.0,
    "squared_error_sum": 4.0,
    "absolute_error_sum": 2.0,
    "target_sum": 1.0,
    "target_square_sum": 1.0,
}


def binary(num_rows: int) -> dict[str, np.ndarray]:
    places = np.arange(GROUPS, dtype=np.float64)
    shape = np.exp(-(((places - 12) / 6) ** 2)), np.exp(-(((places - 20) / 6) ** 2))
    scores = [np.round(each / each.sum() * num_rows / 2) for each in shape]
    return {
        "correct": np.asarray(0.8 * num_rows),
        "log_loss_sum": np.asarray(0.4 * num_rows),
        "scores_0": scores[0],
        "scores_1": scores[1],
    }


def regression(num_rows: int) -> dict[str, np.ndarray]:
    sums = {"values": 1.0, "squared_error_sum": 0.1, "absolute_error_sum": 0.25}
    sums |= {"target_sum": 0.1, "target_square_sum": 0.4}
    return {name: np.asarray(value * num_rows) for name, value in sums.items()}


def drawn(sums, bounds, num_rows: int, sigma: float, times: int):
    stream = SecretStream(bytes(32), "figures")
    return [
        noisy_tally(sums, bounds, num_rows, sigma, stream.child(str(number)))
        for number in range(times)
    ]


@pytest.mark.parametrize(
    ("sums", "bounds", "slack"), [(binary, BINARY, 3.0), (regression, REGRESSION, 1.3)]
)
def test_the_noise_that_is_told_is_the_spread_of_many_draws(sums, bounds, slack) -> None:
    """For the area under the curve what is told is a bound, and not far above the spread."""
    num_rows, tallies = 4000, drawn(sums(4000), bounds, 4000, 3.0, 400)
    spread = {
        name: float(np.std([all_of(each)[name] for each in tallies]))
        for name in noise_of(tallies[0])
    }
    exact = all_of({**sums(num_rows), "n": np.asarray(float(num_rows))})
    for name, told in noise_of(tallies[0]).items():
        found = spread[name] / (exact[name] if name in ("rmse", "mae") else 1.0)
        assert found / 1.25 <= told <= found * slack, (name, told, found)


def test_what_is_mostly_noise_is_left_out_and_nothing_is_told_as_perfect() -> None:
    few, many = (
        drawn(binary(30), BINARY, 30, 3.0, 20),
        drawn(binary(20_000), BINARY, 20_000, 3.0, 5),
    )
    assert all(metrics_of(each) == {} for each in few)
    assert all(set(metrics_of(each)) == {"accuracy", "log_loss", "roc_auc"} for each in many)
    assert all(max(noise_of(each).values()) < MOST_NOISE for each in many)
    assert noise_of({"n": 10.0, "correct": 8.0}) == {}


def test_what_silos_add_up_tells_more_than_one_of_them() -> None:
    from consilo.metrics import merge

    parts = drawn(binary(400), BINARY, 400, 3.0, 9)
    one, all_of_them = noise_of(parts[0])["accuracy"], noise_of(merge(parts))["accuracy"]
    assert all_of_them == pytest.approx(one / 3)


def test_what_noise_has_buried_is_told_and_does_not_just_lack():
    """Noise may make a count of rows negative: there is no figure then, and the run says so."""
    sums = {
        "n": 29.0,
        "correct": 25.0,
        "log_loss_sum": 9.0,
        "scores_0": np.array([-3.0, 2.0]),
        "scores_1": np.array([4.0, 9.0]),
        "values": 29.0,
        "target_sum": 10.0,
        "target_square_sum": 1.0,
        "squared_error_sum": -2.0,
        "absolute_error_sum": 0.0,
    }
    noisy = {**sums, **{f"noise_variance/{name}": 4.0 for name in sums if name != "n"}}
    errors = noise_of(noisy)
    assert {name for name, error in errors.items() if error == math.inf} == {
        "roc_auc",
        "rmse",
        "mae",
        "r2",
    }
    assert not set(metrics_of(noisy)) & {"roc_auc", "rmse", "mae", "r2"}


def test_a_private_job_can_have_just_the_figures_that_validate_names() -> None:
    found = {
        "binary": binary(40),
        "multiclass": {name: binary(40)[name] for name in ("correct", "log_loss_sum")},
        "regression": regression(40),
    }
    assert set(found) == set(FIGURES_OF)
    for kind, sums in found.items():
        bounds = dict.fromkeys(sums, 1e-9)
        noisy = noisy_tally(sums, bounds, 40, 1.0, SecretStream(bytes(32), kind))
        assert set(metrics_of(noisy)) == set(FIGURES_OF[kind])
