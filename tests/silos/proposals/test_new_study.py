"""``consilo new``: from any table to files that `job validate` takes and a run trains with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from consilo.cli import build
from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid
from consilo.horizontal.partition import Partition
from silos.proposals.new_study import new_study, widened
from silos.rows.mapping import Mapping
from silos.simulation.simulation import simulate_cut


def table(rows: int = 120) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    age = rng.uniform(21, 77, rows).round(1)
    return pd.DataFrame(
        {
            "Patient ID": [f"p{each:04d}" for each in range(rows)],
            "age/yrs": age,
            "ER Status": rng.choice(["pos", "neg"], rows),
            "Grade": rng.integers(1, 4, rows),
            "Survived": np.where(age + rng.normal(0, 9, rows) > 50, "no", "yes"),
            "Cost": (age * 100 + rng.normal(0, 50, rows)).round(2),
        }
    )


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "patients.csv"
    table().to_csv(path, index=False, sep=";")
    return path


@pytest.mark.parametrize(
    ("target", "task", "column"),
    [
        ("Survived", "binary", {"type": "category", "allowed": ("no", "yes")}),
        ("ER Status", "binary", {"type": "category", "allowed": ("neg", "pos")}),
        ("Grade", "multiclass", {"type": "integer", "allowed": (1, 2, 3)}),
        ("Cost", "regression", {"type": "float", "allowed": None}),
    ],
)
def test_a_job_of_each_task_is_valid_as_it_is_written(csv, tmp_path, target, task, column):
    found = CliRunner().invoke(
        build(), ["new", str(tmp_path / "study"), "--csv", str(csv), "--target", target]
    )
    assert found.exit_code == 0, found.output + str(found.exception)
    job = tmp_path / "study" / "job.yaml"
    assert yaml.safe_load(job.read_text())["task"] == task
    checked = CliRunner().invoke(build(), ["job", "validate", str(job)])
    assert checked.exit_code == 0, checked.output + str(checked.exception)
    contract = Contract.load("study@1", search=[tmp_path / "study"])
    (name,) = contract.targets
    said = contract.columns[name]
    assert {key: getattr(said, key) for key in column} == column
    assert contract.columns["patient_id"].role == "ignore"
    assert contract.columns["age_yrs"].type == "float"
    assert contract.columns["age_yrs"].range.min <= 21 < 77 <= contract.columns["age_yrs"].range.max
    mapping = yaml.safe_load((tmp_path / "study" / "mappings" / "study@1.yaml").read_text())
    assert mapping["confirmed"] is False
    assert mapping["columns"]["er_status"] == {"from": "ER Status"}


@pytest.mark.flow
def test_what_is_written_trains(csv, tmp_path):
    written = new_study(tmp_path / "study", csv, "study", "Survived")
    contract = Contract.load(written["contract"])
    mapping = Mapping.parse(
        {**yaml.safe_load(written["mapping"].read_text()), "confirmed": True},
        contract,
        where="test",
    )
    rows = mapping.apply(table(), contract)
    result = simulate_cut(written["job"], rows, Partition(silos=3), engine="inline")
    assert result.status == "complete", result.reason
    assert result.predict(rows).notna().all(axis=None)


@pytest.mark.flow
def test_a_table_of_another_country_is_read_as_it_is_written(tmp_path):
    rows = table()
    foreign = rows.assign(
        **{
            "age/yrs": [f"{each:.1f}".replace(".", ",") for each in rows["age/yrs"]],
            "Grade": rows["Grade"].astype(str).where(rows.index % 9 > 0, "?"),
            "Seen": [f"{each % 28 + 1:02d}.03.2024" for each in rows.index],
        }
    )
    path = tmp_path / "fremd.csv"
    foreign.to_csv(path, index=False, sep=";", encoding="utf-8-sig")
    written = new_study(tmp_path / "study", path, "study", "Survived")
    contract = Contract.load(written["contract"])
    told = {**yaml.safe_load(written["mapping"].read_text()), "confirmed": True}
    mapping = Mapping.parse(told, contract, where="test")
    canonical = mapping.apply(foreign, contract)
    assert canonical.attrs == {}
    np.testing.assert_array_equal(canonical["age_yrs"], rows["age/yrs"])
    assert canonical["grade"].isna().sum() == 14
    result = simulate_cut(written["job"], canonical, Partition(silos=3), engine="inline")
    assert result.status == "complete", result.reason


def test_numbers_that_are_keys_are_no_inputs(tmp_path):
    rows = table().drop(columns="Patient ID")
    rows["encounter_id"] = rows["patient_nbr"] = np.arange(1000, 1000 + len(rows))
    rows["dose"] = np.arange(len(rows))  # all different, and no key by its name
    path = tmp_path / "rows.csv"
    rows.to_csv(path, index=False)
    written = new_study(tmp_path / "study", path, "study", "Survived")
    columns = Contract.load(written["contract"]).columns
    roles = {name: columns[name].role for name in ("encounter_id", "patient_nbr", "dose")}
    assert roles == {"encounter_id": "ignore", "patient_nbr": "ignore", "dose": "feature"}


def test_a_job_of_two_classes_says_which_of_them_its_figures_are_of(csv, tmp_path):
    two = new_study(tmp_path / "two", csv, "study", "Survived")["job"].read_text()
    assert "# of 'Survived': probability, recall, f1 are of 'yes', the second allowed" in two
    three = new_study(tmp_path / "three", csv, "study", "Grade")["job"].read_text()
    assert "second allowed" not in three


def test_what_cannot_be_is_said(csv, tmp_path):
    with pytest.raises(ConfigInvalid, match="did you mean 'Survived'"):
        new_study(tmp_path / "a", csv, "study", "Survivd")
    with pytest.raises(ConfigInvalid, match="different texts"):
        new_study(tmp_path / "b", csv, "study", "Patient ID")
    with pytest.raises(ConfigInvalid, match="not empty"):
        new_study(tmp_path, csv, "study", "Survived")


@pytest.mark.parametrize(
    ("low", "high"), [(21, 77), (0.013, 0.4), (-3, 5), (5, 5), (0, 0), (-1e6, 1e6), (1e-9, 2e-9)]
)
def test_a_proposed_range_holds_its_rows_with_room(low, high):
    down, up = widened(low, high)
    assert down <= low
    assert up > high
    assert down >= 0 or low < 0


def test_a_class_that_is_called_none_stays_a_class(tmp_path):
    rows = table()
    rows["Severity"] = np.where(rows["Survived"] == "yes", "none", "mild")
    rows["Smoker"] = ["none", "?", *rows["Survived"].tolist()[2:]]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    made = new_study(tmp_path / "study", tmp_path / "rows.csv", "study", "Severity")
    contract = Contract.load("study@1", search=[tmp_path / "study"])
    target = next(each for each in contract.table if each.name == "severity")
    assert (target.allowed, target.nullable_share) == (("mild", "none"), 0.0)
    text = made["mapping"].read_text()
    assert "missing: ['?']  # confirm" in text
    read = Mapping.parse(yaml.safe_load(text), contract, where="mapping").apply(rows, contract)
    assert read["severity"].tolist() == rows["Severity"].tolist()
    assert read["smoker"].isna().tolist() == [True, True, *[False] * (len(rows) - 2)]
