import datetime as dt
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilo.contracts.contract import Contract
from consilo.errors import MappingInvalid
from silos.rows.mapping import UNREADABLE, Mapping
from silos.rows.units import conversion_fault, convert

CLINIC = Contract.parse(
    {
        "name": "clinic",
        "version": 1,
        "columns": {
            "patient_id": {"type": "string", "role": "id"},
            "height": {"type": "float", "unit": "mm"},
            "beds": {"type": "integer"},
            "smokes": {"type": "boolean"},
            "ward": {"type": "category", "allowed": [1, 2, "x"]},
            "visited": {"type": "date"},
            "note": {"type": "string", "role": "ignore"},
            "ill": {"type": "integer", "role": "target", "allowed": [0, 1]},
        },
    },
    where="clinic",
)
LENGTHS = ["mm", "cm", "m", "inch", "km"]


def mapped(name: str, values, **how) -> tuple[list, int]:
    """Return the one column, nulls as None, and how many values could not be read."""
    mapping = Mapping.parse({"contract": "clinic@1", "columns": {name: how}}, CLINIC, where="m")
    frame = mapping.apply(pd.DataFrame({how.get("from", name): values}), CLINIC)
    lost = frame.attrs.get(UNREADABLE, {}).get(name, {}).get("count", 0)
    return [None if pd.isna(each) else each for each in frame[name]], lost


def faults(columns: dict, contract: str = "clinic@1") -> str:
    with pytest.raises(MappingInvalid) as caught:
        Mapping.parse({"contract": contract, "columns": columns}, CLINIC, where="mapping.yaml")
    return str(caught.value)


def test_the_result_has_the_contracts_columns_order_and_dtypes():
    frame = pd.DataFrame(
        {
            "ill": [1, 0],
            "height": [1, 2],
            "note": ["a", "b"],
            "visited": ["2024-01-31", None],
            "smokes": ["yes", "N"],
            "ward": [2.0, 1.0],
            "beds": ["3", "4"],
            "patient_id": ["007", " 7 "],
            "more": [0, 0],
        }
    )
    result = Mapping(contract="clinic@1").apply(frame, CLINIC)
    assert list(result.columns) == [column.name for column in CLINIC.table]
    assert {name: str(kind) for name, kind in result.dtypes.items()} == {
        "patient_id": "str",
        "height": "float64",
        "beds": "Int64",
        "smokes": "boolean",
        "ward": "str",
        "visited": "datetime64[ns]",
        "ill": "Int64",
    }
    assert result["patient_id"].tolist() == ["007", "7"]
    assert result["ward"].tolist() == ["2", "1"]
    assert UNREADABLE not in result.attrs


def test_the_dtypes_do_not_depend_on_there_being_rows():
    frame = pd.DataFrame({column.name: [] for column in CLINIC.table}, dtype=object)
    full = pd.DataFrame({column.name: [None] for column in CLINIC.table}, dtype=object)
    empty = Mapping(contract="clinic@1").apply(frame, CLINIC)
    assert (empty.dtypes == Mapping(contract="clinic@1").apply(full, CLINIC).dtypes).all()


@given(
    st.lists(st.floats(-1e9, 1e9), max_size=5), st.sampled_from(LENGTHS), st.sampled_from(LENGTHS)
)
def test_a_unit_there_and_back_changes_nothing(values, one, other):
    there = convert(np.array(values, dtype="float64"), one, other)
    np.testing.assert_allclose(convert(there, other, one), values, rtol=1e-9)


@pytest.mark.parametrize(
    ("source", "target", "factor"),
    [("cm", "mm", 10), ("cm2", "mm2", 100), ("cm^3", "mm3", 1000), ("1/s", "1/min", 60)],
)
def test_units_convert_by_the_book(source, target, factor):
    assert convert(np.ones(1), source, target)[0] == pytest.approx(factor)


def test_moles_become_grams_with_the_molar_mass():
    cholesterol = convert(np.array([5.2]), "mmol/l", "mg/dl", molar_mass=386.65)
    assert cholesterol[0] == pytest.approx(201.06, abs=0.01)
    assert "molar_mass" in conversion_fault("mmol/l", "mg/dl")


def test_a_mapping_without_a_unit_leaves_numbers_exactly_as_they_are():
    assert mapped("height", [0.1, 0.2, 1e300]) == ([0.1, 0.2, 1e300], 0)


@pytest.mark.parametrize(
    ("name", "values", "how", "expected", "lost"),
    [
        ("height", [1, None, "2.5", " 3 ", "x", "inf", "?"], {"missing": ["?"]},
         [1, None, 2.5, 3, None, None, None], 2),
        ("height", ["1.234,5", "7", "8,5", ""], {"decimal": ","}, [1234.5, 7, 8.5, None], 0),
        ("height", [1, -9, 2], {"unit": "cm", "missing": [-9]}, [10, None, 20], 0),
        ("height", [Decimal("1.5"), None], {}, [1.5, None], 0),
        ("height", [180, 0], {"from": "h", "missing": ["0"]}, [180, None], 0),
        ("beds", ["1", "1.0", "1.5", "-2", "1e30"], {}, [1, 1, None, -2, None], 2),
        ("beds", ["Y", "N", "U", "?"], {"recode": {"Y": 1, "N": 0, "U": None}},
         [1, 0, None, None], 1),
        ("beds", [1, 2.0, 3], {"recode": {1: 10, "2": 20}}, [10, 20, None], 1),
        ("smokes", [1, 0, True, "no", "Off", "maybe", None], {},
         [True, False, True, False, False, None, None], 1),
        ("smokes", ["yes", "no"], {"recode": {True: False, False: True}}, [False, True], 0),
        ("smokes", ["0", "3", "x", None], {"from": "packs", "greater_than": 0},
         [False, True, None, None], 1),
        ("ill", [0, 1, 4, None], {"from": "num", "greater_than": 0}, [0, 1, 1, None], 0),
        ("ill", [0, 5], {"at_most": 3}, [1, 0], 0),
        ("ward", ["1", "2.0", "x ", "z"], {}, ["1", "2", "x", "z"], 0),
        ("visited", ["31.12.2020", "2020"], {"date_format": "%d.%m.%Y"},
         [pd.Timestamp(2020, 12, 31), None], 1),
        ("visited", ["2020-01-02T01:00:00+01:00"], {}, [pd.Timestamp(2020, 1, 2)], 0),
        ("visited", [dt.date(2020, 1, 2), None], {}, [pd.Timestamp(2020, 1, 2), None], 0),
        ("visited", [20200102], {"date_format": "%Y%m%d"}, [pd.Timestamp(2020, 1, 2)], 0),
        ("visited", [20200102], {}, [None], 1),
        ("visited", ["9999-12-31", "2020-01-02"], {"missing": ["9999-12-31"]},
         [None, pd.Timestamp(2020, 1, 2)], 0),
        ("visited", ["9999-12-31"], {}, [None], 1),
        ("beds", [1, 2], {"constant": 3}, [3, 3], 0),
        ("beds", [1, 2], {"constant": None}, [None, None], 0),
    ],
)  # fmt: skip
def test_values_become_canonical_or_are_counted(name, values, how, expected, lost):
    assert mapped(name, values, **how) == (expected, lost)


@given(
    st.lists(
        st.one_of(st.none(), st.integers(-5, 5), st.floats(), st.text(max_size=4), st.booleans()),
        max_size=8,
    )
)
def test_nothing_crashes_and_every_value_is_there_missing_or_counted(values):
    names = [column.name for column in CLINIC.table]
    frame = pd.DataFrame({name: pd.Series(values, dtype=object) for name in names})
    result = Mapping(contract="clinic@1").apply(frame, CLINIC)
    nothing = [each is None or each != each or str(each).strip() == "" for each in values]
    for name in names:
        lost = result.attrs.get(UNREADABLE, {}).get(name, {}).get("count", 0)
        assert result[name].isna().sum() == sum(nothing) + lost


TEXTS = ["1", "1.0", " 1 ", "007", "x", " ", "?", "yes", "N", "2020-01-31", "9999-12-31", None]


@pytest.mark.parametrize("recoded", [False, True])
def test_a_text_is_read_as_it_is_alone_however_often_it_is_there(recoded):
    values = [*TEXTS, *reversed(TEXTS)]
    how = {"recode": {1: 0, "x": None}} if recoded else {}
    columns = {name: how for name in ("beds", "smokes", "ill")}
    told = {"contract": "clinic@1", "columns": columns, "missing": ["?"]}
    mapping = Mapping.parse(told, CLINIC, where="m")
    names = [column.name for column in CLINIC.table]

    def read(texts):
        frame = pd.DataFrame({name: pd.Series(texts, dtype="str") for name in names})
        result = mapping.apply(frame, CLINIC)
        lost = result.attrs.get(UNREADABLE, {})
        return result, {name: each["rows"] for name, each in lost.items()}

    whole, lost = read(values)
    each_alone = {text: read([text]) for text in TEXTS}
    for at, value in enumerate(values):
        alone, lost_alone = each_alone[value]
        pd.testing.assert_frame_equal(whole.iloc[[at]].reset_index(drop=True), alone)
        assert {name for name, rows in lost.items() if at in rows} == set(lost_alone)


def test_table_wide_missing_codes_hold_for_every_column():
    mapping = Mapping.parse({"contract": "clinic@1", "missing": ["?", -9]}, CLINIC, where="m")
    frame = pd.DataFrame({"height": ["1", "?", "-9.0"], "ward": ["1", "?", "2"]})
    result = mapping.apply(frame, CLINIC)
    assert result["height"].isna().tolist() == [False, True, True]
    assert result["ward"].isna().tolist() == [False, True, False]
    assert UNREADABLE not in result.attrs


def test_a_local_column_that_is_not_there_is_left_out_and_told():
    mapping = Mapping.parse(
        {"contract": "clinic@1", "columns": {"height": {"from": "groesse"}}}, CLINIC, where="m"
    )
    result = mapping.apply(pd.DataFrame({"grosse": [1.0]}), CLINIC)
    assert list(result.columns) == []
    assert len(result) == 1
    told = mapping.missing_columns(["grosse"], CLINIC)
    assert "height: the source has no column 'groesse'; did you mean 'grosse'?" in told


def test_the_rows_of_unreadable_values_stay_known_in_the_silo():
    frame = Mapping(contract="clinic@1").apply(pd.DataFrame({"height": [1, "a", 2, "b"]}), CLINIC)
    assert frame.attrs[UNREADABLE] == {"height": {"count": 2, "rows": [1, 3]}}


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"hieght": {}}, "did you mean 'height'"),
        ({"height": {"unti": "cm"}}, "unit"),
        ({"height": {"unit": "kg"}}, "cannot be converted to 'mm'"),
        ({"height": {"unit": "cmm"}}, "'cmm' is not known"),
        ({"ward": {"unit": "mm"}}, "gives this column no unit"),
        ({"height": {"molar_mass": 3}}, "needs the local unit"),
        ({"height": {"date_format": "%Y"}}, "not date"),
        ({"ward": {"greater_than": 0}}, "yes or no"),
        ({"ward": {"recode": {"A": "q"}}}, "'q' is not a category"),
        ({"beds": {"recode": {"A": "many"}}}, "'many' is not a integer"),
        ({"beds": {"recode": {}}}, "recode is empty"),
        ({"beds": {"constant": "many"}}, "'many' is not a integer"),
        ({"beds": {"constant": 1, "from": "x"}}, "constant stands alone"),
        ({"ill": {"greater_than": 0, "recode": {1: 1}}}, "exclude each other"),
    ],
)
def test_what_does_not_fit_is_refused(columns, said):
    assert said in faults(columns)


def test_all_faults_are_told_at_once():
    said = faults({"hieght": {}, "ward": {"unit": "mm"}, "height": {"unit": "kg"}}, "clinc@2")
    assert "4 faults" in said
    assert "is for clinc@2, the contract is clinic@1" in said


def test_the_digest_follows_every_change():
    def digest(**how):
        return Mapping.parse(
            {"contract": "clinic@1", "columns": {"beds": how}}, CLINIC, where="m"
        ).digest

    told = [{}, {"from": "b"}, {"missing": [0]}, {"missing": ["x"]}, {"recode": {"1": 1}}]
    told += [{"recode": {1: 1}}, {"recode": {"1": None}}, {"constant": 1}, {"constant": None}]
    assert len({digest(**how) for how in told}) == len(told)
    assert digest(missing=[0]) == digest(missing=[0])


def test_text_columns_are_those_that_must_be_read_as_written():
    columns = {"beds": {"decimal": ","}, "height": {"from": "h"}, "ill": {"recode": {"j": 1}}}
    mapping = Mapping.parse({"contract": "clinic@1", "columns": columns}, CLINIC, where="m")
    assert mapping.text_columns(CLINIC) == ["patient_id", "beds", "ward", "visited", "ill"]


def test_columns_are_let_go_once_they_are_mapped_for_the_last_time():
    columns = {"height": {"from": "size"}, "beds": {"from": "size"}}
    mapping = Mapping.parse({"contract": "clinic@1", "columns": columns}, CLINIC, where="m")
    rows = {"size": pd.Series([1.0, 2.0]), "other": pd.Series([1, 2])}
    frame = mapping.apply_columns(rows, 2, CLINIC)
    assert list(frame["height"]) == list(frame["beds"]) == [1, 2]
    assert list(rows) == ["other"]


def test_a_column_that_the_contract_ignores_may_be_mapped_and_is_not_made():
    """A silo's part of a vertical contract ignores the others' columns, and the target to score."""
    columns = {"note": {"from": "remark"}, "height": {"unit": "cm"}}
    mapping = Mapping.parse({"contract": "clinic@1", "columns": columns}, CLINIC, where="m")
    assert "note" not in mapping.local_columns(CLINIC)
    made = mapping.apply(pd.DataFrame({"height": [1.0], "remark": ["x"]}), CLINIC)
    assert list(made.columns) == ["height"]


def test_a_column_s_key_at_the_top_is_told_where_it_belongs():
    heart = Contract.load("heart@1")
    with pytest.raises(MappingInvalid, match=r"scale: unknown key; .*'columns\.NAME\.scale'"):
        Mapping.parse({"contract": "heart@1", "scale": 2}, heart, where="m")


def test_one_decimal_sign_is_that_of_all_columns_but_those_that_say_their_own():
    table = Contract.parse(
        {
            "name": "t",
            "version": 1,
            "columns": {
                "a": {"type": "float"},
                "b": {"type": "float"},
                "high": {"type": "boolean"},
                "code": {"type": "category", "allowed": ["1,5", "2"]},
                "fixed": {"type": "integer"},
            },
        },
        where="t",
    )
    told = {
        "contract": "t@1",
        "decimal": ",",
        "columns": {
            "b": {"decimal": "."},
            "high": {"from": "a", "greater_than": 1000},
            "fixed": {"constant": 3},
        },
    }
    mapping = Mapping.parse(told, table, where="m")
    assert mapping.text_columns(table) == ["a", "a", "code"]
    frame = pd.DataFrame(
        {"a": ["1.234,5", "0,5", "1.5"], "b": ["1.5", "2", "0,5"], "code": ["1,5", "2", "2"]}
    )
    made = mapping.apply(frame, table)
    assert made["a"].tolist()[:2] == [1234.5, 0.5]
    assert made["b"].tolist()[:2] == [1.5, 2.0]
    assert made["high"].tolist()[:2] == [True, False]
    assert made["code"].tolist() == ["1,5", "2", "2"]
    assert made["fixed"].tolist() == [3, 3, 3]
    assert {name: each["rows"] for name, each in made.attrs[UNREADABLE].items()} == {
        "a": [2], "b": [2], "high": [2],
    }  # fmt: skip
    assert mapping.digest != Mapping(contract="t@1").digest
