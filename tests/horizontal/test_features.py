import hashlib

import clinic
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob, SchemaDrift
from consilo.horizontal.dataset import local_scale, rows_of, training_rows
from consilo.horizontal.features import Encoding, Scale, class_codes
from consilo.horizontal.statistics import Moments
from consilo.kernel.headers import Header
from consilo.kernel.view import SiloView
from silos.simulation.in_memory import InMemorySilo

ROWS = pd.DataFrame(
    {
        "age": [30.0, np.nan, 50.0],
        "smoker": pd.array([True, False, None], dtype="boolean"),
        "ward": pd.Series(["a", "c", None], dtype="string"),
        "ill": pd.array([0, 1, 1], dtype="Int64"),
    }
)


def encoding(contract=None, **changes):
    return Encoding.plan(contract or clinic.contract(), clinic.job(**changes))


def view(host, job=None, run_id="run"):
    header = Header(run_id, "1/0/train", "c", 1, host.name, "fedavg", "train", (host.name,))
    return SiloView(host, job or clinic.job(), clinic.contract(), header)


def test_numbers_then_one_column_per_category_a_gap_is_zero():
    found = encoding()
    assert found.inputs == ("age", "smoker", "ward=a", "ward=b", "ward=c")
    scale = Scale(np.array([40.0, 0.5]), np.array([10.0, 0.5]))
    np.testing.assert_allclose(
        found.features(ROWS, scale), [[-1, 1, 1, 0, 0], [0, -1, 0, 0, 1], [1, 0, 0, 0, 0]]
    )


def test_the_first_category_may_go_without_a_column():
    assert encoding(features={"drop_first": True}).inputs[2:] == ("ward=b", "ward=c")


def test_an_indicator_says_that_a_number_is_missing_where_the_contract_allows_it():
    found = encoding(features={"missing": "indicator"})
    assert found.inputs[-1] == "age is missing"
    assert found.features(ROWS, Scale.unit(2))[:, -1].tolist() == [0, 1, 0]


def test_rows_with_a_gap_may_be_left_out():
    assert len(encoding(features={"missing": "drop"}).usable(ROWS)) == 1
    assert len(encoding().usable(ROWS)) == 3


def test_the_contracts_range_scales_to_one():
    contract = clinic.contract()
    found = encoding(features={"standardize": "contract"})
    scale = Scale.of_ranges(found)
    ends = pd.DataFrame({"age": [0.0, 120.0], "smoker": [False, True], "ward": ["a", "b"]})
    assert found.features(ends, scale)[:, :2].tolist() == [[-1, -1], [1, 1]]
    assert contract.features == ("age", "smoker", "ward")


def test_categories_may_be_whole_numbers():
    text = clinic.CONTRACT.replace("[a, b, c]", "[1, 2]")
    rows = ROWS.assign(ward=pd.array([1, 2, None], dtype="Int64"))
    found = encoding(clinic.contract(text)).features(rows, Scale.unit(2))
    assert found[:, 2:].tolist() == [[1, 0], [0, 1], [0, 0]]


@pytest.mark.parametrize(
    ("old", "new", "changes", "why"),
    [
        ("type: boolean", "type: string", {}, "a string cannot be a feature"),
        (", range: {min: 0, max: 120}", "", {"features": {"standardize": "contract"}}, "age"),
        (", allowed: [0, 1]", "", {}, "needs the target's classes"),
        ("[0, 1]", "[0, 1, 2]", {}, "binary needs two classes"),
        ("role: target", "role: ignore", {}, "one target column, clinic@1 has 0"),
    ],
)
def test_a_column_that_cannot_be_used_is_named(old, new, changes, why):
    with pytest.raises(IncompatibleJob, match=why):
        encoding(clinic.contract(clinic.CONTRACT.replace(old, new)), **changes)


def test_targets_are_class_numbers_or_values():
    assert encoding().target(ROWS).tolist() == [0, 1, 1]
    values = encoding(task="regression").target(ROWS)
    assert values.dtype == np.float64
    assert values.tolist() == [0, 1, 1]
    two = clinic.contract(
        clinic.CONTRACT.replace("{type: boolean}", "{type: boolean, role: target}")
    )
    whole = ROWS.iloc[:2]
    assert encoding(two, task="custom", outputs=1).target(whole).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_a_row_without_a_target_is_drift_and_its_values_are_not_told(task):
    rows = ROWS.assign(ill=pd.array([0, None, 1], dtype="Int64"))
    with pytest.raises(SchemaDrift, match="target"):
        encoding(task=task).target(rows)


def test_class_codes_find_numpys_and_pythons_values():
    codes = class_codes(np.array([np.int64(2), 1, None, "x"], dtype=object), (1, 2))
    assert codes.tolist() == [1, 0, -1, -1]


def test_the_split_of_a_silo_is_the_same_in_every_run_and_is_encoded_once():
    host = InMemorySilo("north", clinic.frame(40))
    first = rows_of(view(host), encoding(), Scale.unit(2))
    again = rows_of(view(host, run_id="another"), encoding(), Scale.unit(2))
    np.testing.assert_array_equal(first.train.features, again.train.features)
    assert first.fingerprint == again.fingerprint
    assert len(host.arrays) == 1
    rows_of(view(host, clinic.job(seed=1)), encoding(), Scale.unit(2))
    assert len(host.arrays) == 1  # nor does the job's seed count
    rows_of(view(host, clinic.job(evaluation={"holdout": 0.5})), encoding(), Scale.unit(2))
    rows_of(view(host), encoding(), Scale(np.ones(2), np.ones(2)))
    assert len(host.arrays) == 3


def test_a_silos_own_scale_makes_its_training_rows_standard():
    host = InMemorySilo("north", clinic.frame(60, missing=0.0))
    rows = rows_of(view(host), encoding(), None).train.features[:, :2].astype(float)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(rows.std(axis=0, ddof=1), 1, atol=1e-6)
    assert local_scale(view(host), encoding()).mean.shape == (2,)


def test_when_every_row_is_dropped_the_remedy_is_named():
    host = InMemorySilo("north", ROWS.assign(age=np.nan))
    dropping = {"missing": "drop"}
    planned = encoding(features=dropping)
    with pytest.raises(SchemaDrift, match="set the job's features"):
        rows_of(view(host, clinic.job(features=dropping)), planned, Scale.unit(2))


columns = st.lists(
    st.lists(st.none() | st.floats(-1e3, 1e3), min_size=3, max_size=3), min_size=0, max_size=12
)


@given(columns, columns)
def test_merged_moments_are_those_of_the_pooled_rows(left, right):
    parts = [np.array(each, dtype=float).reshape(-1, 3) for each in (left, right)]
    merged = Moments.of(parts[0]).merge(Moments.of(parts[1]))
    pooled = np.concatenate(parts)
    for place in range(3):
        known = pooled[:, place][~np.isnan(pooled[:, place])]
        assert merged.count[place] == len(known)
        if len(known):
            np.testing.assert_allclose(merged.mean[place], known.mean(), rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(merged.variance[place], known.var(), rtol=1e-7, atol=1e-7)


def test_a_constant_or_empty_column_keeps_its_width():
    scale = Scale.of_moments(np.array([5.0, np.nan, 1.0]), np.array([0.0, np.nan, 4.0]))
    assert scale.mean.tolist() == [5.0, 0.0, 1.0]
    assert scale.deviation.tolist() == [1.0, 1.0, 2.0]


@pytest.mark.parametrize("missing", ["mean", "drop", "indicator"])
@pytest.mark.parametrize("local", [False, True])
def test_rows_encoded_in_blocks_are_those_encoded_whole(monkeypatch, missing, local):
    job = clinic.job(features={"missing": missing})
    scale = None if local else Scale(np.full(2, 3.0), np.full(2, 2.0))
    found = {}
    for block_rows in (65_536, 7):
        monkeypatch.setattr("consilo.horizontal.dataset.BLOCK_ROWS", block_rows)
        seen = view(InMemorySilo("north", clinic.frame(60)), job)
        planned = Encoding.plan(seen.contract, job)
        rows = rows_of(seen, planned, scale)
        frames = [block for block, _ in training_rows(seen, planned).blocks()]
        found[block_rows] = rows, pd.concat(frames), local_scale(seen, encoding())
    (whole, frame, scaled), (parts, pieces, scaled_too) = found.values()
    close = {"rtol": 1e-6, "atol": 1e-7} if local else {"rtol": 0, "atol": 0}
    for part in ("train", "test"):
        for array in ("features", "targets"):
            one, other = (getattr(getattr(each, part), array) for each in (whole, parts))
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, **close)
    assert local or whole.fingerprint == parts.fingerprint
    pd.testing.assert_frame_equal(frame, pieces)
    np.testing.assert_allclose(scaled.mean, scaled_too.mean)
    learnt = whole.train.features.tobytes() + whole.train.targets.tobytes()
    assert whole.fingerprint == hashlib.sha256(learnt).hexdigest()


@pytest.mark.parametrize("missing", ["mean", "drop", "indicator"])
def test_a_row_without_a_label_is_left_out_of_training_and_evaluation(missing):
    """The contract lets the target be empty, and the silo was left out whole for it."""
    columns = clinic.contract().model_dump(mode="json")["columns"]
    columns["ill"]["nullable_share"] = 0.5
    told = {"name": "clinic", "version": 1, "columns": columns}
    rows = ROWS.assign(ill=pd.array([0, None, 1], dtype="Int64"))
    found = encoding(Contract.parse(told, where="clinic"), features={"missing": missing})
    usable = found.usable(rows)
    assert usable.index.tolist() == ([0] if missing == "drop" else [0, 2])
    assert found.target(usable).tolist() == ([0] if missing == "drop" else [0, 1])
    # A row to be scored needs no label.
    assert len(found.usable(ROWS.drop(columns="ill"))) == (1 if missing == "drop" else 3)
