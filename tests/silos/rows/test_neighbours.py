"""Neighbours of numbers that two ways in read as two: the same figure from each, or counted."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from consilo.errors import SourceUnreadable
from silos.rows.mapping import Mapping
from silos.rows.sources import csv_form, parse_source
from silos.rows.standardise import standardise

FLOAT, WHOLE = {"type": "float"}, {"type": "integer"}
DATE = {"type": "date"}
SHARE = {"type": "float", "unit": "percent"}
DAY = pd.Timestamp(2024, 1, 2)


def read(way: str, cells: list[str], column: dict, how: dict, folder: Path) -> tuple[list, int]:
    table = Contract.parse(
        {"name": "t", "version": 1, "columns": {"x": {"nullable_share": 1, **column}}}, where="t"
    )
    frame = pd.DataFrame({"x": pd.Series(cells, dtype="str"), "y": range(len(cells))})
    frame.to_csv(folder / "t.csv", index=False)
    described: dict = {"type": "csv", "path": str(folder / "t.csv")}
    if way == "parquet":
        frame.to_parquet(folder / "t.parquet")
        described = {"type": "parquet", "path": str(folder / "t.parquet")}
    elif way == "duckdb over csv":
        described = {"type": "duckdb", "tables": {"t": described}, "query": "SELECT * FROM t"}
    elif way == "folder":
        (folder / "f").mkdir()
        frame[:1].to_csv(folder / "f" / "a.csv", index=False)
        frame[1:].to_csv(folder / "f" / "b.csv", index=False)
        described = {"type": "csv", "path": str(folder / "f")}
    told = {"contract": "t@1", "columns": {"x": how} if how else {}}
    (folder / "spool").mkdir()
    mapping = Mapping.parse(told, table, where="m")
    made, lost = standardise(parse_source(described, where="s"), mapping, table, folder / "spool")
    found = [None if pd.isna(each) else each for each in made["x"].to_pylist()]
    return found, lost.get("x", {}).get("count", 0)


CASES = [
    # A column of nothing but hexadecimal numbers was read as such, and a mixed one was not.
    (["0x10", "0x1F"], FLOAT, {}, [None, None]), (["0x10", "0x1F"], WHOLE, {}, [None, None]),
    (["0X10", "7"], WHOLE, {}, [None, 7]),
    # Whole numbers of more digits than a float has, once a column had a fraction too.
    (["9007199254740993", "1.5"], FLOAT, {}, [None, 1.5]),
    (["9007199254740993", "1.5"], WHOLE, {}, [2**53 + 1, None]),
    (["18446744073709551615", "1"], FLOAT, {}, [None, 1.0]),
    (["18446744073709551616", "1"], FLOAT, {}, [2.0**64, 1.0]),
    (["9007199254740993", "9007199254740995"], WHOLE, {}, [2**53 + 1, 2**53 + 3]),
    (["1e+30", "1e-7"], FLOAT, {}, [1e30, 1e-7]), (["1e400", "1"], FLOAT, {}, [None, 1.0]),
    (["1.", ".5"], FLOAT, {}, [1.0, 0.5]), (["+5", "-0"], WHOLE, {}, [5, 0]),
    (["inf", "1"], FLOAT, {}, [None, 1.0]), (["1d5", "1"], FLOAT, {}, [None, 1.0]),
    (["1,23,456", "12"], FLOAT, {}, [None, 12.0]), (["\uff11\uff12", "3"], FLOAT, {}, [None, 3.0]),
    (["\u00bd", "3"], FLOAT, {}, [None, 3.0]), (["1/2", "3"], FLOAT, {}, [None, 3.0]),
    (["12,5 %", "3 %"], SHARE, {"decimal": ","}, [12.5, 3.0]),
    (["(1.234,5)", "(5)"], FLOAT, {"decimal": ",", "negative": "brackets"}, [-1234.5, -5.0]),
    (["2024-01-02", "2024-01-03"], FLOAT, {}, [None, None]),
    (["12:30", "13:00"], WHOLE, {}, [None, None]),
    (["2024-01-02T23:59:60", "2024-01-02"], DATE, {}, [None, DAY]),
    (["2024-01-02 24:00", "2024-01-02"], DATE, {}, [None, DAY]),
    (["2024-W01-2", "2024-01-02"], DATE, {}, [None, DAY]),
    (["45293", "45293.0"], DATE, {"date_format": "excel"}, [DAY, DAY]),
    (["45,293", "45293"], DATE, {"date_format": "excel"}, [None, DAY]),
]  # fmt: skip


@pytest.mark.parametrize("way", ["csv", "folder", "parquet", "duckdb over csv"])
@pytest.mark.parametrize(("cells", "column", "how", "expected"), CASES)
def test_a_cell_is_the_same_from_every_way_in(tmp_path, way, cells, column, how, expected):
    lost = sum(each is None for each in expected)
    assert read(way, cells, column, how, tmp_path) == (expected, lost)


@pytest.mark.parametrize("way", ["csv", "folder", "parquet"])
def test_a_thousands_point_is_one_where_every_cell_has_it(tmp_path, way):
    found = read(way, ["1.000", "2.500"], FLOAT, {"decimal": ","}, tmp_path)
    assert found == ([1000.0, 2500.0], 0)


def test_below_duckdb_a_point_that_is_a_thousands_mark_is_refused(tmp_path):
    """``1.000`` was 1 there, and 1000 from everywhere else."""
    with pytest.raises(SourceUnreadable, match="read the file as a source of type csv"):
        read("duckdb over csv", ["1.000", "2.500"], FLOAT, {"decimal": ","}, tmp_path)


@pytest.mark.parametrize("block", [16, 64])
def test_what_a_later_block_has_counts_for_all_of_them(tmp_path, monkeypatch, block):
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", block)
    cells = ["1.5"] * 20 + ["9007199254740993"] + ["2"] * 20
    assert read("csv", cells, FLOAT, {}, tmp_path) == ([1.5] * 20 + [None] + [2.0] * 20, 1)


@pytest.mark.parametrize("block", [32, 64])
@pytest.mark.parametrize("first", ["5", ""])
@pytest.mark.parametrize("note", ["", '"a note"', "0x1"])
def test_a_hexadecimal_number_far_down_is_none_of_ours(tmp_path, monkeypatch, block, first, note):
    """In whichever piece it stands, before and behind a quote, also where a column began empty."""
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", block)
    cells = [first] * 40 + ["7", "0x10", "8"] + ["6"] * 40
    rows = [f"{each},{note if place == 20 else ''},{place}" for place, each in enumerate(cells)]
    (tmp_path / "t.csv").write_text("\n".join(["x,note,y", *rows, ""]))
    source = parse_source({"type": "csv", "path": str(tmp_path / "t.csv")}, where="s")
    table = Contract.parse({"name": "t", "version": 1, "columns": {"x": WHOLE}}, where="t")
    made, lost = standardise(source, Mapping(contract="t@1"), table, tmp_path)
    expected = [int(each) if each.isdigit() else None for each in cells]
    assert made["x"].to_pylist() == expected
    assert lost["x"]["count"] == 1


def test_a_hexadecimal_number_in_two_bytes_a_letter_is_none_of_ours(tmp_path):
    (tmp_path / "t.csv").write_bytes("x,y\n0x10,1\n0x1F,2\n".encode("utf-16"))
    told = {"type": "csv", "path": str(tmp_path / "t.csv"), "encoding": "utf-16"}
    table = Contract.parse({"name": "t", "version": 1, "columns": {"x": WHOLE}}, where="t")
    source = parse_source(told, where="s")
    made, lost = standardise(source, Mapping(contract="t@1"), table, tmp_path)
    assert made["x"].to_pylist() == [None, None]
    assert lost["x"]["count"] == 2


def test_a_note_with_a_hexadecimal_number_leaves_other_columns_numbers(tmp_path):
    (tmp_path / "t.csv").write_text("note,x\nsee 0x10,1\n0x11,2\n")
    frame = parse_source({"type": "csv", "path": str(tmp_path / "t.csv")}, where="s").read()
    assert frame["note"].tolist() == ["see 0x10", "0x11"]
    assert frame["x"].tolist() == [1, 2]
    assert str(frame["x"].dtype) == "Int64"


@pytest.mark.parametrize("kind", ["string", "category"])
def test_below_duckdb_a_code_with_a_fraction_is_refused_or_text(tmp_path, kind):
    """``1.10`` and ``1.1`` were one code there, and two from everywhere else."""
    with pytest.raises(SourceUnreadable, match="name it under as_text"):
        read("duckdb over csv", ["1.10", "1.1"], {"type": kind}, {}, tmp_path)
    table = Contract.parse({"name": "t", "version": 1, "columns": {"x": {"type": kind}}}, where="t")
    for name in ("x", "z"):
        csv = {"type": "csv", "path": str(tmp_path / "t.csv"), "as_text": [name]}
        told = {"type": "duckdb", "tables": {"t": csv}, "query": "SELECT x FROM t"}
        source = parse_source(told, where="s")
        if name == "z":
            with pytest.raises(SourceUnreadable, match="as_text names 'z'"):
                source.read()
            return
        made, lost = standardise(source, Mapping(contract="t@1"), table, tmp_path / "spool")
        assert (made["x"].to_pylist(), lost) == (["1.10", "1.1"], {})


@pytest.mark.parametrize("way", ["csv", "folder", "parquet", "duckdb over csv"])
def test_a_plus_is_part_of_a_code(tmp_path, way):
    assert read(way, ["+7", "7"], {"type": "string"}, {}, tmp_path) == (["+7", "7"], 0)
