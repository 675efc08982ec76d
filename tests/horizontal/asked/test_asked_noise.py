"""Noisy tables: how far one row moves them, and what is made of them."""

from __future__ import annotations

import asked_rows as rows
import numpy as np
import pytest

from consilo.horizontal.asked.answers import answers
from consilo.horizontal.asked.axes import Axes
from consilo.horizontal.asked.pooled import Part, Pooled
from consilo.horizontal.asked.release import (
    CORRELATION,
    Cut,
    noisy,
    sensitivity,
    shifted,
    table_names,
    told_templates,
)
from consilo.jobs.sections.questions import every_question
from consilo.privacy.noise import SecretStream

AXES = Axes.of(rows.contract())
NAMES = table_names(AXES)


def vector(table, weights=None) -> np.ndarray:
    """All that noise is added to, each number once."""
    scaled = Cut.of(AXES, table, weights).scaled(clip=True)
    found = []
    for name in NAMES:
        each = scaled.products() if name == CORRELATION else scaled.table(name)
        each = shifted(each, name)
        found.append(each[np.triu_indices(len(each))] if name == CORRELATION else each.ravel())
    return np.concatenate(found)


@pytest.mark.parametrize("seed", range(4))
def test_one_row_moves_the_tables_by_no_more_than_their_sensitivity(seed):
    table = rows.frame(20, seed)
    table.loc[0, ["age", "bmi"]] = [0.0, 60.0] if seed % 2 else [100.0, 10.0]  # at their ends
    bound = sensitivity(AXES, NAMES)
    moved = [
        np.linalg.norm(vector(table) - vector(table.drop(index=each))) for each in range(len(table))
    ]
    assert max(moved) <= bound + 1e-9
    assert max(moved) > 0.9 * bound  # nor is more noise paid for than is needed


def test_a_subject_with_many_rows_moves_them_by_no_more():
    table = rows.frame(30, 5)
    weights = np.where(np.arange(30) < 10, 1 / 10, 1.0)
    without = vector(table.iloc[10:], np.ones(20))
    assert np.linalg.norm(vector(table, weights) - without) <= sensitivity(AXES, NAMES)


def noisy_answers(sigma: float, seed: int, size: int = 400):
    whole = {
        name: np.ones(1, np.int64) if len(each) == 1 else np.arange(len(each), dtype=np.int64)
        for name, each in told_templates(AXES).items()
    }
    parts = {}
    for place in range(3):
        table = rows.frame(size, 10 * seed + place)
        stream = SecretStream(bytes(32), f"{seed}/{place}")
        tables, std = noisy(Cut.of(AXES, table), NAMES, sigma, stream)
        parts[f"s{place}"] = Part(size, tables, whole, std)
    return answers(Pooled(AXES, parts), every_question(rows.contract()))


@pytest.mark.parametrize("sigma", [0.5, 20.0])
def test_noise_makes_nothing_impossible(sigma):
    found = noisy_answers(sigma, seed=1)
    assert all(each.is_noisy for each in found)
    for answer in found:
        for row in answer.rows:
            assert row.get("count", 0) >= 0
            assert "std_error" in row
        shares = [row["share"] for row in answer.rows if np.isfinite(row.get("share", np.nan))]
        assert all(0 <= each <= 1 for each in shares)
    for by in ("", "arm"):
        curves: dict[str, list[float]] = {}
        for row in found.of("survival", by=by).rows:
            curves.setdefault(str(row.get(by)), []).append(row["survival"])
        for curve in curves.values():
            assert (np.diff(curve) <= 0).all()
            assert 0 <= curve[-1] <= curve[0] <= 1


def test_little_noise_gives_nearly_the_exact_answers():
    tables = {f"s{place}": rows.frame(400, 20 + place) for place in range(3)}
    exact, found = rows.every_answer(tables), noisy_answers(1e-6, seed=2)
    for ask, column, figure in (("means", "age", "mean"), ("correlations", "", "correlation")):
        one, other = exact.of(ask, column).rows[0], found.of(ask, column).rows[0]
        assert other[figure] == pytest.approx(one[figure], abs=1e-3)
    one, other = (each.of("survival").rows for each in (exact, found))
    for first, second in zip(one, other, strict=True):
        assert second["survival"] == pytest.approx(first["survival"], abs=1e-3)


def test_the_standard_error_is_that_of_the_noise():
    errors, found = [], []
    for seed in range(30):
        row = noisy_answers(1.0, seed, size=50).of("counts", "arm").rows[0]
        true = sum((rows.frame(50, 10 * seed + place)["arm"] == "drug").sum() for place in range(3))
        errors.append(row["std_error"])
        found.append(row["count"] - true)
    assert np.std(found) == pytest.approx(errors[0], rel=0.4)
