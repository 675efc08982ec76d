"""Answers over silos are those of the union of their rows, where nothing is put together."""

from __future__ import annotations

import asked_rows as rows
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from consilo.horizontal.asked.survival import kaplan_meier, log_rank


def cut(table: pd.DataFrame, silos: int, seed: int) -> dict[str, pd.DataFrame]:
    place = np.random.default_rng(seed).integers(0, silos, len(table))
    return {f"s{each}": table[place == each] for each in range(silos)}


@pytest.mark.parametrize(("silos", "seed"), [(1, 0), (3, 1), (7, 2)])
def test_counts_means_and_correlations_are_those_of_the_union(silos, seed):
    table = rows.frame(300, seed)
    found = rows.every_answer(cut(table, silos, seed))
    counts = {each["arm"]: each["count"] for each in found.of("counts", "arm").rows}
    for value, number in table["arm"].value_counts().items():
        assert counts[value] == number
    (mean,) = found.of("means", "age").rows
    assert mean["count"] == table["age"].count()
    assert mean["mean"] == pytest.approx(table["age"].mean(), rel=1e-12)
    assert mean["deviation"] == pytest.approx(table["age"].std(), rel=1e-9)
    for each in found.of("means", "age", "arm").rows:
        part = table.loc[table["arm"] == each["arm"], "age"]
        assert each["mean"] == pytest.approx(part.mean(), rel=1e-12)
        assert each["std_error"] == pytest.approx(part.sem(), rel=1e-9)
    (pair,) = found.of("correlations").rows
    both = table[["age", "bmi"]].dropna()
    assert pair["correlation"] == pytest.approx(both.corr().iloc[0, 1], rel=1e-9)


def test_a_histogram_and_its_test_are_those_of_the_union():
    table = rows.frame(400, 5)
    found = rows.every_answer(cut(table, 4, 5))
    ends = np.arange(0, 101, 10)
    wanted = pd.cut(table["age"], ends, right=False).value_counts(sort=False)
    answer = found.of("histogram", "age")
    assert [each["count"] for each in answer.rows] == [*wanted, table["age"].isna().sum()]
    by_arm = found.of("histogram", "stage", "arm")
    crossed = pd.crosstab(table["arm"], table["stage"])
    assert by_arm.test["statistic"] == pytest.approx(
        stats.chi2_contingency(crossed, correction=False).statistic
    )


def test_a_quantile_lies_in_the_bin_that_is_told():
    table = rows.frame(500, 6)
    found = rows.every_answer(cut(table, 3, 6))
    for each in found.of("quantiles", "bmi").rows:
        true = table["bmi"].quantile(each["quantile"], interpolation="inverted_cdf")
        assert each["low"] <= true <= each["high"]
        assert each["width"] == each["high"] - each["low"]


def test_the_test_of_means_is_welchs():
    table = rows.frame(300, 7)
    found = rows.every_answer(cut(table, 3, 7)).of("means", "bmi", "arm")
    parts = [table.loc[table["arm"] == value, "bmi"] for value in ("drug", "placebo")]
    assert found.test["p"] == pytest.approx(stats.ttest_ind(*parts, equal_var=False).pvalue)


# Remission of 42 children with acute leukaemia in weeks, 6-mercaptopurine and placebo, Freireich et
# al. 1963, as printed in Gehan, Biometrika 52 (1965), table 1; a minus says that the child was last
# seen so, still in remission.
DRUG = [6, 6, 6, -6, 7, -9, 10, -10, -11, 13, 16, -17, -19, -20, 22, 23, -25, -32, -32, -34, -35]
PLACEBO = [1, 1, 2, 2, 3, 4, 4, 5, 5, 8, 8, 8, 8, 11, 11, 12, 12, 15, 17, 22, 23]


def freireich() -> pd.DataFrame:
    signed = np.array([*DRUG, *PLACEBO], float)
    table = rows.frame(42, 8)
    return table.assign(
        arm=["drug"] * 21 + ["placebo"] * 21, weeks=np.abs(signed), relapse=signed > 0
    )


def test_the_curve_is_the_published_one():
    """Kalbfleisch & Prentice 2002, 1.4, and Collett 2015, print these for 6-MP."""
    found = rows.every_answer(cut(freireich(), 3, 8)).of("survival", by="arm")
    drug = {each["weeks"]: each for each in found.rows if each["arm"] == "drug"}
    published = {6: 0.8571, 7: 0.8067, 10: 0.7529, 13: 0.6902, 16: 0.6275, 22: 0.5378, 23: 0.4482}
    errors = {6: 0.0764, 7: 0.0869, 10: 0.0963, 13: 0.1068, 16: 0.1141, 22: 0.1282, 23: 0.1346}
    for week, share in published.items():
        assert drug[week]["survival"] == pytest.approx(share, abs=5e-5)
        assert drug[week]["std_error"] == pytest.approx(errors[week], abs=5e-5)
    assert [drug[week]["at_risk"] for week in (6, 7, 10, 13, 16, 22, 23)] == [
        21,
        17,
        15,
        12,
        11,
        7,
        6,
    ]
    assert found.test["median drug"] == 23
    assert found.test["median placebo"] == 8
    assert found.test["statistic"] == pytest.approx(16.79, abs=5e-3)
    assert found.test["p"] < 1e-4


@pytest.mark.parametrize("seed", range(3))
def test_the_curve_is_that_of_the_union(seed):
    """Held against the formulas on single rows: no table is made on the way."""
    table = rows.frame(200, seed)
    found = rows.every_answer(cut(table, 4, seed)).of("survival", by="")
    left = 1.0
    for each in found.rows:
        at_risk = (table["weeks"] > each["weeks"] - 1).sum()
        events = ((table["weeks"] == each["weeks"]) & table["relapse"]).sum()
        left *= 1 - events / at_risk
        assert each["at_risk"] == at_risk
        assert each["survival"] == pytest.approx(left, rel=1e-12)
        assert each["low"] <= each["survival"] <= each["high"]


def test_the_log_rank_test_of_one_curve_twice_finds_nothing():
    events, censored = np.array([[3.0, 2.0, 1.0]] * 2), np.array([[1.0, 0.0, 2.0]] * 2)
    found = log_rank(events, censored, np.array([4.0, 4.0]))
    assert (found.statistic, found.p) == (pytest.approx(0.0), pytest.approx(1.0))


def test_a_curve_without_events_stays_up():
    found = kaplan_meier(np.zeros(3), np.array([2.0, 0.0, 1.0]), 2.0)
    assert found.survival.tolist() == [1.0] * 3
    assert found.low.tolist() == [1.0] * 3


def test_a_column_that_a_silo_cannot_tell_lacks_that_silo():
    tables = {"large": rows.frame(400, 1), "small": rows.frame(6, 2, missing=0.0)}
    found = rows.every_answer(tables, least=5).of("histogram", "age")
    assert found.silos == {"large": 400}
    assert "small" in found.lacking
