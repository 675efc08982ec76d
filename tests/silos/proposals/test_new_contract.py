"""A contract from a table whose columns are named as people name them."""

from __future__ import annotations

import re

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from consilo.config import read_yaml
from consilo.contracts.contract import Contract
from silos.commands.app import app
from silos.proposals.new_contract import slugs
from silos.rows.mapping import Mapping

NAMES = ["ER Status", "age/yrs", "Größe (cm)", "2nd: visit", "no", "er_status", "x" * 120, "ok"]


@given(st.lists(st.text(min_size=1), unique=True))
def test_every_name_gets_one_of_its_own_that_a_contract_may_have(names):
    made = slugs(names)
    assert list(made) == names
    assert len(set(made.values())) == len(names)
    assert all(re.fullmatch("[a-z][a-z0-9_]{0,63}", each) for each in made.values())


def test_a_table_with_names_of_any_kind_becomes_a_contract_and_its_mapping(tmp_path):
    """33 of 41 columns of a real table had to be renamed by hand."""
    frame = pd.DataFrame({name: [1.5, 2.0, None] * 10 for name in NAMES})
    frame["ER Status"] = ["yes", "no", "yes"] * 10
    frame["er_status"] = ["007", "7", None] * 10
    frame.to_csv(tmp_path / "t.csv", index=False)
    run = CliRunner().invoke
    place = ["--dir", str(tmp_path)]
    run(app, ["data", "add", "rows", "--csv", str(tmp_path / "t.csv"), *place])
    made = run(app, ["data", "contract", "rows", "--name", "study", *place])
    assert made.exit_code == 0, made.output
    contract = Contract.load("study@1", search=[tmp_path])
    assert list(contract.columns)[:4] == ["er_status", "age_yrs", "grosse_cm", "c_2nd_visit"]
    assert contract.columns["er_status_2"].allowed == ("007", "7")
    assert contract.columns["age_yrs"].nullable_share == 0.35
    mapping = tmp_path / "mappings" / "study@1.yaml"
    told = Mapping.parse(read_yaml(mapping), contract, where="m")
    assert not told.confirmed
    assert told.columns["age_yrs"].source == "age/yrs"
    assert told.columns["er_status"].source == "ER Status"
    assert contract.columns["no"].type == "float"
    again = run(app, ["data", "contract", "rows", "--name", "study", *place])
    assert again.exit_code != 0
    assert "there already" in str(again.exception)


@pytest.mark.parametrize("name", ["Study", "a b", ""])
def test_a_name_that_is_none_for_a_contract_is_refused(tmp_path, name):
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "t.csv", index=False)
    run, place = CliRunner().invoke, ["--dir", str(tmp_path)]
    run(app, ["data", "add", "rows", "--csv", str(tmp_path / "t.csv"), *place])
    made = run(app, ["data", "contract", "rows", "--name", name, *place])
    assert made.exit_code != 0
    assert not (tmp_path / "contracts").exists()
