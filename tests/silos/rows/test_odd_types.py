"""What a source has no plain value for is text as the source prints it, or counted; never garbage.

Bytes were read as the code ``b'abc'``, an interval as ``<DateOffset: days=1>``, and a date of
DuckDB that is infinite ended in a traceback.
"""

from __future__ import annotations

import csv
import datetime as dt
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid, SourceUnreadable
from silos.rows.mapping import Mapping
from silos.rows.sources import csv_form, parse_source
from silos.rows.sources.database import array_of
from silos.rows.standardise import standardise


def read(described: dict, kind: str, folder: Path) -> tuple[list, int]:
    table = Contract.parse(
        {"name": "t", "version": 1, "columns": {"x": {"type": kind, "nullable_share": 1}}},
        where="t",
    )
    source = parse_source(described, where="s")
    (folder / "spool").mkdir()
    made, lost = standardise(source, Mapping(contract="t@1"), table, folder / "spool")
    cells = [None if pd.isna(each) else each for each in made["x"].to_pylist()]
    return cells, lost.get("x", {}).get("count", 0)


DUCKDB = [
    ("'abc'::BLOB", "string", None), ("'abc'::BLOB", "category", None),
    ("interval 1 day", "string", "1 day"), ("interval 1 day", "float", None),
    ("'0101'::BIT", "integer", None), ("'0101'::BIT", "string", None),
    ("timetz '01:02:03+01'", "string", "01:02:03+01"), ("time '01:02:03'", "string", "01:02:03"),
    ("[1, 2]", "string", "[1, 2]"), ("{'a': 1}", "float", None),
    ("union_value(k := 1)", "string", "1"), ("map {'a': 1}", "integer", None),
    ("170141183460469231731687303715884105727::HUGEINT", "float", None),
    ("170141183460469231731687303715884105727::HUGEINT", "string", str(2**127 - 1)),
    ("9007199254740993::HUGEINT", "integer", 2**53 + 1),
    ("18446744073709551615::UBIGINT", "integer", None),
    ("123456789012345678901234567890::BIGNUM", "string", "123456789012345678901234567890"),
    ("9007199254740993::DECIMAL(20, 0)", "integer", 2**53 + 1),
    ("1.10::DECIMAL(18, 2)", "string", "1.1"), ("1.5::DECIMAL(18, 2)", "integer", None),
    ("'a'::ENUM ('a', 'b')", "category", "a"),
    ("'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::UUID", "string",
     "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("'infinity'::DATE", "date", None), ("'infinity'::DATE", "string", None),
    ("'-infinity'::TIMESTAMP", "date", None), ("'infinity'::TIMESTAMP", "string", None),
    ("timestamptz '2024-01-02 01:00:00+01'", "date", dt.datetime(2024, 1, 2)),
    ("date '2024-01-02'", "string", "2024-01-02"), ("'{}'::JSON", "string", "{}"),
    ("0.1::FLOAT", "category", "0.1"), ("'inf'::DOUBLE", "float", None),
]  # fmt: skip


@pytest.mark.parametrize(("cell", "kind", "expected"), DUCKDB)
def test_a_type_of_duckdb_is_exact_or_counted(tmp_path, cell, kind, expected):
    with duckdb.connect(str(tmp_path / "t.duckdb")) as connection:
        connection.execute(f"CREATE TABLE t AS SELECT {cell} AS x")
    described = {"type": "duckdb", "path": str(tmp_path / "t.duckdb"), "table": "t"}
    assert read(described, kind, tmp_path) == ([expected], expected is None)


PARQUET = [
    (pa.array([b"abc"]), "string", None), (pa.array([b"12"], pa.large_binary()), "float", None),
    (pa.array([b"abc"], pa.binary(3)), "category", None),
    (pa.array([Decimal("12345678901234567.89")]), "string", "12345678901234567.89"),
    (pa.array([Decimal("9007199254740993")]), "integer", 2**53 + 1),
    (pa.array([Decimal("9007199254740993")]), "float", None),
    (pa.array([2**63 + 1], pa.uint64()), "string", str(2**63 + 1)),
    (pa.array([2**32 - 1], pa.uint32()), "integer", 2**32 - 1),
    (pa.array([0.1], pa.float32()), "string", "0.1"),
    (pa.array(["a"]).dictionary_encode(), "category", "a"),
    (pa.array([7]).dictionary_encode(), "integer", 7),
    (pa.array([b"a"]).dictionary_encode(), "string", None),
    (pa.array([dt.timedelta(hours=1)]), "string", None),
    (pa.array([dt.time(1, 2, 3)]), "float", None),
    (pa.array([dt.datetime(2024, 1, 2)], pa.timestamp("us", "Asia/Tokyo")), "date",
     dt.datetime(2024, 1, 2)),
    (pa.array([2**30], pa.date32()), "date", None),
    (pa.array([2**30], pa.date32()), "string", None),
]  # fmt: skip


@pytest.mark.parametrize(("array", "kind", "expected"), PARQUET)
def test_a_type_of_parquet_is_exact_or_counted(tmp_path, array, kind, expected):
    pq.write_table(pa.table({"x": array}), tmp_path / "t.parquet")
    described = {"type": "parquet", "path": str(tmp_path / "t.parquet")}
    assert read(described, kind, tmp_path) == ([expected], expected is None)


@pytest.mark.parametrize(
    "array", [pa.array([[1]]), pa.array([{"a": 1}]), pa.array([[("k", 1)]], pa.map_("str", "int8"))]
)
def test_lists_and_structures_of_parquet_are_refused_by_name(tmp_path, array):
    pq.write_table(pa.table({"x": array}), tmp_path / "t.parquet")
    described = {"type": "parquet", "path": str(tmp_path / "t.parquet")}
    with pytest.raises(SourceUnreadable, match="column 'x' holds lists or structures"):
        read(described, "string", tmp_path)


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        ([b"abc", None], "string", [None, None]), ([b"abc", "abc"], "category", [None, "abc"]),
        ([b"1", 1.5], "float", [None, 1.5]), (["a\0", "a"], "category", [None, "a"]),
        ([2**53 + 1, "x"], "integer", [2**53 + 1, None]),
    ],
)  # fmt: skip
def test_bytes_in_a_column_of_sqlite_are_counted(tmp_path, cells, kind, expected):
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.executemany("INSERT INTO t VALUES (?)", [(each,) for each in cells])
        connection.commit()
    described = {"type": "sqlite", "path": str(tmp_path / "t.db"), "table": "t"}
    lost = sum(e is None and c is not None for c, e in zip(cells, expected, strict=True))
    assert read(described, kind, tmp_path) == (expected, lost)


def test_what_a_driver_hands_out_for_bytes_is_never_text():
    """A memoryview was the code ``<memory at 0x7f…>``, another one in every process."""
    for cell in (b"a", bytearray(b"a"), memoryview(b"a")):
        assert array_of([cell, "a"]).to_pylist() == ["\0", "a"]


def test_a_text_of_sqlite_that_is_no_utf8_names_what_reads_it(tmp_path):
    with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
        connection.execute("CREATE TABLE t AS SELECT CAST(x'ff61' AS TEXT) AS x")
        connection.commit()
    described = {"type": "sqlite", "path": str(tmp_path / "t.db"), "table": "t"}
    with pytest.raises(SourceUnreadable, match=r"is not UTF-8; .* hex\(column\)"):
        read(described, "string", tmp_path)
    hexed = {**described, "table": None, "query": "SELECT hex(x) AS x FROM t"}
    del hexed["table"]
    (tmp_path / "again").mkdir()
    assert read(hexed, "string", tmp_path / "again") == (["FF61"], 0)


def test_objects_of_a_frame_are_counted_where_they_are_no_values():
    column = {"type": "string", "nullable_share": 1}
    table = Contract.parse({"name": "t", "version": 1, "columns": {"x": column}}, where="t")
    cells = [b"a", pd.Timedelta(1), pd.Period("2024"), "a", np.int64(7), True]
    made = Mapping(contract="t@1").apply(pd.DataFrame({"x": pd.Series(cells, dtype=object)}), table)
    assert made["x"].dropna().tolist() == ["a", "7", "true"]
    assert made.attrs["unreadable"]["x"]["count"] == 3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"quote": "ab"}, "quote must be one sign of ASCII, or none"),
        ({"escape": '"'}, "a quote that stands twice is read anyway"),
        ({"separator": "'", "quote": "'"}, "must be different signs"),
        ({"separator": "\u00a7"}, "separator must be one sign of ASCII"),
        ({"escape": "x"}, "escape must be one sign"), ({"separator": "\n"}, "separator must be"),
        ({"quote": "none", "escape": "|", "separator": "|"}, "must be different signs"),
    ],
)  # fmt: skip
def test_signs_of_csv_that_cannot_be_are_refused(options, said):
    with pytest.raises(ConfigInvalid, match=said):
        parse_source({"type": "csv", "path": "t.csv", **options}, where="s")


@pytest.mark.parametrize("at", [0, 3000])
def test_a_nothing_that_an_escape_would_make_a_code_is_refused(tmp_path, at):
    lines = ["1,a\n"] * at + ["2,\\N\n", "3,b\n"]
    (tmp_path / "t.csv").write_text("y,x\n" + "".join(lines))
    described = {"type": "csv", "path": str(tmp_path / "t.csv")}
    with pytest.raises(SourceUnreadable, match="would be read as the text N"):
        read({**described, "escape": "\\"}, "string", tmp_path)
    (tmp_path / "again").mkdir()
    made, _ = read({**described, "na_values": ["\\N"]}, "string", tmp_path / "again")
    assert made[-2:] == [None, "b"]


@pytest.mark.parametrize("before", [0, 1, 2, 5])
def test_an_escape_before_a_sign_that_needs_none_is_refused_and_not_taken_away(
    tmp_path, monkeypatch, before
):
    """DuckDB escapes within quotes only: of its text a\\b the sign got lost without a word."""
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", 8)
    described = {"type": "csv", "path": str(tmp_path / "t.csv"), "escape": "\\"}
    for place, field in {"a": "a\\b", "b": '"a\\b"', "c": "\\t"}.items():
        (tmp_path / place).mkdir()
        (tmp_path / "t.csv").write_text("y,x\n" + "z" * before + f",{field}\n")
        with pytest.raises(SourceUnreadable, match="it would be lost"):
            read(described, "string", tmp_path / place)
    monkeypatch.undo()
    (tmp_path / "t.csv").write_text("y,x\n" + "z" * before + ',"a\\\\b\\"c"\n1,d\\,e\n')
    assert read(described, "string", tmp_path) == (['a\\b"c', "d,e"], 0)


def test_what_is_written_without_quotes_and_with_an_escape_is_read_back(tmp_path):
    texts = ['a"b', "c,d", "e\\f", "g"]
    frame = pd.DataFrame({"x": texts, "y": range(4)})
    frame.to_csv(tmp_path / "t.csv", index=False, quoting=csv.QUOTE_NONE, escapechar="\\")
    described = {"type": "csv", "path": str(tmp_path / "t.csv"), "quote": "none", "escape": "\\"}
    assert read(described, "string", tmp_path) == (texts, 0)


def test_a_file_without_quotes_has_them_as_signs(tmp_path):
    (tmp_path / "t.csv").write_text('x,y\n5" screw,1\n"a,2\n')
    described = {"type": "csv", "path": str(tmp_path / "t.csv"), "quote": "none"}
    assert read(described, "string", tmp_path) == (['5" screw', '"a'], 0)


def test_caches_of_sources_without_the_newer_options_stay_good():
    said = parse_source({"type": "csv", "path": "t.csv"}, where="s").description
    assert not {"quote", "escape"} & set(said)
    other = parse_source({"type": "csv", "path": "t.csv", "quote": "'"}, where="s").description
    assert other["quote"] == "'"
