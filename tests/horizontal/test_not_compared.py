"""A private run with figures says that they stand beside no constant prediction."""

from __future__ import annotations

import clinic
import pytest

from silos import simulate

PRIVACY = {"epsilon": 5.0, "delta": 1e-4, "accountant": "rdp", "metrics_epsilon": 3.0}


@pytest.mark.parametrize("private", [True, False])
def test_a_noisy_accuracy_is_said_to_be_compared_with_nothing(tmp_path, private):
    job = clinic.job(
        privacy=PRIVACY if private else None,
        local={"lr": 0.05, "steps": 2} if private else {},
        protocol={"rounds": 1},
    )
    frames = {"a": clinic.frame(1500, 0), "b": clinic.frame(1500, 1)}
    result = simulate(job, frames, contract=clinic.contract(), directory=tmp_path / "home")
    assert "accuracy" in result.metrics, result.reason
    told = [note for note in result.notes if "no comparison with a constant" in note]
    assert (len(told), bool(result.constant)) == ((1, False) if private else (0, True))
