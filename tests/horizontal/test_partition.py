from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import ConfigInvalid
from consilo.horizontal.partition import Partition, cut, label_skew, silo_names


def _labels(count: int, classes: int = 4, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.choice(classes, count, p=np.arange(1, classes + 1) / (classes * (classes + 1) / 2))


@given(
    silos=st.integers(1, 30),
    extra=st.integers(0, 200),
    rule=st.sampled_from(["iid", "dirichlet", "quantity"]),
    law=st.sampled_from(["power", "lognormal"]),
    skew=st.floats(0, 5),
    alpha=st.floats(1e-4, 1e4),
    least=st.integers(1, 4),
    seed=st.integers(0, 2**40),
)
@settings(max_examples=150, deadline=None)
def test_every_row_goes_to_one_silo(silos, extra, rule, law, skew, alpha, least, seed) -> None:
    labels = _labels(silos * least + extra)
    partition = Partition(
        silos=silos, rule=rule, law=law, skew=skew, alpha=alpha, min_rows=least, seed=seed
    )
    parts = cut(labels, partition)
    assert tuple(parts) == silo_names(silos)
    assert np.array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(len(labels)))
    assert min(len(rows) for rows in parts.values()) >= least
    assert all((np.diff(rows) > 0).all() for rows in parts.values())
    again = cut(labels, partition)
    assert all(np.array_equal(again[name], rows) for name, rows in parts.items())


def test_another_seed_cuts_otherwise() -> None:
    labels = _labels(100)
    for rule in ("iid", "dirichlet", "quantity"):
        one, two = (cut(labels, Partition(silos=3, rule=rule, seed=seed)) for seed in (1, 2))
        assert any(not np.array_equal(one[name], two[name]) for name in one)


def test_iid_sizes_differ_by_one_at_most() -> None:
    sizes = [len(rows) for rows in cut(np.zeros(103), Partition(silos=10)).values()]
    assert sorted(set(sizes)) == [10, 11]


def test_label_skew_falls_as_alpha_grows() -> None:
    labels = _labels(4000)
    means = [
        np.mean(
            [
                label_skew(
                    labels, cut(labels, Partition(silos=20, rule="dirichlet", alpha=alpha, seed=s))
                )
                for s in range(5)
            ]
        )
        for alpha in (0.05, 0.5, 5.0, 50.0, 5000.0)
    ]
    assert means == sorted(means, reverse=True)
    assert means[0] > 0.5
    assert means[-1] < 0.03


def test_dirichlet_silos_are_of_equal_size_to_within_the_classes() -> None:
    labels = _labels(2000)
    parts = cut(labels, Partition(silos=20, rule="dirichlet", alpha=0.5))
    assert max(abs(len(rows) - 100) for rows in parts.values()) <= 4


def test_dirichlet_bins_a_number_as_label() -> None:
    values = np.random.default_rng(0).normal(size=1000)
    parts = cut(values, Partition(silos=10, rule="dirichlet", alpha=0.05))
    spread = np.mean([np.std(values[rows]) for rows in parts.values()])
    assert spread < 0.7 * np.std(values)


def test_sizes_follow_the_power_law_and_are_equal_without_skew() -> None:
    rows = np.zeros(15000)
    sizes = [len(each) for each in cut(rows, Partition(silos=5, rule="quantity")).values()]
    harmonic = sum(1 / rank for rank in range(1, 6))
    assert sizes == pytest.approx([15000 / harmonic / rank for rank in range(1, 6)], abs=1)
    for law in ("power", "lognormal"):
        flat = Partition(silos=5, rule="quantity", law=law, skew=0)
        assert {len(each) for each in cut(rows, flat).values()} == {3000}
    spread = []
    for skew in (0.2, 0.8, 2.0):
        wide = Partition(silos=50, rule="quantity", law="lognormal", skew=skew)
        spread.append(np.std([len(each) for each in cut(rows, wide).values()]))
    assert spread == sorted(spread)


def test_a_columns_values_make_the_silos() -> None:
    values = np.array(["b", "a", "c", "a", "b", "c", "a"])
    parts = cut(values, Partition(silos=3, rule="column", column="ward"))
    assert [set(values[rows]) for rows in parts.values()] == [{"a"}, {"b"}, {"c"}]


def test_more_values_than_silos_are_packed_evenly_and_never_split() -> None:
    values = np.repeat(np.arange(9), [50, 40, 30, 30, 20, 10, 10, 5, 5])
    parts = cut(values, Partition(silos=4, rule="column", column="ward"))
    homes = [set(values[rows]) for rows in parts.values()]
    assert sum(len(each) for each in homes) == 9
    assert {len(rows) for rows in parts.values()} == {50}


@pytest.mark.parametrize(
    ("values", "partition", "match"),
    [
        (np.zeros(5), Partition(silos=3), "need 6 rows, found 5"),
        (np.zeros(9), Partition(silos=3, rule="column", column="x"), "1 values, too few for 3"),
        (
            np.array([0, 0, 0, 0, 1]),
            Partition(silos=2, rule="column", column="x"),
            "has 1 rows, min_rows is 2",
        ),
    ],
)
def test_what_cannot_be_cut_is_refused(values, partition, match) -> None:
    with pytest.raises(ConfigInvalid, match=match):
        cut(values, partition)
