"""Exact tables on cells that a contract declares, asked for by a coordinator that wants a row."""

from __future__ import annotations

import asked_rows as rows
import attacker
import numpy as np
import pytest
import yaml

from consilo.horizontal.asked.axes import Axes
from consilo.horizontal.asked.release import Cut, table_names, templates, told_templates
from consilo.jobs.job import Job
from consilo.wire.signing import public_hex
from silos.gate.partners import Partner
from silos.gate.policy import TEMPLATE
from silos.proposals import onboard
from silos.silo import Silo

ROWS = rows.frame(120, 3)
SHIFTED = rows.CONTRACT.replace("bmi: [10, 20, 25, 30, 60]", "bmi: [10, 20, 25.01, 30, 60]")
PRIVATE = {"epsilon": 1.0, "delta": 1e-5, "statistics_epsilon": 0.9}


def silo_of(path, policy=TEMPLATE, table=ROWS, contracts=(rows.CONTRACT,)):
    silo = attacker.make(path, policy, table, agreed=False)
    for text in contracts:
        contract = rows.contract(text)
        onboard.confirm(path, contract, contract.digest)
    return silo


def ask(silo, text=rows.CONTRACT, *, run="run", names=None, job=None, **changes):
    contract = rows.contract(text)
    job = job or rows.job(contract=contract.ref, **changes)
    axes = Axes.of(contract)
    payload = {
        "tables": templates(axes, names or table_names(axes)),
        "told": told_templates(axes),
    }
    return attacker.ask(
        silo, "declared_tables", "tables", payload, job, contract, run=run, attest=True
    )


def other(text, version=2):
    return text.replace("version: 1", f"version: {version}")


def test_bins_that_are_moved_by_a_hair_are_refused(tmp_path):
    """Two contracts that both are confirmed: their difference would be the rows in between."""
    moved = other(SHIFTED)
    silo = silo_of(tmp_path, contracts=(rows.CONTRACT, moved))
    assert ask(silo)[0].status == "ok"
    header, fields = ask(silo, moved, run="two")
    assert (header.status, header.code, fields) == ("fault", "too_few_rows", {})
    assert ask(silo, run="three")[0].status == "ok"
    digest = Axes.of(rows.contract(moved)).digest
    allowed = TEMPLATE + f"\nstatistics_on: ['{digest[:12]}']\n"
    again = attacker.make(tmp_path, allowed, ROWS, agreed=False)
    assert ask(again, moved, run="four")[0].status == "ok"


def test_the_same_columns_under_another_contracts_name_are_another_declaration(tmp_path):
    """A mapping goes by the name: another one may stretch the units under the same bins."""
    renamed = rows.CONTRACT.replace("name: remission", "name: remitted")
    silo = silo_of(tmp_path, contracts=(rows.CONTRACT, renamed))
    assert ask(silo)[0].status == "ok"
    assert ask(silo, renamed, run="two")[0].code == "too_few_rows"


def test_a_version_that_changes_nothing_told_is_the_same_declaration(tmp_path):
    worded = other(rows.CONTRACT).replace("unit: year", "unit: year, description: at diagnosis")
    silo = silo_of(tmp_path, contracts=(rows.CONTRACT, worded))
    assert ask(silo)[0].status == "ok"
    assert ask(silo, worded, run="two")[0].status == "ok"


def test_the_rows_in_another_data_set_of_the_same_file_are_the_same_rows(tmp_path):
    silo = silo_of(tmp_path)
    assert ask(silo)[0].status == "ok"
    moved = other(SHIFTED)
    contract = rows.contract(moved)
    (tmp_path / "mappings").mkdir(exist_ok=True)
    (tmp_path / "mappings" / f"{contract.ref}.yaml").write_text(
        f"contract: {contract.ref}\nagreed: {contract.digest}\ndata: alias\n"
    )
    south = {"south": Partner(signing_key=public_hex(attacker.SOUTH))}
    source = {"type": "csv", "path": "rows.csv"}
    config = {"name": "north", "data": {"rows": source, "alias": source}}
    (tmp_path / "silo.yaml").write_text(yaml.safe_dump(config))
    again = Silo.open(tmp_path, signing_keys=(public_hex(attacker.KEY),), partners=south)
    header, _ = ask(again, moved, run="two")
    assert header.code == "too_few_rows", header.reason


def test_asked_again_and_in_parts_it_says_the_same(tmp_path):
    silo = silo_of(tmp_path)
    _, whole = ask(silo)
    for number, name in enumerate(sorted(whole["tables"])):
        _, part = ask(silo, names=(name,), run=f"run{number}", seed=number)
        assert np.array_equal(part["tables"][name], whole["tables"][name])


def test_a_table_of_ones_own_is_refused(tmp_path):
    silo = silo_of(tmp_path)
    contract, job = rows.contract(), rows.job()
    payload = {
        "tables": {"bins/weeks": np.zeros(41), "bins/bmi": np.zeros(1000)},
        "told": told_templates(Axes.of(contract)),
    }
    header, fields = attacker.ask(
        silo, "declared_tables", "tables", payload, job, contract, attest=True
    )
    assert (header.status, fields) == ("fault", {})


def test_bins_of_ones_own_size_are_refused(tmp_path):
    silo = silo_of(tmp_path)
    contract = rows.contract()
    payload = {
        "tables": {"bins/bmi": np.zeros(1000)},
        "told": told_templates(Axes.of(contract)),
    }
    header, fields = attacker.ask(
        silo, "declared_tables", "tables", payload, rows.job(), contract, attest=True
    )
    assert (header.status, fields) == ("fault", {})


def test_it_is_answered_in_jobs_of_its_own_alone(tmp_path):
    silo = silo_of(tmp_path)
    job = Job.from_json(
        {
            "name": "learns",
            "contract": "remission@1",
            "model": "consilo.learners.tabular:LogisticRegression",
        }
    )
    header, fields = ask(silo, job=job)
    assert (header.status, fields) == ("fault", {})


@pytest.mark.parametrize(
    "policy",
    [
        TEMPLATE.replace("required: no", "required: yes"),
        TEMPLATE.replace("exact_statistics: yes", "exact_statistics: no"),
        TEMPLATE.replace("statistic: yes", "statistic: no"),
        TEMPLATE.replace("statistic: yes", "statistic: {min_rows: 121}"),
    ],
    ids=["required", "no exact", "no statistic", "too few rows"],
)
def test_a_silo_that_wants_more_refuses_exact_tables(tmp_path, policy):
    header, fields = ask(silo_of(tmp_path, policy))
    assert (header.status, fields) == ("fault", {})


def test_cells_have_the_policys_floor(tmp_path):
    policy = TEMPLATE.replace("statistic: yes", "statistic: {min_rows: 30}")
    header, fields = ask(silo_of(tmp_path, policy))
    assert header.status == "ok", header.reason
    cells = np.concatenate(
        [v.ravel() for k, v in fields["tables"].items() if k.startswith(("bins", "time", "group"))]
    )
    assert (cells[cells > 0] >= 30).all()


def test_noise_is_paid_once_for_the_same_rows_whichever_run_asks(tmp_path):
    silo = silo_of(tmp_path, attacker.STRICT.replace("min_cohort: 5", "min_cohort: 2"))
    first = ask(silo, privacy=PRIVATE)[1]
    again = ask(silo, run="two", privacy=PRIVATE, name="another_job", seed=9)[1]
    for name, table in first["tables"].items():
        assert np.array_equal(table, again["tables"][name])
    assert attacker.reserved(silo) == 1
    header, _ = ask(silo, run="three", names=("time",), privacy=PRIVATE)
    assert header.code == "budget_exhausted", (
        header.reason
    )  # another question has a price of its own
    assert attacker.reserved(silo) == 1


def test_other_rows_are_another_use_with_other_noise(tmp_path):
    policy = attacker.STRICT.replace("min_cohort: 5", "min_cohort: 2").replace(
        "epsilon: 1.0, delta", "epsilon: 9.0, delta"
    )
    silo = silo_of(tmp_path, policy)
    first = ask(silo, privacy=PRIVATE)[1]
    ROWS.iloc[1:].to_csv(tmp_path / "rows.csv", index=False)
    second = ask(silo, run="two", privacy=PRIVATE)[1]
    assert attacker.reserved(silo) == 2
    exact = [
        Cut.of(Axes.of(rows.contract()), table).table("group/arm") for table in (ROWS, ROWS[1:])
    ]
    noise = [
        answer["tables"]["group/arm"] - each
        for answer, each in zip((first, second), exact, strict=True)
    ]
    assert np.abs(noise[0] - noise[1]).min() > 0
