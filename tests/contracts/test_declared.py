"""What a contract declares for people: bins, groups, a grid of times."""

from __future__ import annotations

import asked_rows as rows
import pytest

from consilo.contracts.contract import Contract
from consilo.errors import ContractInvalid


def test_a_contract_that_declares_nothing_reads_as_before():
    text = rows.CONTRACT[: rows.CONTRACT.index("groups:")]
    assert "analytics" not in rows.contract(text).to_json()
    assert "groups" not in rows.contract(text).to_json()


def test_what_is_declared_survives_its_json():
    contract = rows.contract()
    assert Contract.from_json(contract.to_json()) == contract
    assert contract.analytics.bins["age"] == tuple(range(0, 101, 10))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("groups: [arm, sex]", "groups: [arm, age]", "stands in groups.1 too"),
        ("groups: [arm, sex]", "groups: [arms]", "did you mean 'arm'"),
        ("groups: [arm, sex]", "groups: [weeks]", "stands in groups.0 too"),
        ("bmi: [10, 20, 25, 30, 60]", "bmi: [10, 20, 25, 30]", "over the whole range, 10 to 60"),
        ("bmi: [10, 20, 25, 30, 60]", "bmi: [10, 25, 20, 60]", "each end must be above"),
        ("bmi: [10, 20, 25, 30, 60]", "bmi: values", "'values' is of a boolean"),
        ("stage: values", "stage: [1, 2, 3]", "needs a number with a range"),
        ("stage: values", "weeks: [0, 20, 40]", "two would tell of the rows between"),
        ("event: relapse", "event: stage", "stands in analytics.bins.stage too"),
        ("{from: 0, to: 36, step: 1}", "[4, 8]", "must begin at 0"),
        ("{from: 0, to: 36, step: 1}", "{from: 0, to: 36, step: 0.01}", "400 steps at most"),
        ("{from: 0, to: 36, step: 1}", "{from: 0, to: 36, step: 7}", "does not lead from 0 to 36"),
    ],
)
def test_what_cannot_be_told_is_refused(old, new, said):
    assert old in rows.CONTRACT
    with pytest.raises(ContractInvalid, match=said.replace("(", r"\(")):
        rows.contract(rows.CONTRACT.replace(old, new))
