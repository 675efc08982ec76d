"""The lower bound of ε holds, finds what is broken, and is below what is stated: in short form."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import audit_epsilon

FAILURE = audit_epsilon.FAILURE / len(audit_epsilon.PATHS)


def test_the_bound_is_below_the_truth_and_not_far_below_it() -> None:
    """Randomised response, which is right with a probability of e^ε / (1 + e^ε), costs ε."""
    for epsilon in (0.5, 1.0, 3.0):
        right = np.exp(epsilon) / (1 + np.exp(epsilon))
        bounds = []
        for seed in range(8):
            rng = np.random.default_rng(seed)
            truth = [rng.random(4000) < (1 - right), rng.random(4000) < right]
            without, with_ = (each.astype(float) for each in truth)
            bounds.append(audit_epsilon.lower_bound(without, with_, failure=FAILURE))
        assert max(bounds) <= epsilon
        assert np.mean(bounds) > 0.7 * epsilon


@pytest.mark.parametrize("name", audit_epsilon.PATHS)
def test_no_path_spends_more_than_it_states_and_broken_copies_are_caught(name: str) -> None:
    path = audit_epsilon.PATHS[name]()
    direction = path.exact(True) - path.exact(False)
    sound = audit_epsilon.audited(path.ask, direction, 30, failure=FAILURE)
    assert sound <= audit_epsilon.EPSILON
    assert path.broken
    for what, ask in path.broken.items():
        found = audit_epsilon.audited(ask, direction, 80, failure=FAILURE)
        assert found > audit_epsilon.EPSILON, what
