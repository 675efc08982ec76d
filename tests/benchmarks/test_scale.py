"""The benchmarks of simulation and of DP modes run, and their reports hold together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _report(name: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    assert set(found) == {"benchmark", "size", "load", "figures", "ratios", "left_out"}
    return found


@pytest.mark.slow
def test_every_way_to_clip_is_exact_and_the_rule_picks_for_every_family() -> None:
    report = _report("dp_modes")
    for family in ("mlp", "cnn", "transformer"):
        for way in ("chosen", "hooks", "functorch", "expanded", "ghost", "subjects"):
            assert report["figures"][f"{family}_{way}_error"] < 1e-5
            assert report["ratios"][f"{family}_{way}"] > 0
        assert report["figures"][f"{family}_picked_bookkeeping"] == 1.0


@pytest.mark.slow
def test_memory_does_not_grow_with_simulated_silos() -> None:
    report = _report("simulate")
    # Ten times the silos, from 3 to 30. Most is what the imports take; the first few silos fill
    # buffers that more of them do not (from 100 to 1,000 silos the ratio is 1.2).
    assert report["ratios"]["peak_ratio"] < 1.6
    assert report["ratios"]["workers_ratio"] < 1.6
