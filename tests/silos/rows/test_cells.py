"""Cells that could be read in two ways are not read, from every way in; what is clear is exact."""

from __future__ import annotations

import datetime as dt
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from consilo.errors import ContractInvalid, MappingInvalid, SourceUnreadable
from silos.rows.mapping import UNREADABLE, Mapping
from silos.rows.sources import parse_source
from silos.rows.standardise import standardise


def contract(**columns: dict) -> Contract:
    return Contract.parse({"name": "t", "version": 1, "columns": columns}, where="t")


def read(values: list, column: dict, **how) -> tuple[list, int]:
    """Return a column's values, null as None, and how many cells could not be read."""
    table = contract(x=column)
    told = {"contract": "t@1", "columns": {"x": how} if how else {}}
    names = how.get("from", "x")
    frame = pd.DataFrame(values, columns=names) if isinstance(names, list) else None
    if frame is None:
        frame = pd.DataFrame({names: values})
    made = Mapping.parse(told, table, where="m").apply(frame, table)
    lost = made.attrs.get(UNREADABLE, {}).get("x", {}).get("count", 0)
    return [None if pd.isna(each) else each for each in made["x"]], lost


def refusal(column: dict, **how) -> str:
    table = contract(x=column)
    with pytest.raises(MappingInvalid) as caught:
        Mapping.parse({"contract": "t@1", "columns": {"x": how}}, table, where="m")
    return str(caught.value)


FLOAT = {"type": "float"}
COMMA = {"decimal": ","}


@pytest.mark.parametrize(
    ("cell", "how", "expected"),
    [
        # A1: points are thousands marks in groups of three from the right only.
        ("1.5", COMMA, None), ("12.34", COMMA, None), ("1.23.4,5", COMMA, None),
        ("1,5", COMMA, 1.5), ("1.234,5", COMMA, 1234.5), ("1.234.567", COMMA, 1234567.0),
        ("0.123", COMMA, None), ("1234.567", COMMA, None), ("1.234.56", COMMA, None),
        ("1,5e3", COMMA, 1500.0), ("1,5E-2", COMMA, 0.015), ("1,5e3", {}, None),
        ("1.5e3", COMMA, None), ("1.234e3", COMMA, None),
        ("1 234,5", COMMA, 1234.5), ("1\u202f234,5", COMMA, 1234.5), ("1\u2009234", {}, 1234.0),
        ("1'234.5", {}, 1234.5), ("1\u2019234", {}, 1234.0), ("12 34", {}, None),
        ("1 234.567,8", COMMA, None), ("1'234 567", {}, None),
        ("1,234.5", {}, 1234.5), ("1,234,567", {}, 1234567.0), ("1,234", {}, None),
        ("1,234", {"decimal": "."}, 1234.0), ("1,5", {}, None), ("1.234.567", {}, None),
        ("12 %", {}, None), ("(12.5)", {}, None), ("(12.5)", {"negative": "brackets"}, -12.5),
        ("(-1)", {"negative": "brackets"}, None), ("\u22125", {}, -5.0), ("5-", {}, None),
        ("<5", {}, None), ("1_000", {}, None), ("0x10", {}, None), ("1e999", {}, None),
        ("9007199254740993", {}, None), ("9007199254740992", {}, float(2**53)),
        (9007199254740993, {}, None), (Decimal("9007199254740993"), {}, None),
        (pd.Timestamp(2020, 1, 1), {}, None), (dt.date(2020, 1, 1), {}, None),
        (pd.Timedelta(days=1), {}, None), (dt.time(12, 30), {}, None),
    ],
)  # fmt: skip
def test_a_cell_is_one_number_or_counted(cell, how, expected):
    assert read([cell], FLOAT, **how) == ([expected], expected is None)
    # Among others as alone, and as an object as in Arrow's memory.
    both = pd.Series([cell, "7"], dtype=object)
    assert read(both, FLOAT, **how) == ([expected, 7.0], expected is None)


@pytest.mark.parametrize(
    ("unit", "how", "expected"),
    [("percent", {}, 12.5), ("1", {"unit": "percent"}, 0.125), ("1", {}, None), ("mm", {}, None)],
)
def test_a_percent_sign_is_read_where_the_local_unit_is_percent(unit, how, expected):
    made, lost = read(["12.5 %", "12.5%"], {**FLOAT, "unit": unit}, **how)
    assert made == ([None] * 2 if expected is None else [pytest.approx(expected)] * 2)
    assert lost == 2 * (expected is None)


def test_a_missing_code_is_meant_however_the_number_is_written():
    """-9 among texts such as -9.00 was a value of -9 once a single cell of the column was text."""
    assert read(["-9.00", "-9", "-9.0", "x", "5"], FLOAT, missing=[-9]) == (
        [None, None, None, None, 5.0], 1,
    )  # fmt: skip
    assert read(["-9,0", "1,5"], FLOAT, missing=[-9], decimal=",") == ([None, 1.5], 0)


# Codes


@pytest.mark.parametrize("kind", ["category", "string"])
def test_text_codes_are_text(kind):
    column = {"type": kind, **({"allowed": ["007", "7"]} if kind == "category" else {})}
    for cells in (["007", "7"], pd.Series(["007", 7], dtype=object), pd.Series(["007 ", 7.0])):
        assert read(cells, column) == (["007", "7"], 0)


@pytest.mark.parametrize(
    "allowed", [["1", "1.0"], [1, "1"], [7, "7.0"], ["A", "A "], ["A", " A"], ["a", "a"]]
)
def test_codes_that_a_cell_could_not_be_told_apart_by_are_refused(allowed):
    with pytest.raises(ContractInvalid, match="allowed lists"):
        contract(x={"type": "category", "allowed": allowed})


@pytest.mark.parametrize("allowed", [["007", "7"], ["1e3", "1000"], ["A", "a"], ["1.10", "1.1"]])
def test_codes_that_are_other_texts_are_other_codes(allowed):
    column = {"type": "category", "allowed": allowed}
    assert read([f" {each} " for each in allowed], column) == (allowed, 0)


def test_codes_of_a_recode_that_are_one_code_are_refused():
    column = {"type": "category", "allowed": ["a", "b"]}
    assert "one code" in refusal(column, recode={1: "a", "1.0": "b"})
    assert "one code" in refusal(column, recode={True: "a", "yes": "b"})
    assert read(["007", "7"], column, recode={"007": "a", "7": "b"}) == (["a", "b"], 0)


def test_keys_keep_their_zeros_and_all_their_digits():
    key = {"type": "integer", "role": "id"}
    assert read(["007", "7"], key) == ([None, 7], 1)
    assert read(["9007199254740993", "x"], key) == ([9007199254740993, None], 1)
    assert read([9007199254740993], key) == ([9007199254740993], 0)
    ends = [str(2**63 - 1), str(-(2**63)), str(2**63), "x"]
    assert read(ends, {"type": "integer"}) == ([2**63 - 1, -(2**63), None, None], 2)
    # A float of that size has lost its last digits already.
    assert read([9007199254740992.0], {"type": "string", "role": "id"}) == ([None], 1)
    assert read(pd.Series([2**63 + 1], dtype="uint64"), {"type": "integer"}) == ([None], 1)


def test_a_code_that_the_case_tells_apart_is_not_taken_for_the_other():
    sex = {"type": "category", "allowed": ["Male", "Female"]}
    assert read(["male", "Male "], sex) == (["male", "Male"], 0)  # the rule "allowed" tells of it


# Dates

DATE = {"type": "date"}
DAY = pd.Timestamp(2024, 1, 2)


@pytest.mark.parametrize(
    ("cell", "how", "expected"),
    [
        ("2024-01-02", {}, DAY), ("2024/1/2", {}, DAY), ("20240102", {}, DAY),
        ("2024", {}, None), ("2024-01", {}, None), ("45293", {}, None), (45293, {}, None),
        ("01/02/2024", {}, None), ("24-01-02", {}, None), ("2024-01/02", {}, None),
        ("2024-01-02T01:00+01:00", {}, DAY), ("2024-01-02 00:00:00 CET", {}, None),
        ("2024-01-02T01:00", {"zone": "Europe/Berlin"}, DAY),
        ("2024-03-31T02:30", {"zone": "Europe/Berlin"}, None),  # there was no such time
        ("2024-10-27T02:30", {"zone": "Europe/Berlin"}, None),  # there were two
        ("2024-01-02", {"zone": "Europe/Berlin"}, DAY),
        (45293, {"date_format": "excel"}, DAY), ("45293.5", {"date_format": "excel"},
         pd.Timestamp(2024, 1, 2, 12)), (43831, {"date_format": "excel1904"}, DAY),
        (59, {"date_format": "excel"}, None), (-1, {"date_format": "excel1904"}, None),
        ("x", {"date_format": "excel"}, None),
        ("02.01.24", {"date_format": "%d.%m.%y", "years_from": 1990}, DAY),
        ("02.01.24", {"date_format": "%d.%m.%y", "years_from": 1920}, pd.Timestamp(1924, 1, 2)),
        ("29.02.00", {"date_format": "%d.%m.%y", "years_from": 1899}, None),
        (dt.date(2024, 1, 2), {"date_format": "%d.%m.%Y"}, DAY),
        (dt.datetime(2024, 1, 2, 5), {"date_format": "%d.%m.%Y"}, pd.Timestamp(2024, 1, 2, 5)),
        (20240102, {"date_format": "%Y%m%d"}, DAY), (20240102.0, {"date_format": "%Y%m%d"}, DAY),
        # A number has lost its first zero; of a text nobody knows which sign is missing.
        (2012024, {"date_format": "%d%m%Y"}, DAY), ("02012024", {"date_format": "%d%m%Y"}, DAY),
        ("2012024", {"date_format": "%d%m%Y"}, None), (202412, {"date_format": "%Y%m%d"}, None),
        ("2.1.2024", {"date_format": "%d.%m.%Y"}, DAY),
        ("2JAN2024", {"date_format": "%d%b%Y"}, DAY),
        ("212024 5:00", {"date_format": "%d%m%Y %H:%M"}, None),
    ],
)  # fmt: skip
def test_a_cell_is_one_date_or_counted(cell, how, expected):
    assert read(pd.Series([cell], dtype=object), DATE, **how) == ([expected], expected is None)


def test_the_century_of_two_digits_is_said_or_refused():
    assert "does not say the century" in refusal(DATE, date_format="%d.%m.%y")
    assert "is for %y" in refusal(DATE, date_format="%d.%m.%Y", years_from=1930)
    assert "not known" in refusal(DATE, zone="Europe/Berlln")
    assert "depend on the machine" in refusal(DATE, date_format="%x")


def test_american_order_in_one_file_makes_the_doubtful_dates_unread():
    """Day and month could be either in all cells but those that tell."""
    cells = ["01/02/2024", "12/31/2024", "03/03/2024", "25/12/2024"]
    made, lost = read(cells, DATE, date_format="%d/%m/%Y")
    assert made == [None, None, pd.Timestamp(2024, 3, 3), pd.Timestamp(2024, 12, 25)]
    assert lost == 2


def test_times_with_and_without_a_zone_in_one_column_are_not_mixed():
    cells = ["2024-01-02T01:00+01:00", "2024-01-02T00:00", "2024-01-02"]
    assert read(cells, DATE) == ([DAY, None, DAY], 1)
    assert read(cells, DATE, zone="UTC") == ([DAY, DAY, DAY], 0)


def test_what_later_blocks_show_holds_for_earlier_ones(tmp_path: Path, monkeypatch):
    from silos.rows.sources import blocks

    monkeypatch.setattr(blocks, "BLOCK_ROWS", 1)
    table = contract(x=DATE)
    (tmp_path / "a.csv").write_text("x\n01/02/2024\n")
    (tmp_path / "b.csv").write_text("x\n12/31/2024\n")
    source = parse_source({"type": "csv", "path": [str(tmp_path)]}, where="s")
    told = {"contract": "t@1", "columns": {"x": {"date_format": "%d/%m/%Y"}}}
    mapping = Mapping.parse(told, table, where="m")
    (tmp_path / "spool").mkdir()
    made, unreadable = standardise(source, mapping, table, tmp_path / "spool")
    assert made["x"].null_count == 2
    assert unreadable["x"]["count"] == 2


# Computed columns


def test_scale_and_offset_make_percent_of_hba1c():
    hba1c = {**FLOAT, "unit": "percent"}
    made, lost = read([48, "60", None], hba1c, scale=0.0915, offset=2.15)
    assert made[:2] == [pytest.approx(6.542), pytest.approx(7.64)]
    assert made[2] is None
    assert lost == 0


def test_moles_are_no_share_by_ratio():
    said = refusal({**FLOAT, "unit": "percent"}, unit="mmol/mol")
    assert "scale: 0.0915 and offset: 2.15" in said
    assert "scale: 0.1" in said
    assert "ratio" in refusal({**FLOAT, "unit": "mmol/mol"}, unit="percent")
    assert read([12], {**FLOAT, "unit": "percent"}, unit="1") == ([1200.0], 0)
    made, _ = read([98.6], {**FLOAT, "unit": "degC"}, unit="degF")
    assert made == [pytest.approx(37)]


def test_a_formula_over_columns_has_its_units_checked():
    bmi = {**FLOAT, "unit": "kg/m**2"}
    how = {"from": ["w", "size in cm"], "value": "w / `size in cm` ** 2"}
    rows = [[80, 200], [None, 200], ["x", 200], [80, 0]]
    units = {"w": "kg", "size in cm": "cm"}
    assert read(rows, bmi, **how, units=units) == ([pytest.approx(20), None, None, None], 2)
    assert read(rows, bmi, **how, unit="kg/cm**2")[0][0] == pytest.approx(20)
    said = refusal(bmi, **how, units={"w": "kg", "size in cm": "kg"})
    assert "cannot be converted to 'kg/m**2'" in said
    assert "do not go together" in refusal(
        bmi, **{"from": ["a", "b"], "value": "a + b", "units": {"a": "kg", "b": "m"}}
    )
    ratio = {"type": "integer"}
    assert read([[6, 3], [1, 3]], ratio, **{"from": ["a", "b"], "value": "a/b"}) == ([2, None], 1)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a / c", "'c' is not under from"), ("a", "'b' is not used"),
        ("__import__('os').system('x')", "found Call"), ("a.b / b", "found Attribute"),
        ("a / b; b", "is no formula"), ("a if b else 1", "found IfExp"), ("a ** b", "powers"),
        ("9 ** 9 * a / b", "raises a number"), ("a ** 1000 / b", "powers"),
        ("a / b or 1", "BoolOp"),
        ("(" * 90 + "a / b" + ")" * 90, ""), ("a @ b", "found BinOp"), ("'x' * a / b", "Constant"),
        ("a / b / True", "Constant"), ("a / b" + " " * 300, "longer"), ("(" * 150, "no formula"),
    ],
)  # fmt: skip
def test_a_formula_has_nothing_else_in_it(value, said):
    how = {"from": ["a", "b"], "value": value}
    if said:
        assert said in refusal(FLOAT, **how)
    else:
        assert read([[1, 2]], FLOAT, **how) == ([0.5], 0)


def test_several_columns_need_a_value():
    assert "say what to make of them" in refusal(FLOAT, **{"from": ["a", "b"]})
    assert "needs its columns" in refusal(FLOAT, value="a / b")
    assert "makes a number" in refusal({"type": "category"}, scale=2)


# Every way in


@pytest.mark.parametrize("way", ["csv", "folder", "parquet", "sqlite", "duckdb", "duckdb over csv"])
def test_text_codes_are_text_from_every_way_in(tmp_path: Path, way: str):
    """007 was 7 where DuckDB read a CSV file, and where a folder's Parquet files had two types."""
    table = contract(
        k={"type": "category", "allowed": ["007", "7"]}, y={"type": "integer", "allowed": [0, 1]}
    )
    frame = pd.DataFrame({"k": ["007", "7"], "y": [0, 1]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    described: dict = {"type": "csv", "path": str(tmp_path / "t.csv")}
    if way == "folder":
        (tmp_path / "f").mkdir()
        frame[:1].to_csv(tmp_path / "f" / "a.csv", index=False)
        frame[1:].to_csv(tmp_path / "f" / "b.csv", index=False)
        described = {"type": "csv", "path": str(tmp_path / "f")}
    elif way == "parquet":
        (tmp_path / "f").mkdir()
        frame[:1].to_parquet(tmp_path / "f" / "a.parquet")
        frame[1:].assign(k=[7.0]).to_parquet(tmp_path / "f" / "b.parquet")
        described = {"type": "parquet", "path": str(tmp_path / "f")}
    elif way == "sqlite":
        with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
            connection.execute("CREATE TABLE t (k, y)")
            connection.executemany("INSERT INTO t VALUES (?, ?)", [("007", 0), (7.0, 1)])
            connection.commit()
        described = {"type": "sqlite", "path": str(tmp_path / "t.db"), "table": "t"}
    elif way == "duckdb":
        with duckdb.connect(str(tmp_path / "t.duckdb")) as connection:
            connection.execute("CREATE TABLE t AS SELECT * FROM frame")
        described = {"type": "duckdb", "path": str(tmp_path / "t.duckdb"), "table": "t"}
    elif way == "duckdb over csv":
        described = {"type": "duckdb", "tables": {"t": described}, "query": "SELECT * FROM t"}
    (tmp_path / "spool").mkdir()
    source = parse_source(described, where="s")
    made, unreadable = standardise(source, Mapping(contract="t@1"), table, tmp_path / "spool")
    assert made["k"].to_pylist() == ["007", "7"]
    assert made["y"].to_pylist() == [0, 1]
    assert unreadable == {}


def test_a_code_that_the_source_reads_as_nothing_is_not_lost_without_a_word(tmp_path: Path):
    """NA, for Namibia, was an empty cell."""
    land = contract(land={"type": "category", "allowed": ["NA", "DE"], "nullable_share": 1})
    (tmp_path / "t.csv").write_text("land\nNA\nDE\n")
    (tmp_path / "spool").mkdir()
    described = {"type": "csv", "path": str(tmp_path / "t.csv")}
    mapping = Mapping(contract="t@1")
    with pytest.raises(SourceUnreadable, match=r"allows 'NA' in column 'land'.*set na_values"):
        standardise(parse_source(described, where="s"), mapping, land, tmp_path / "spool")
    source = parse_source({**described, "na_values": [""]}, where="s")
    made, _ = standardise(source, mapping, land, tmp_path / "spool")
    assert made["land"].to_pylist() == ["NA", "DE"]
