"""By how much a process grows is told by its age, whichever process had its part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import aging  # type: ignore[import-not-found]

    return aging


def looks(old: Any, per_s: float, *, process: int = 1, until_s: int = 100, start: float = 100.0):
    return [old.Seen(process, age, start + per_s * age, 7) for age in range(0, until_s, 5)]


def test_growth_over_the_second_half_of_a_life(old: Any) -> None:
    seen = looks(old, 1.0, until_s=101)
    assert old.growth_percent(seen, lambda each: each.rss_mib) == pytest.approx(100 * 50 / 175)
    assert old.growth_percent(seen, lambda each: each.fds) == 0.0


def test_processes_of_other_heights_are_no_growth(old: Any) -> None:
    seen = [*looks(old, 0.0), *looks(old, 0.0, process=2, start=200.0, until_s=70)]
    assert old.growth_percent(seen, lambda each: each.rss_mib) == pytest.approx(0.0)
    grows = [*looks(old, 1.0), *looks(old, 1.0, process=2, start=50.0)]
    assert old.growth_percent(grows, lambda each: each.rss_mib) > 20


def test_too_few_looks_say_nothing(old: Any) -> None:
    assert old.growth_percent([], lambda each: each.rss_mib) == 0.0
    assert old.growth_percent(looks(old, 1.0, until_s=6), lambda each: each.rss_mib) == 0.0
