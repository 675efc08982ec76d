"""The parts of entity matching: group, entities, one-to-one; each against something slower."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import Refused
from consilo.jobs.recipe import Recipe
from consilo.matching import group
from consilo.matching.entities import Values, people, shuffle, sketch
from consilo.matching.resolve import Edges, one_to_one

P = 2**255 - 19


def on_curve(u):
    """Return whether v² = u³ + 486662 u² + u has a root: the curve, and not its twist."""
    return pow((u**3 + 486662 * u**2 + u) % P, (P - 1) // 2, P) in (0, 1)


def test_values_are_hashed_to_the_curve_in_its_large_subgroup_and_apart_by_domain():
    values = [bytes([n]) for n in range(40)]
    points = group.hash_to_group(values, b"one")
    us = [int.from_bytes(each.tobytes(), "little") for each in points]
    assert all(on_curve(u) for u in us)
    assert len(set(us)) == 40
    assert not set(us) & {
        int.from_bytes(p.tobytes(), "little") for p in group.hash_to_group(values, b"two")
    }
    np.testing.assert_array_equal(points, group.hash_to_group(values, b"one"))


def test_the_same_points_as_libsodium_converts_them():
    import hashlib

    import nacl.bindings as sodium

    (found,) = group.hash_to_group([b"value"], b"d")
    head = b"consilo psi hash 1" + (1).to_bytes(4, "big") + b"d"
    point = sodium.crypto_core_ed25519_from_uniform(hashlib.sha512(head + b"value").digest()[:32])
    assert sodium.crypto_core_ed25519_is_valid_point(point)
    assert found.tobytes() == sodium.crypto_sign_ed25519_pk_to_curve25519(point)


def test_blindings_commute_and_hide():
    points = group.hash_to_group([bytes([n % 256, n // 256]) for n in range(3000)], b"d")
    a, b = group.new_scalar(), group.new_scalar()
    one = group.blind(group.blind(points, a), b)
    np.testing.assert_array_equal(one, group.blind(group.blind(points, b), a))
    assert not np.intersect1d(one[:, 0:8].view("u8"), points[:, 0:8].copy().view("u8")).size
    tags = group.tags(group.blind(points, a), b)
    assert tags.dtype.itemsize == 16
    assert len(np.unique(tags)) == 3000


@pytest.mark.parametrize("value", [P, P + 1, 2**255 - 1, 2**255, 2**256 - 1])
def test_elements_that_are_not_canonical_are_refused(value):
    raw = np.frombuffer(value.to_bytes(32, "little"), np.uint8)[None]
    with pytest.raises(Refused, match="canonical"):
        group.checked_elements(raw)
    below = np.frombuffer((P - 1).to_bytes(32, "little"), np.uint8)[None]
    group.checked_elements(below)


ALL = {"parts": [{"column": "v", "steps": ["trim"]}]}
SAME = {**ALL, "duplicates": "same"}


def table(values, key=ALL):
    frame = pd.DataFrame({"v": pd.Series(values, dtype="string")})
    return people(frame, Recipe.model_validate({"keys": [key]}), shard_key=b"k")


def test_values_of_several_people_stand_for_none_unless_they_are_one_person():
    found = table(["a", "b", "a", None])
    assert (found.num_entities, found.ambiguous, len(found.keys[0])) == (4, (1,), 1)
    found = table(["a", "b", "a", None], SAME)
    assert (found.num_entities, found.ambiguous, len(found.keys[0])) == (3, (0,), 2)
    assert sorted(found.keys[0].rows) == [0, 1]


def test_rows_are_joined_through_chains():
    frame = pd.DataFrame({"a": ["1", "1", "2", "3"], "b": ["x", "y", "y", "z"]})
    keys = [{"parts": [{"column": c}], "duplicates": "same"} for c in "ab"]
    found = people(frame, Recipe.model_validate({"keys": keys}), shard_key=b"k")
    assert found.num_entities == 2
    assert {int(e) for e in found.keys[0].entities} == {0, 3}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300), st.integers(1, 9))
def test_shards_hold_every_value_once_and_the_bytes_come_back(count, shards):
    (values,) = table([str(n) for n in range(count)]).keys
    bounds = values.bounds(shards)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, count, shards + 1)
    assert (np.diff(bounds) >= 0).all()
    again = Values.from_bytes(values.to_bytes())
    np.testing.assert_array_equal(again.digests, values.digests)
    np.testing.assert_array_equal(again.rows, values.rows)


def test_equal_values_fall_into_the_same_shard_in_every_silo():
    one, other = (table([str(n) for n in r]).keys[0] for r in (range(500), range(250, 900)))
    where = []
    for values in (one, other):
        bounds = values.bounds(7)
        shard = np.searchsorted(bounds, np.arange(len(values)), side="right") - 1
        where.append({d.tobytes(): s for d, s in zip(values.digests, shard, strict=True)})
    both = set(where[0]) & set(where[1])
    assert len(both) == 250
    assert all(where[0][each] == where[1][each] for each in both)


def test_a_shuffle_is_a_permutation_that_its_key_decides():
    one = shuffle(1000, b"k" * 32)
    assert sorted(one) == list(range(1000))
    np.testing.assert_array_equal(one, shuffle(1000, b"k" * 32))
    assert (one != shuffle(1000, b"l" * 32)).mean() > 0.9
    assert one[:8].tolist() == [894, 827, 876, 668, 400, 195, 427, 124]


def test_a_sketch_tells_how_alike_sets_are_and_nothing_without_its_key():
    from silos.gate.match_queries import sketch_distance

    def of(numbers, key=b"k"):
        return sketch(table([str(n) for n in numbers]).keys[0], key)

    whole, digest = of(range(3000))
    assert of(range(3000))[1] == digest
    near, other = of(range(1, 3000))
    assert other != digest
    assert sketch_distance(whole, near) < 0.01
    assert 0.4 < sketch_distance(whole, of(range(1000, 4000))[0]) < 0.6
    assert sketch_distance(whole, of(range(3000), b"other")[0]) == 1.0


pairs = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(pairs, min_size=1, max_size=3))
def test_one_to_one_is_what_the_rule_says(keys):
    made = one_to_one(
        [
            Edges(
                np.array([a for a, _ in each], np.int64), np.array([b for _, b in each], np.int64)
            )
            for each in keys
        ]
    )
    expected = []
    for number, each in enumerate(keys):
        lefts, rights = {a for a, _, _ in expected}, {b for _, b, _ in expected}
        free = {(a, b) for a, b in each if a not in lefts and b not in rights}
        expected += [
            (a, b, number)
            for a, b in sorted(free)
            if not any((a == x) != (b == y) for x, y in free - {(a, b)})
        ]
    found = list(zip(made.left.tolist(), made.right.tolist(), made.key.tolist(), strict=True))
    assert sorted(found) == sorted(expected)
    for (left, right, key), edge in zip(found, made.edge.tolist(), strict=True):
        assert keys[key][edge] == (left, right)
    assert len({left for left, *_ in found}) == len(found) == len({r for _, r, _ in found})
    assert all(a[0] != b[0] for a, b in itertools.combinations(found, 2))
