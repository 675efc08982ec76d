"""Rows read back from exact answers that are made of enough rows each, by a setting of the job.

Neighbours of `rows_by_evaluate.py` and `split_instability.py`: a batch of one row, a column of one
value, a share that is moved by a hair.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attacker
import clinic
import numpy as np
import pytest

from consilo.horizontal.features import Encoding
from consilo.horizontal.holdout import PURPOSE, unit_numbers
from consilo.horizontal.statistics import _templates
from consilo.jobs.match import Match
from silos.gate.policy import TEMPLATE
from silos.proposals import onboard

CONTRACT = clinic.contract()
WHOLE = {"batch_size": 1000, "steps": 1, "lr": 1.0}


@pytest.fixture
def silo(tmp_path):
    return attacker.make(tmp_path, TEMPLATE)


def train(silo, **changes):
    job = clinic.job(**{"local": WHOLE, **changes})
    return attacker.ask(silo, "fedavg", "train", attacker.model(job), job, attest=True)


def statistics(silo, contract=CONTRACT, **changes):
    job = clinic.job(**changes)
    asked = _templates(Encoding.plan(contract, job), moments=True, target=False)
    return attacker.ask(silo, "statistics", "moments", asked, job, contract, attest=True)


def share(silo, rows: int) -> float:
    """A share of the rows of which just so many have numbers below it."""
    key = silo.secrets.lasting(PURPOSE)
    numbers = np.sort(unit_numbers(silo.rows.frame(CONTRACT), CONTRACT, key)).astype(float)
    return float((numbers[rows - 1] + numbers[rows]) / 2**65)


def fold(folds: int, number: int) -> dict:
    return {"split": {"folds": folds, "fold": number}}


@pytest.mark.parametrize(
    "few", [{"batch_size": 1, "steps": 1}, {"batch_size": 2, "steps": 2}], ids=str
)
def test_an_update_is_made_of_as_many_rows_as_its_floor(silo, few) -> None:
    """A step on one row is its gradient: the row itself, times that of the bias."""
    header, fields = train(silo, local={**few, "lr": 1.0})
    assert (header.code, fields) == ("too_few_rows", {})
    for enough in ({"batch_size": 5, "steps": 1}, {"batch_size": 2, "epochs": 1}):
        assert train(silo, local=enough)[0].status == "ok"


def test_the_mean_of_one_value_is_not_told(tmp_path) -> None:
    """However many rows have none in that column."""
    rows = clinic.frame(500, missing=0)
    rows.loc[4:, "age"] = np.nan
    contract = clinic.contract(
        clinic.CONTRACT.replace("nullable_share: 0.9", "nullable_share: 1.0")
    )
    silo = attacker.make(tmp_path, TEMPLATE, rows, agreed=False)
    onboard.confirm(tmp_path, contract, contract.digest)
    header, fields = statistics(silo, contract)
    assert header.status == "ok", header.reason
    assert [float(each[0]) for each in fields["moments"].values()] == [0.0, 0.0, 0.0]
    assert fields["moments"]["count"][1] == fields["rows"] > 300


@pytest.mark.parametrize(
    ("ask", "fault"),
    [(train, "too_few_rows"), (statistics, "refused")],
    ids=["train", "moments"],
)
def test_no_two_shares_tell_single_rows_apart(silo, ask, fault) -> None:
    """Before and after a share was moved by a hair, two sums differed by one row's part."""
    assert ask(silo, evaluation={"holdout": share(silo, 8)})[0].status == "ok"
    for rows in (7, 9, 12, 4):
        header, fields = ask(silo, evaluation={"holdout": share(silo, rows)})
        assert (header.code, fields) == (fault, {}), rows
    # The same rows again, or many others: neither tells of few.
    assert ask(silo, evaluation={"holdout": share(silo, 8) * (1 + 1e-12)})[0].status == "ok"
    assert ask(silo, evaluation={"holdout": share(silo, 16)})[0].status == "ok"
    # Between two that are taken lies none that is near to one of them; all rows are a share, too.
    assert ask(silo, evaluation={"holdout": share(silo, 12)})[0].code == fault
    assert ask(silo, evaluation={"holdout": 1e-30})[0].status == "ok"
    assert ask(silo, evaluation={"holdout": share(silo, 3)})[0].code == fault


def test_figures_of_a_larger_floor_are_left_out_and_the_rest_is_answered(tmp_path) -> None:
    policy = TEMPLATE.replace("metric: yes", "metric: {min_rows: 7}")
    silo = attacker.make(tmp_path, policy)
    told = []
    for rows in (7, 12, 7, 17, 12):
        header, fields = train(silo, evaluation={"holdout": share(silo, rows)})
        assert header.status == "ok", header.reason
        told.append("tally" in fields)
    assert told == [True, False, True, False, False]


def test_nor_do_a_share_and_a_fold(silo) -> None:
    half = share(silo, 18)
    assert train(silo, evaluation={"holdout": half})[0].status == "ok"
    told = {}
    for folds in range(2, 9):
        for number in range(1, folds + 1):
            told[folds, number] = train(silo, evaluation=fold(folds, number))[0].code
    assert {"too_few_rows", ""} == set(told.values())
    key = silo.secrets.lasting(PURPOSE)
    numbers = np.sort(unit_numbers(silo.rows.frame(CONTRACT), CONTRACT, key))
    ends = np.array(
        [half]
        + [
            end
            for (folds, number), code in told.items()
            if not code
            for end in ((number - 1) / folds, number / folds)
            if end < 1
        ]
    )
    places = np.searchsorted(numbers.astype(float) / 2**64, np.unique(ends))
    between = np.diff(places)
    assert between[between > 0].min() >= 5


SPLIT = clinic.CONTRACT + "  fold: {type: category, role: split, allowed: [train, test]}\n"


@pytest.mark.parametrize("first", ["split", "share"])
@pytest.mark.parametrize(("held", "taken"), [(3, False), (8, True)])
def test_nor_do_a_share_and_a_split_by_a_column(tmp_path, first, held, taken) -> None:
    """Three rows that a column holds out were the difference to an answer made of all rows."""
    rows = clinic.frame(40, missing=0)
    rows["fold"] = ["test"] * held + ["train"] * (40 - held)
    contract = clinic.contract(SPLIT)
    silo = attacker.make(tmp_path, TEMPLATE, rows, agreed=False)
    onboard.confirm(tmp_path, contract, contract.digest)
    asked = {"split": {"split": "fold"}, "share": {"holdout": 1e-30}}
    told = []
    for each in (first, *(asked.keys() - {first}), first):
        job = clinic.job(local=WHOLE, evaluation=asked[each])
        payload = attacker.model(job)
        header, _ = attacker.ask(silo, "fedavg", "train", payload, job, contract, attest=True)
        told.append(header.code)
    assert told == ["", "" if taken else "too_few_rows", ""]


def test_rows_that_lack_a_feature_are_not_told_apart_by_dropping_them(tmp_path) -> None:
    rows = clinic.frame(60, missing=0)
    rows.loc[:2, "age"] = np.nan
    silo = attacker.make(tmp_path / "few", TEMPLATE, rows)
    assert train(silo)[0].status == "ok"
    header, _ = train(silo, features={"missing": "drop"})
    assert header.code == "too_few_rows"
    rows.loc[:5, "age"] = np.nan
    silo = attacker.make(tmp_path / "many", TEMPLATE, rows)
    for missing in ("drop", "mean", "indicator", "drop"):
        assert train(silo, features={"missing": missing})[0].status == "ok"


def test_where_privacy_is_wanted_rows_that_lack_a_feature_are_not_counted(tmp_path) -> None:
    """The number of rows learnt from is exact: with and without them, it told how many lack it."""
    silo = attacker.make(tmp_path, TEMPLATE.replace("required: no", "required: yes"))
    privacy = {"epsilon": 5.0, "delta": 1e-5}
    told = {}
    for missing in ("mean", "indicator", "drop"):
        header, fields = train(silo, features={"missing": missing}, privacy=privacy)
        told[missing] = (header.status, fields.get("num_examples"))
    assert told == {"mean": ("ok", 29), "indicator": ("ok", 29), "drop": ("fault", None)}
    assert "features.missing" in header.reason


AFTER = {"split": {"column": "age", "after": 60.0}}
REST = {"runs": ["before"], "rounds": 1, "record": "0" * 64}


@pytest.mark.parametrize("verb", ["quote/quote", "continuation/reserve", "fedavg/train"])
@pytest.mark.parametrize("rule", ["required: no", "exact_statistics: yes"])
def test_no_verb_counts_the_rows_of_a_range(tmp_path, verb, rule) -> None:
    """What a run's rounds cost tells how many rows; it was asked of rows up to any age."""
    strict = {"required: no": "required: yes", "exact_statistics: yes": "exact_statistics: no"}
    policy = TEMPLATE.replace(rule, strict[rule])
    silo = attacker.make(tmp_path, policy + "\nevaluation: {splits: null, max_holdout: 0.3}\n")
    private = {"epsilon": 5.0, "delta": 1e-5, "statistics_epsilon": 0.5}
    for asked in (AFTER, {"holdout": 0.4}):
        job = clinic.job(privacy=private, continues=REST, evaluation=asked)
        header, fields = attacker.ask(silo, *verb.split("/"), attacker.model(job), job, attest=True)
        assert (header.status, fields) == ("fault", {})
        assert "evaluation" in header.reason
    assert not attacker.reserved(silo)


@pytest.mark.parametrize("verb", ["statistics/moments", "fedavg/train", "evaluation/evaluate"])
def test_nothing_is_made_of_all_rows_in_a_job_over_matched_ones(tmp_path, verb) -> None:
    """Shares were held apart in jobs over a silo's own rows only, by the job's kind."""
    silo = attacker.make(tmp_path, TEMPLATE)
    now = datetime.now(UTC)
    told = ("recipe", "clinic@1", "rows", "unstated", now, now + timedelta(days=1))
    silo.matches.keep_match(Match("m", np.arange(30), ("south",), *told))
    held = {"north": ["age", "smoker"], "south": ["ward"]}
    args = {"match": "m", "label_silo": "north", "columns": held}
    for rows in (8, 9):
        job = clinic.job(
            kind="vertical",
            protocol={"name": "vertical_linear", "args": args},
            task="binary",
            evaluation={"holdout": share(silo, rows)},
        )
        payload = attacker.model(job) | _templates(
            Encoding.plan(CONTRACT, job), moments=True, target=False
        )
        header, fields = attacker.ask(silo, *verb.split("/"), payload, job, attest=True)
        assert (header.code, fields) == ("refused", {})
        assert "a silo's own rows" in header.reason


def test_it_goes_by_the_policys_floors_and_by_exact_answers(tmp_path) -> None:
    policy = TEMPLATE.replace("update: yes", "update: {min_rows: 1}")
    silo = attacker.make(
        tmp_path / "open", policy.replace("statistic: yes", "statistic: {min_rows: 1}")
    )
    wanted = TEMPLATE.replace("required: no", "required: yes")
    private = attacker.make(tmp_path / "private", wanted)
    privacy = {"epsilon": 5.0, "delta": 1e-5}
    for rows in (8, 9, 10):
        assert train(silo, evaluation={"holdout": share(silo, rows)})[0].status == "ok"
        held_out = {"holdout": share(private, rows)}
        header, _ = train(private, evaluation=held_out, privacy=privacy)
        assert header.status == "ok", header.reason


NOISELESS = {"epsilon": 1e6, "delta": 0.5, "accountant": "rdp"}


@pytest.mark.parametrize("change", [{}, {"epsilon": 9.0}, {"delta": 1e-5}], ids=str)
def test_what_is_called_noise_is_none_where_nobody_bounds_its_price(silo, change) -> None:
    """A step on one row with ε 1e6 was taken for private, and for one of all rows."""
    privacy = {**NOISELESS, "max_grad_norm": 2.0, **change}
    few = {"batch_size": 1, "steps": 1, "lr": 1.0}
    for local in (few, WHOLE):
        header, fields = train(silo, privacy=privacy, local=local)
        assert (header.code, fields) == ("refused", {})
        assert "in one run" in header.reason


@pytest.mark.parametrize("epsilon", [1.0, 9.0])
def test_nor_does_it_lift_a_floor_there(silo, epsilon) -> None:
    """Of noise that may be asked for as often as one likes the mean is none."""
    privacy = {"epsilon": epsilon, "delta": 1e-5, "accountant": "rdp"}
    few = {"batch_size": 1, "steps": 1, "lr": 1.0}
    same = {"holdout": share(silo, 8)}
    header, _ = train(silo, privacy=privacy, local=few, evaluation=same)
    assert header.code == "too_few_rows"
    told = [
        train(silo, privacy=each, evaluation={"holdout": share(silo, rows)})[0].code
        for each, rows in ((privacy, 8), (privacy, 9), (None, 9), (None, 8), (privacy, 16))
    ]
    assert told == ["", "too_few_rows", "too_few_rows", "", ""]


def test_the_mean_of_few_values_is_not_told_with_next_to_no_noise_either(tmp_path) -> None:
    rows = clinic.frame(500, missing=0)
    rows.loc[3:, "age"] = np.nan
    contract = clinic.contract(
        clinic.CONTRACT.replace("nullable_share: 0.9", "nullable_share: 1.0")
    )
    policy = TEMPLATE.replace("# max_epsilon: 10.0", "max_epsilon: 1.0e+9")
    policy = policy.replace("# max_delta: 1.0e-3", "max_delta: 0.9")
    silo = attacker.make(tmp_path, policy, rows, agreed=False)
    onboard.confirm(tmp_path, contract, contract.digest)
    privacy = {**NOISELESS, "statistics_epsilon": 5e5}
    header, fields = statistics(silo, contract, privacy=privacy)
    assert header.status == "ok", header.reason
    assert [float(each[0]) for each in fields["moments"].values()] == [0.0, 0.0, 0.0]
    assert fields["moments"]["count"][1] > 300


@pytest.mark.parametrize("verb", ["quote/quote", "fedavg/train", "statistics/moments"])
def test_numbers_of_rows_that_are_alike_are_not_found_by_moving_a_share(tmp_path, verb) -> None:
    """They lie at one place, so that shares enough told how many are alike, at no ε."""
    policy = TEMPLATE.replace("required: no", "required: yes") + "\nevaluation: {shares: 3}\n"
    silo = attacker.make(tmp_path, policy)
    privacy = {"epsilon": 5.0, "delta": 1e-5, "statistics_epsilon": 0.5, "accountant": "rdp"}
    payload = attacker.model() | {"moments": {}, "classes": {"counts": np.zeros(2, np.int64)}}
    told = []
    for number, asked in enumerate(
        ({"holdout": 0.2}, fold(3, 2), {"holdout": 0.25}, {"holdout": 0.2}, fold(3, 3), fold(4, 1))
    ):
        job = clinic.job(privacy=privacy, evaluation=asked, features={"standardize": "none"})
        ask = (silo, *verb.split("/"), payload, job)
        header, _ = attacker.ask(*ask, attest=True, run=f"r{number}")
        told.append((header.status, "evaluation.shares" in header.reason))
    yes, no = ("ok", False), ("fault", True)
    assert told == [yes, yes, no, yes, yes, no]
    # A check counts nothing, and uses no place up.
    job = clinic.job(privacy=privacy, evaluation={"holdout": 0.3})
    assert attacker.ask(silo, "contract_check", "check", {}, job)[0].status == "ok"
