"""What tells one silo's rows from others in MLflow: a mark that says nothing else, or none.

The digest of a silo's dataset was once the contract's: the same for all silos, and for other rows.
"""

from __future__ import annotations

import re

import attacker
import clinic
import numpy as np
import pytest

from consilo.contracts.report import CheckReport
from consilo.errors import ReplyInvalid
from consilo.protocols.contract_check import ContractCheck
from silos.gate.policy import TEMPLATE
from silos.simulation.in_memory import InMemorySilo

ROWS = clinic.frame(40, missing=0)


def mark(tmp_path, rows, *, silo="north", run="r1"):
    host = InMemorySilo(silo, rows)
    made = clinic.run_of(clinic.job(), {silo: host}, tmp_path / run / silo, run_id=run)
    made.check(silo, marked=True)
    return made.marks.get(silo)


def test_it_is_the_same_for_the_same_rows_and_another_for_any_other(tmp_path):
    first = mark(tmp_path, ROWS)
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert mark(tmp_path, ROWS.copy(), run="r2") == first
    others = [
        ROWS.assign(age=ROWS["age"].where(ROWS.index != 7, ROWS["age"] + 1e-9)),
        ROWS.iloc[1:],
        ROWS.iloc[::-1].reset_index(drop=True),
        ROWS.assign(smoker=~ROWS["smoker"]),
    ]
    found = {mark(tmp_path, rows, run=f"o{n}") for n, rows in enumerate(others)}
    assert len(found | {first}) == 5


def test_two_silos_with_the_same_rows_have_other_marks(tmp_path):
    assert mark(tmp_path, ROWS) != mark(tmp_path, ROWS, silo="south")


def test_whoever_does_not_ask_gets_none(tmp_path):
    silo = attacker.make(tmp_path, TEMPLATE, ROWS)
    assert set(attacker.ask(silo, "contract_check", "check", {})[1]) == {"report"}
    assert set(attacker.ask(silo, "contract_check", "check", {"mark": True})[1]) == {
        "report",
        "mark",
    }


@pytest.mark.parametrize(
    "policy",
    [
        attacker.STRICT,
        TEMPLATE.replace("required: no", "required: yes"),
        TEMPLATE.replace("exact_statistics: yes", "exact_statistics: no"),
    ],
)
def test_where_privacy_is_wanted_none_leaves(tmp_path, policy):
    assert policy != TEMPLATE
    silo = attacker.make(tmp_path, policy, ROWS)
    _, fields = attacker.ask(silo, "contract_check", "check", {"mark": True})
    assert set(fields) == {"report"}
    assert fields["report"]["verdict"] == "passed"


def test_none_leaves_of_rows_that_break_the_contract_or_are_few(tmp_path):
    broken = ROWS.assign(age=np.where(ROWS.index == 3, 400.0, ROWS["age"]))
    for number, rows in enumerate((broken, ROWS.iloc[:4])):
        silo = attacker.make(tmp_path / str(number), TEMPLATE, rows)
        _, fields = attacker.ask(silo, "contract_check", "check", {"mark": True})
        assert "mark" not in fields


@pytest.mark.parametrize("said", ["", "x" * 32, "A" * 32, 5, "0" * 33])
def test_a_mark_of_another_shape_is_no_answer(tmp_path, said):
    report = CheckReport(
        contract="clinic@1",
        contract_digest=clinic.contract().digest,
        verdict="passed",
        findings=(),
    )
    verb = ContractCheck.verbs()["check"]
    fields = {"report": report.model_dump(mode="json"), "mark": said}
    with pytest.raises(ReplyInvalid, match="32 hexadecimal digits"):
        verb.check(fields, {})
