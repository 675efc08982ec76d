"""Which rows are held out depends on each row alone, and on nothing that a job may change."""

from itertools import pairwise

import clinic
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consilo.errors import ContractInvalid, IncompatibleJob, SchemaDrift
from consilo.horizontal.holdout import held_out, numbers, subjects_of
from consilo.jobs.job import Evaluation

KEY = bytes(range(32))
WITH_SUBJECT = clinic.CONTRACT + "  person: {type: string, role: subject}\n"
WITH_SPLIT = clinic.CONTRACT + "  part: {type: category, role: split, allowed: [train, test]}\n"


def held(frame, holdout=0.3, key=KEY, contract=None):
    return held_out(frame, contract or clinic.contract(), Evaluation(holdout=holdout), key)


@given(st.integers(1, 60), st.integers(0, 9), st.floats(0.05, 0.95), st.randoms())
@settings(max_examples=25, deadline=None)
def test_order_and_company_of_rows_do_not_count(rows, seed, holdout, random):
    frame = clinic.frame(rows, seed)
    order = list(range(rows))
    random.shuffle(order)
    found = held(frame, holdout)
    np.testing.assert_array_equal(held(frame.iloc[order], holdout), found[order])
    some = order[: rows // 2]
    np.testing.assert_array_equal(held(frame.iloc[some], holdout), found[some])


def test_a_larger_share_holds_out_all_that_a_smaller_one_does():
    frame = clinic.frame(400)
    sides = [held(frame, share) for share in (0.05, 0.2, 0.5, 0.9)]
    for less, more in pairwise(sides):
        assert not (less & ~more).any()
        assert less.sum() < more.sum()


def test_the_share_is_kept_on_average():
    found = numbers(clinic.frame(20_000, missing=0), clinic.contract().table, KEY) / 2.0**64
    counts, _ = np.histogram(found, 20, (0, 1))
    assert abs(counts - 1000).max() < 5 * np.sqrt(1000)  # five deviations
    assert held(clinic.frame(20_000, missing=0)).mean() == pytest.approx(0.3, abs=0.02)


def test_every_column_counts_and_every_bit_of_a_key():
    frame = clinic.frame(300, missing=0)
    table = clinic.contract().table
    before = numbers(frame, table, KEY)
    for change in ({"age": frame["age"] + 1}, {"smoker": ~frame["smoker"]}, {"ward": "a"}):
        other = numbers(frame.assign(**change), table, KEY)
        same = frame["ward"].to_numpy() == "a" if "ward" in change else np.zeros(len(frame), bool)
        np.testing.assert_array_equal(before == other, same)
    assert not (before == numbers(frame, table, bytes(32))).any()


def test_equal_rows_are_on_one_side_of_whatever_type_their_columns_are():
    frame = clinic.frame(60)
    other = frame.assign(
        age=frame["age"].astype("Float64"),
        smoker=frame["smoker"].astype("boolean"),
        ward=frame["ward"].astype(object).astype("category"),
        ill=frame["ill"].astype("Int64"),
    )
    np.testing.assert_array_equal(held(frame), held(other))
    converted = frame.assign(age=frame["age"] / 2.54 * 2.54)  # its last bits are others
    assert (converted["age"].dropna() != frame["age"].dropna()).any()
    np.testing.assert_array_equal(held(frame), held(converted))


def test_all_rows_of_a_subject_are_on_one_side_and_have_one_number():
    contract = clinic.contract(WITH_SUBJECT)
    frame = clinic.frame(300, missing=0).assign(person=[f"p{each % 40}" for each in range(300)])
    found = held(frame, contract=contract)
    assert frame.assign(held=found).groupby("person")["held"].nunique().max() == 1
    assert 0 < found.sum() < 300
    marks = subjects_of(frame, contract, KEY)
    assert frame.assign(mark=marks).groupby("person")["mark"].nunique().max() == 1
    assert len(set(marks)) == 40


def test_rows_without_a_subject_are_a_fault():
    frame = clinic.frame(3).assign(person=["a", None, "b"])
    with pytest.raises(SchemaDrift, match="'person': rows have no subject"):
        held(frame, contract=clinic.contract(WITH_SUBJECT))


def test_a_column_may_say_it():
    contract = clinic.contract(WITH_SPLIT)
    said = ["train", "test", "test", "train"]
    frame = clinic.frame(4).assign(part=pd.Series(said, dtype="string"))
    asked = Evaluation(split="part")
    assert held_out(frame, contract, asked, KEY).tolist() == [each == "test" for each in said]
    with pytest.raises(SchemaDrift, match="1 rows say neither"):
        held_out(frame.assign(part=["train", None, "test", "test"]), contract, asked, KEY)
    with pytest.raises(IncompatibleJob, match="no column of clinic@1 with the role split"):
        held_out(frame, contract, Evaluation(split="ward"), KEY)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("  part: {type: category, role: split, allowed: [a, b]}\n", "role split needs"),
        ("  who: {type: string, role: subject, nullable_share: 0.1}\n", "role subject needs"),
        (
            "  a: {type: string, role: subject}\n  b: {type: string, role: subject}\n",
            "one column may have the role subject",
        ),
    ],
)
def test_a_contract_is_held_to_what_the_roles_mean(more, fault):
    with pytest.raises(ContractInvalid, match=fault):
        clinic.contract(clinic.CONTRACT + more)
