"""Whatever is added and subtracted of what a silo tells exactly, no few rows can be told apart."""

from __future__ import annotations

import itertools

import asked_rows as rows
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.horizontal.asked import merging
from consilo.horizontal.asked.axes import Axes
from consilo.horizontal.asked.release import BY, CORRELATION, Cut, Told, exact, table_names

LEAST = 5


def whole(values: np.ndarray) -> bool:
    return bool(((values == 0) | (values >= LEAST)).all())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 400), st.integers(0, 10_000), st.sampled_from([0.0, 0.02, 0.3]))
def test_every_number_that_leaves_is_of_the_floor(size, seed, missing):
    table = rows.frame(size, seed, missing=missing)
    tables, _ = rows.told(table, LEAST)
    for name, values in tables.items():
        if name == CORRELATION:
            assert whole(values[0, 0])
        elif name.startswith("sums/"):
            assert whole(values[..., 0]), name
            assert (values[values[..., 0] == 0] == 0).all()
        else:
            assert whole(values), name


def sets_told(cut: Cut, told: Told, axis: str) -> np.ndarray:
    """Return, as rows of 0 and 1, which rows each number about one column is made of."""
    found = [np.ones(len(next(iter(cut.columns.values()))), bool)]
    partitions = [told.parts[g][codes] for g, codes in cut.groups.items() if told.parts[g][0] >= 0]
    if told.parts[axis][0] >= 0:
        codes = cut.times if axis == "weeks" else cut.columns[axis]
        cells = told.parts[axis][codes] * 2 + (cut.events if axis == "weeks" else 0)
        crossed = partitions if told.crossed[axis] else []
        found += [cells == each for each in np.unique(cells)]
        found += [
            (cells == one) & (group == other)
            for group in crossed
            for one in np.unique(cells)
            for other in np.unique(group)
        ]
    found += [group == each for group in partitions for each in np.unique(group)]
    return np.array(found, float)


def fewest_told_apart(sets: np.ndarray) -> int:
    """Return the fewest rows that any sum or difference of up to three sets is made of."""
    fewest = len(sets[0])
    signs = (-1.0, 1.0)
    for number in (1, 2, 3):
        for chosen in itertools.combinations(range(len(sets)), number):
            for sign in itertools.product(signs, repeat=number - 1):
                left = int(np.count_nonzero(np.array([1.0, *sign]) @ sets[list(chosen)]))
                fewest = min(fewest, left) if left else fewest
    return fewest


@pytest.mark.parametrize("seed", range(3))
def test_no_difference_of_what_is_told_is_of_few_rows(seed):
    """A marginal less the shown cells, nested groups: all that an observer can add up."""
    table = rows.frame(90, seed, missing=0.1)
    # One group lies within the other, but for a row.
    inside = (table["arm"] == "drug").to_numpy(copy=True)
    inside[np.flatnonzero(~inside)[0]] = True
    table = table.assign(sex=inside)
    cut = Cut.of(Axes.of(rows.contract()), table)
    told = Told.of(cut, LEAST)
    for axis in ("age", "bmi", "weeks", "stage"):
        assert fewest_told_apart(sets_told(cut, told, axis)) >= LEAST
    assert not merging.is_told(told.parts["sex"])


def test_cells_alone_of_the_floor_would_tell_the_nested_row():
    """The attack, where each table is held to the floor by itself: it finds the row."""
    arm = np.repeat([0, 1], 40)
    sex = arm.copy()
    sex[0] = 1
    each_is_large = np.array([arm == 0, arm == 1, sex == 0, sex == 1], float)
    assert each_is_large.sum(axis=1).min() >= LEAST
    assert fewest_told_apart(each_is_large) == 1


def test_what_is_told_does_not_depend_on_what_is_asked():
    table = rows.frame(200, 3)
    axes = Axes.of(rows.contract())
    cut = Cut.of(axes, table)
    whole_answer, _ = rows.told(table, LEAST)
    for name in table_names(axes):
        alone, _ = exact(cut, [name], LEAST)
        assert np.array_equal(alone[name], whole_answer[name])


def test_groups_beyond_the_floor_are_told_coarser_or_not_at_all():
    few = rows.frame(60, 4).assign(arm=["placebo"] + ["drug"] * 59)
    _, told = rows.told(few, LEAST)
    assert (told["arm"] == -1).all()
    assert told["sex"][0] >= 0
    tables, _ = rows.told(few, LEAST)
    assert not tables[f"bins/bmi{BY}arm"].any()


def test_columns_that_lack_few_values_are_not_told():
    table = rows.frame(100, 5, missing=0.0)
    table.loc[0, "age"] = np.nan
    tables, told = rows.told(table, LEAST)
    assert (told["age"] == -1).all()
    assert not tables["bins/age"].any()
    assert not tables["sums/age"].any()
    assert not tables[CORRELATION].any()


@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=24),
    st.lists(st.integers(0, 9), min_size=1, max_size=24),
)
@settings(max_examples=60, deadline=None)
def test_steps_are_the_finest_round_ones_that_are_large_enough(first, second):
    size = min(len(first), len(second))
    table = np.array([[*first[:size], 0], [*second[:size], 0]])
    part = merging.step_blocks(table, LEAST)
    if part[0] < 0:
        assert merging.is_small(table.sum(axis=1), LEAST)
        return
    assert (np.diff(part) >= 0).all()
    assert whole(merging.summed(table.T.astype(float), part))
    assert merging.summed(table.T.astype(float), part).sum() == table.sum()


def test_ends_are_shared_where_two_silos_need_coarse_steps():
    first, second = np.zeros((1, 33), np.int64), np.zeros((1, 33), np.int64)
    first[0, :32], second[0, 1:32] = 3, 2
    parts = [merging.step_blocks(each, LEAST) for each in (first, second)]
    common = merging.in_common(parts)
    assert len(np.unique(common[:-1])) >= 8


def test_what_partitions_have_in_common():
    one, other = np.array([0, 0, 2, 3, 4]), np.array([0, 1, 1, 3, 4])
    assert merging.in_common([one, other]).tolist() == [0, 0, 0, 3, 4]
    assert merging.in_common([one]).tolist() == one.tolist()
    assert merging.blocks_of(merging.in_common([one, other])) == [[0, 1, 2], [3], [4]]


def test_codes_are_texts_in_the_canonical_table():
    """Contracts write codes as numbers, too; the canonical table holds texts."""
    text = rows.CONTRACT.replace("stage: {type: integer", "stage: {type: category")
    table = rows.frame(50, 6)
    texts = table.assign(stage=table["stage"].astype("string").astype("category"))
    one = Cut.of(Axes.of(rows.contract()), table).columns["stage"]
    other = Cut.of(Axes.of(rows.contract(text)), texts).columns["stage"]
    assert np.array_equal(one, other)
    assert set(one) == {0, 1, 2}
