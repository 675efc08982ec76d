"""A proposed mapping finds columns, units and codes; what it guesses it leaves to a person."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer

from consilo.contracts.contract import SHIPPED, Contract
from consilo.errors import Refused
from silos.proposals.likeness import likeness
from silos.proposals.profile import profile
from silos.proposals.propose import propose
from silos.proposals.quantities import unit_in_name
from silos.proposals.readings import best_reading
from silos.rows.mapping import UNREADABLE, Mapping

DATA = Path(os.environ.get("CONSILO_DATA", SHIPPED.parents[1] / "shared" / "data"))
HEART = [*(each.name for each in Contract.load("heart@1").table[:-1]), "num"]


def hospital(name: str, names: list[str]) -> pd.DataFrame:
    path = DATA / "heart_disease" / f"processed.{name}.data"
    if not path.exists():
        pytest.skip("the UCI heart disease files are not here; set CONSILO_DATA to their folder")
    return pd.read_csv(path, header=None, names=names, dtype=str, keep_default_na=False)


def sources(proposal) -> dict[str, str | None]:
    return {each.column: each.source for each in proposal.columns}


def applied(proposal, rows, contract) -> pd.DataFrame:
    """The canonical table, by the YAML that a person would have confirmed."""
    value = {**yaml.safe_load(proposal.to_yaml()), "confirmed": True}
    return Mapping.parse(value, contract, where="proposal").apply(rows, contract)


@pytest.mark.parametrize("name", ["cleveland", "hungarian", "switzerland", "va"])
@pytest.mark.parametrize("named", [False, True])
def test_the_columns_of_a_hospital_are_found(name, named):
    contract = Contract.load("heart@1")
    names = HEART if named else [f"f{n}" for n in range(14)]
    rows = hospital(name, names)
    if named:  # then the order tells nothing
        rows = rows.sample(frac=1, axis=1, random_state=1)
    found = propose(rows, contract, data=name)
    expected = dict(zip((each.name for each in contract.table), names, strict=True))
    assert sources(found) == expected
    assert found.missing == ("?",)
    table = applied(found, rows, contract)
    assert UNREADABLE not in table.attrs
    disease = (pd.to_numeric(rows[names[-1]]) > 0).astype(int)
    assert table["disease"].tolist() == disease.tolist()
    # Without names of their own the columns are guessed, and every guess says so.
    assert named or len(found.doubtful) == 14


def test_cholesterol_of_nought_is_proposed_as_not_measured():
    found = propose(hospital("switzerland", HEART), Contract.load("heart@1"), data="rows")
    (chol,) = (each for each in found.columns if each.column == "chol")
    assert chol.how == {"missing": [0]}
    assert chol.doubts


def test_other_names_units_and_codes_of_the_hearts_are_found():
    contract = Contract.load("heart@1")
    names = ["Age", "Gender", "ChestPainType", "RestingBP", "Cholesterol_mmol_l", "FastingBS"]
    names += ["RestingECG", "MaxHR", "ExerciseAngina", "Oldpeak", "ST_Slope", "NumMajorVessels"]
    names += ["Thallium", "HeartDisease"]
    plain = hospital("cleveland", names)
    rows = plain.assign(
        Cholesterol_mmol_l=(plain.Cholesterol_mmol_l.astype(float) / 38.665).map("{:.3f}".format),
        Gender=plain.Gender.map({"1.0": "M", "0.0": "F"}),
        ExerciseAngina=plain.ExerciseAngina.map({"1.0": "Y", "0.0": "N"}),
    ).sample(frac=1, axis=1, random_state=5)
    found = propose(rows, contract, data="rows")
    assert list(sources(found).values()) == names
    table = applied(found, rows, contract)
    assert UNREADABLE not in table.attrs
    np.testing.assert_allclose(table["chol"], plain.Cholesterol_mmol_l.astype(float), rtol=1e-3)
    assert table["sex"].tolist() == [int(each == "1.0") for each in plain.Gender]
    assert table["exang"].tolist() == [int(each == "1.0") for each in plain.ExerciseAngina]


@pytest.mark.parametrize("decimal", [".", ","])
def test_the_renamed_cancer_table_in_other_units_is_found(decimal):
    contract = Contract.load("breast_cancer@1")
    frame = load_breast_cancer(as_frame=True).frame
    rows = pd.DataFrame({"id": [f"P{n:05d}" for n in range(len(frame))]})
    expected = {"patient_id": "id", "malignant": "diagnosis"}
    for column in frame.columns[:-1]:
        words = column.replace(" error", " se").split()
        rest = [word for word in words if word not in ("mean", "worst", "se")]
        (kind,) = set(words) - set(rest)
        name = f"{'_'.join(rest)}_{kind}"
        factor = 100 if "area" in rest else 10 if {"radius", "perimeter"} & set(rest) else 1
        text = (frame[column] / factor).map("{:.7f}".format)
        rows[name] = text.str.replace(".", decimal)
        expected[column.replace(" ", "_")] = name
    rows["diagnosis"] = np.where(frame["target"] == 0, "M", "B")
    rows = rows.sample(frac=1, axis=1, random_state=3)
    found = propose(rows, contract, data="rows")
    assert sources(found) == expected
    table = applied(found, rows, contract)
    assert UNREADABLE not in table.attrs
    np.testing.assert_allclose(table["worst_area"], frame["worst area"], rtol=1e-4)
    np.testing.assert_allclose(table["mean_radius"], frame["mean radius"], rtol=1e-4)
    assert table["malignant"].tolist() == (frame["target"] == 0).astype(int).tolist()
    units = {each.column for each in found.columns if each.how.get("unit")}
    assert units == {
        f"{kind}{of}{tail}"
        for of in ("radius", "perimeter", "area")
        for kind, tail in (("mean_", ""), ("worst_", ""), ("", "_error"))
    }
    # The unit is in no name: it is a guess, and says so.
    assert units <= {each.column for each in found.doubtful}


def test_a_proposal_is_not_used_before_a_person_has_confirmed_it(tmp_path):
    contract = Contract.parse(
        {
            "name": "clinic",
            "version": 1,
            "columns": {
                "height": {"type": "float", "unit": "cm", "range": {"min": 50, "max": 250}},
                "shoe": {"type": "category", "allowed": ["left", "right"]},
                "extra": {"type": "float", "nullable_share": 1.0},
            },
        },
        where="test",
    )
    rows = pd.DataFrame({"height_m": ["1.80", "1.65", "1.71"], "remark": ["x", "y", "zz"]})
    found = propose(rows, contract, data="visits")
    text = found.to_yaml()
    mapping = Mapping.parse(yaml.safe_load(text), contract, where="proposal")
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(Refused, match="consilo silo data confirm clinic@1"):
        Mapping.load(path, contract)
    path.write_text(text.replace("confirmed: false", "confirmed: true"))
    assert Mapping.load(path, contract).confirmed
    assert mapping.data == "visits"
    assert mapping.columns["height"].unit == "m"
    assert "# shoe: {from: ???}" in text
    assert mapping.columns["extra"].is_constant
    assert "not used: remark" in text


@pytest.mark.parametrize(
    ("values", "column", "how"),
    [
        (["ja", "nein"], {"type": "integer", "allowed": [0, 1]}, {"recode": {"ja": 1, "nein": 0}}),
        (["yes", "no", "yes"], {"type": "boolean"}, {}),
        (["0", "1", "-9"], {"type": "integer", "allowed": [0, 1]}, {"missing": [-9]}),
        (["0", "3", "1", "2"], {"type": "integer", "allowed": [0, 1]}, {"greater_than": 0}),
        (["surg", "med", "surg"], {"type": "category", "allowed": ["surgery", "medicine"]},
         {"recode": {"surg": "surgery", "med": "medicine"}}),
        (["31.12.2020", "01.02.2021"], {"type": "date"}, {"date_format": "%d.%m.%Y"}),
        (["2020-12-31", "2021-02-01"], {"type": "date"}, {}),
        (["37.2", "36.8"], {"type": "float", "unit": "degF", "typical": {"min": 96, "max": 100}},
         {"unit": "degC"}),
    ],
)  # fmt: skip
def test_what_a_column_holds_says_how_to_read_it(values, column, how):
    contract = Contract.parse(
        {"name": "one", "version": 1, "columns": {"it": column}}, where="test"
    )
    found = best_reading(profile(pd.Series(values, name="it"), 0), contract.columns["it"])
    assert found.how == how
    assert found.fit > 0.5


@pytest.mark.parametrize(
    ("name", "unit"),
    [("height_cm", "cm"), ("Chol [mmol/l]", "mmol/l"), ("weight", None), ("area mm²", "mm2"),
     ("m", None), ("age_years", "year"), ("sys.mmHg", "mmHg")],
)  # fmt: skip
def test_units_in_names(name, unit):
    assert unit_in_name(name) == unit


@given(st.text(max_size=20), st.sampled_from(Contract.load("heart@1").table))
def test_likeness_is_a_share(name, column):
    assert 0 <= likeness(name, column) <= 1


@given(
    st.lists(
        st.one_of(st.none(), st.text(max_size=6), st.integers(), st.floats(), st.booleans()),
        max_size=8,
    ),
    st.sampled_from([*Contract.load("heart@1").table, *Contract.load("breast_cancer@1").table[:3]]),
)
def test_any_column_has_a_reading(values, column):
    found = best_reading(profile(pd.Series(values, name="x", dtype=object), 0), column)
    assert 0 <= found.fit <= 1


def test_what_people_agreed_on_is_taken_and_only_its_reading_is_found_out():
    columns = {"size": {"type": "float", "unit": "cm"}, "age": {"type": "integer", "unit": "year"}}
    contract = Contract.model_validate({"name": "c", "version": 1, "columns": columns})
    rows = pd.DataFrame({"age": ["40", "50", "61"], "q_mm": ["12,5", "13,0", "9,1"]})
    found = propose(rows, contract, data="p", aligned={"age": "q_mm", "size": "age"})
    assert sources(found) == {"size": "age", "age": "q_mm"}
    found = propose(rows, contract, data="p", aligned={"size": "q_mm"})
    assert sources(found) == {"size": "q_mm", "age": "age"}
    assert applied(found, rows, contract)["size"].tolist() == [1.25, 1.3, 0.91]


def test_a_surname_is_an_id_that_many_share_and_a_measure_is_none():
    """A column of the very same name lost to an income, which is different in every row."""
    ids = ("number", "surname", "given_name", "postcode")
    columns = {name: {"type": "string", "role": "id", "nullable_share": 1.0} for name in ids}
    contract = Contract.model_validate({"name": "people", "version": 1, "columns": columns})
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "KVNR": [f"{each:08d}" for each in rng.permutation(10**6)[:300]],
            "surname": rng.choice(["Kowal", "Linde", "Gross", "Weidt"], 300),
            "given": rng.choice(["Anna", "Bruno", "Clara"], 300),
            "zip": [f"{each:05d}" for each in rng.integers(10**4, 10**5, 300)],
            "balance": rng.normal(size=300).round(2).astype(str),
            "income": rng.lognormal(10, 1, 300).round(2).astype(str),
        }
    )
    found = sources(propose(rows, contract, data="customers"))
    assert found["surname"] == "surname"
    assert found["given_name"] == "given"
    assert not {"balance", "income"} & set(found.values())


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (("none", "mild", "severe"), {}),
        (("none", "mild"), {}),  # a silo without one of the classes translates nothing
        (("Severe", "mild"), {"recode": {"Severe": "severe", "mild": "mild"}}),
    ],
)
def test_codes_that_are_the_contracts_are_not_translated(codes, expected):
    column = Contract.parse(
        {"name": "c", "version": 1, "columns": {
            "grade": {"type": "category", "allowed": ["none", "mild", "severe", "critical"]}}},
        where="c",
    ).table[0]  # fmt: skip
    rows = pd.Series(list(codes) * 20, name="grade")
    found = best_reading(profile(rows, 0, ["none"]), column)
    assert found.how == expected
    assert not any("'mild'" in each for each in found.doubts)


def test_a_column_whose_codes_mean_nothing_here_is_shown_to_be_translated():
    contract = Contract.parse(
        {"name": "c", "version": 1, "columns": {
            "age": {"type": "integer", "range": {"min": 18, "max": 100}},
            "event": {"type": "integer", "allowed": [0, 1], "role": "target"}}},
        where="c",
    )  # fmt: skip
    rows = pd.DataFrame({"age": np.arange(20, 80), "event": ["dead", "alive", "alive"] * 20})
    text = propose(rows, contract, data="patients").to_yaml()
    assert "# event: {from: event, recode: {alive: ???, dead: ???}}" in text
    assert "its codes are not the contract's" in text
