"""Rows that a job holds out by name: by a column's values, by time, by fold."""

from contextlib import nullcontext

import clinic
import numpy as np
import pandas as pd
import pytest
import yaml

from consilo import cross_validate, simulate
from consilo.errors import IncompatibleJob, JobInvalid, Refused
from consilo.horizontal.features import Encoding
from consilo.horizontal.holdout import NEITHER, TEST, TRAIN, require_split, sides
from consilo.jobs.job import Evaluation, Job
from silos.gate.narrow_policy import narrowest
from silos.gate.policy import EvaluationRules, Policy, PrivacyRules

KEY = bytes(range(32))
TEXT = clinic.CONTRACT + (
    "  fold: {type: category, role: id, allowed: [a, b, test], nullable_share: 0.9}\n"
    "  seen: {type: date, role: time, nullable_share: 0.9,"
    " range: {min: 2020-01-01, max: 2025-01-01}}\n"
    "  year: {type: integer, role: id, range: {min: 2000, max: 2030}}\n"
    "  free: {type: string, role: ignore}\n"
)
CONTRACT = clinic.contract(TEXT)


def frame(rows=60, seed=0):
    made = clinic.frame(rows, seed, missing=0)
    fold = pd.Series([("a", "b", "test", None)[row % 4] for row in range(rows)], dtype="string")
    seen = pd.to_datetime(["2023-12-31", "2024-01-01", "2024-01-02", None] * (rows // 4))
    return made.assign(fold=fold, seen=seen, year=[2018 + row % 5 for row in range(rows)])


def side_of(split, rows=None):
    rows = frame(8) if rows is None else rows
    return sides(rows, CONTRACT, Evaluation(split=split), KEY).tolist()


def test_a_columns_values_say_it_and_an_empty_cell_is_on_neither_side():
    found = side_of({"column": "fold", "test": ["test"]})
    assert found == [TRAIN, TRAIN, TEST, NEITHER] * 2
    found = side_of({"column": "fold", "test": ["test"], "train": ["b"]})
    assert found == [NEITHER, TRAIN, TEST, NEITHER] * 2
    assert side_of({"column": "year", "test": [2019]}) == [0, 1, 0, 0, 0, 0, 1, 0]


def test_time_says_it_and_the_day_itself_is_learnt_from():
    found = side_of({"column": "seen", "after": "2024-01-01"})
    assert found == [TRAIN, TRAIN, TEST, NEITHER] * 2
    late = frame(8).assign(seen=pd.Timestamp("2024-01-01 23:59"))
    assert side_of({"column": "seen", "after": "2024-01-01"}, late) == [TRAIN] * 8
    assert side_of({"column": "year", "after": 2020}) == [0, 0, 0, 1, 1, 0, 0, 0]


@pytest.mark.parametrize("folds", [2, 3, 7])
@pytest.mark.parametrize("more", ["", "  who: {type: string, role: subject}\n"])
def test_each_row_or_subject_is_held_out_in_just_one_fold(folds, more):
    contract = clinic.contract(clinic.CONTRACT + more)
    rows = clinic.frame(400, missing=0).assign(who=[f"p{row % 90}" for row in range(400)])
    held = np.array(
        [
            sides(rows, contract, Evaluation(split={"folds": folds, "fold": each + 1}), KEY)
            for each in range(folds)
        ]
    )
    assert held.sum(axis=0).tolist() == [1] * 400
    if contract.subject:
        whose = pd.DataFrame(held.T).groupby(rows["who"]).nunique()
        assert int(whose.to_numpy().max()) == 1


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"column": "fold"}, "give one of three"),
        ({"column": "fold", "test": ["a"], "after": 3}, "give one of three"),
        ({"test": ["a"]}, "say which column"),
        ({"folds": 5}, "folds and fold belong together"),
        ({"folds": 5, "fold": 6}, "there are 5 folds, found 6"),
        ({"folds": 5, "fold": 0}, "at least 1"),
        ({"folds": 5, "fold": 1, "column": "fold"}, "of no column"),
        ({"column": "fold", "test": ["a"], "train": ["a"]}, "is in test and in train"),
        ({"column": "seen", "after": "2024-01-01", "train": ["a"]}, "train: goes with test"),
        ({"column": "seen", "after": True}, "after"),
        ({"colum": "fold", "test": ["a"]}, "column"),
    ],
)
def test_what_says_nothing_or_two_things_is_refused(split, said):
    with pytest.raises(JobInvalid, match=said):
        clinic.job(evaluation={"split": split})


@pytest.mark.parametrize(
    ("split", "said"),
    [
        ({"column": "flod", "test": ["a"]}, "no column 'flod'; did you mean 'fold'"),
        ({"column": "fold", "test": ["c"]}, "may not be 'c'; it may be a, b, test"),
        ({"column": "fold", "test": ["a", "b", "test"]}, "nothing would be learnt from"),
        ({"column": "fold", "after": 3}, "is a category; give its values under test"),
        ({"column": "seen", "test": ["2024-01-01"]}, "is a date; say after which one"),
        ({"column": "seen", "after": 2024}, "must be a day"),
        ({"column": "year", "after": "2024-01-01"}, "must be a number"),
        ({"column": "year", "test": ["2019"]}, "is no integer"),
        ({"column": "seen", "after": "2025-01-01"}, "all rows would be learnt from"),
        ({"column": "seen", "after": "2019-06-01"}, "all rows would be held out"),
        ({"column": "free", "test": ["a"]}, "has the role ignore"),
        ({"column": "ill", "test": [1]}, "has the role target"),
        ({"column": "fold", "test": ["a"], "as_feature": True}, "has the role id"),
    ],
)
def test_validate_finds_what_the_contract_does_not_allow(split, said, tmp_path):
    job = clinic.job(evaluation={"split": split})
    with pytest.raises(IncompatibleJob, match=said):
        require_split(CONTRACT, job.evaluation.named)
    rows = {"east": frame(), "north": frame(seed=1)}
    with pytest.raises(IncompatibleJob, match=said):
        clinic.run_of(job, clinic.hosts(rows), tmp_path, contract_=CONTRACT)


def test_share_and_split_together_are_refused(tmp_path):
    job = clinic.job(evaluation={"holdout": 0.3, "split": {"folds": 5, "fold": 1}})
    with pytest.raises(IncompatibleJob, match="give one of both"):
        clinic.run_of(job, clinic.hosts({"east": frame()}), tmp_path, contract_=CONTRACT)


def test_the_splits_column_is_no_input_unless_asked():
    split = {"column": "ward", "test": ["c"]}
    inputs = [
        Encoding.plan(CONTRACT, clinic.job(evaluation={"split": each})).inputs
        for each in (split, {**split, "as_feature": True})
    ]
    assert not any(name.startswith("ward") for name in inputs[0])
    assert [name for name in inputs[1] if name.startswith("ward")] == ["ward=a", "ward=b", "ward=c"]


def test_a_run_says_how_many_rows_are_on_neither_side():
    job = clinic.job(evaluation={"split": {"column": "fold", "test": ["test"]}})
    result = simulate(job, {"east": frame(), "north": frame(80, 1)}, contract=CONTRACT)
    assert result.status == "complete"
    assert {name: each.num_held_out for name, each in result.silos.items()} == {
        "east": 15,
        "north": 20,
    }
    assert any("not used: east 15, north 20" in note for note in result.notes)
    secret = job.changed(privacy={"epsilon": 5.0, "delta": 1e-3, "reproducible": True})
    private = simulate(secret, {"east": frame(), "north": frame(80, 1)}, contract=CONTRACT)
    assert not any("neither side" in note for note in private.notes)


def test_rows_that_judge_nothing_since_their_subject_is_learnt_from_are_counted():
    """They were left out without a word."""
    contract = clinic.contract(TEXT + "  who: {type: string, role: subject}\n")
    rows = frame().assign(who=[f"p{row // 2}" for row in range(60)])
    job = clinic.job(evaluation={"split": {"column": "fold", "test": ["b", "test"]}})
    result = simulate(job, {"east": rows, "north": rows}, contract=contract)
    assert [each.num_held_out for each in result.silos.values()] == [15, 15]
    (note,) = [each for each in result.notes if "not used" in each]
    assert "east 30, north 30" in note  # a quarter says nothing, another is of those learnt from


def test_a_job_with_a_split_reads_back_as_it_was():
    for split in ({"column": "seen", "after": "2024-01-01"}, {"folds": 3, "fold": 2}, "part"):
        job = clinic.job(evaluation={"split": split})
        assert Job.from_json(job.to_json()) == job
        assert job.young_keys() == {"evaluation.split": 3}


def test_a_silo_lets_no_split_be_moved():
    by_day = {"column": "seen", "after": "2024-01-01"}
    jobs = [
        clinic.job(evaluation={"split": each})
        for each in (by_day, {**by_day, "after": "2024-01-02"}, {"folds": 3, "fold": 1})
    ]
    rules = EvaluationRules(splits=(jobs[0].evaluation.named,), max_holdout=0.34)
    for policy_rules, refused in (
        (rules, [False, True, False]),
        (EvaluationRules(max_holdout=0.3), [True, True, True]),
        (EvaluationRules(splits=None), [False, False, False]),
    ):
        policy = Policy.model_construct(evaluation=policy_rules)
        for job, expected in zip(jobs, refused, strict=True):
            if expected:
                with pytest.raises(Refused) as found:
                    policy._permit_holdout(job)
                assert found.value.code == "holdout"
            else:
                policy._permit_holdout(job)
    for job in jobs:
        rules = EvaluationRules.model_validate(yaml.safe_load(narrowest(job))["evaluation"])
        Policy.model_construct(evaluation=rules)._permit_holdout(job)


def test_cross_validation_tells_each_fold_mean_and_deviation():
    found = cross_validate(
        clinic.job(),
        {"east": clinic.frame(60), "north": clinic.frame(80, 1)},
        folds=3,
        contract=clinic.contract(),
    )
    held = [sum(each.num_held_out for each in run.silos.values()) for run in found.folds]
    assert sum(held) == 140
    figures = found.figures["roc_auc"]
    assert found.summary.loc["roc_auc"].tolist() == pytest.approx(
        [figures.mean(), figures.std(ddof=1), 3]
    )
    assert figures.index.tolist() == [1, 2, 3]
    assert figures.nunique() == 3
    assert set(found.figures["status"]) == {"complete"}


def test_where_privacy_is_wanted_no_split_counts_rows_that_nobody_listed():
    """How many rows are on either side is told exactly, which asks for any range."""
    jobs = [
        clinic.job(evaluation={"split": each})
        for each in ({"column": "seen", "after": "2024-01-01"}, {"folds": 3, "fold": 1})
    ]
    for wants in ({"required": True}, {"budgets": {"*": {"epsilon": 1.0, "delta": 1e-5}}}):
        for splits, refused in ((None, True), ((jobs[0].evaluation.named,), False)):
            policy = Policy.model_construct(
                evaluation=EvaluationRules(splits=splits),
                privacy=PrivacyRules.model_validate(wants),
            )
            with pytest.raises(Refused, match="does not list") if refused else nullcontext():
                policy._permit_holdout(jobs[0])
            policy._permit_holdout(jobs[1])
