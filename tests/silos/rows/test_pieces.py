"""A long file is cut where its rows end: what is read of the pieces is what the file says."""

import gzip
import io
import threading
from datetime import UTC, datetime
from decimal import Decimal
from encodings.aliases import aliases

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import csv

from consilo.errors import SourceUnreadable
from silos.rows.sources import CsvSource, csv_form, csv_rows
from silos.rows.sources.blocks import BlockColumns, made_in_order, to_frame
from silos.rows.sources.pieces import Pieces, can_cut

EASY = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CELL = st.sampled_from(
    ["", "x", "7", "ä€", "\ufeff1", "a long cell that no part of a text is as long as", " y "]
)
LINE = st.sampled_from(["{a},{b}\n", "{a},{b}\r\n", "\n{a},{b}\n"])
HIDING = st.sampled_from(['"{a}\n{b}",{b}\n', '{a},"{b}, ""{a}"""\n', '5" of {a},{b}\n'])
ROWS = st.lists(st.tuples(LINE, CELL, CELL), min_size=1, max_size=40)
LATER = st.lists(st.tuples(HIDING, CELL, CELL), max_size=3)


def text_of(rows):
    return "".join(line.format(a=a, b=b) for line, a, b in rows)


def read(path, **options):
    source = CsvSource(path=path, na_values=("",), **options)
    return pa.concat_tables(source.blocks(["b", "a"], text=["a", "b"])).combine_chunks()


def test_the_memory_of_a_piece_that_was_taken_back_holds_later_ones():
    text = b"".join(b"%d,x\n" % at for at in range(200))
    pieces = Pieces(io.BytesIO(text), [b'"'], piece_bytes=64)
    found, memory = [], []
    for piece in pieces:
        found.append(b"".join(map(bytes, piece.parts(20))))
        if not any(piece.text is each for each in memory):
            memory.append(piece.text)
        pieces.take_back(piece)
    assert b"".join(found) == text
    assert len(memory) < 4 < len(found)


@EASY
@given(ROWS, LATER, ROWS, st.booleans())
def test_a_file_read_in_pieces_is_the_one_read_whole(tmp_path, first, quoted, last, ends):
    text = "a,b\n" + text_of(first) + text_of(quoted) + text_of(last)
    raw = (text if ends else text.rstrip("\r\n")).encode()
    (tmp_path / "t.csv").write_bytes(raw)
    whole = csv.read_csv(
        io.BytesIO(raw),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            include_columns=["b", "a"],
            column_types={"a": pa.string(), "b": pa.string()},
            null_values=[""],
            strings_can_be_null=True,
        ),
    ).combine_chunks()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_form, "TEXT_BLOCK", 160)
        patch.setattr(csv_rows, "_COLUMN_BYTES", 1)
        assert read(tmp_path / "t.csv").equals(whole)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "utf-16", "utf-8-sig"])
def test_a_long_file_of_any_encoding_packed_or_not_is_the_same(tmp_path, monkeypatch, encoding):
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", 256)
    monkeypatch.setattr(csv_rows, "_COLUMN_BYTES", 1)
    raw = ("a;b\n" + "".join(f"ä{at};{at}\n" for at in range(400))).encode(encoding)
    (tmp_path / "t.csv").write_bytes(raw)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(raw))
    for name in ("t.csv", "t.csv.gz"):
        found = read(tmp_path / name, separator=";", encoding=encoding)
        assert found["a"].to_pylist() == [f"ä{at}" for at in range(400)]
        assert found["b"].to_pylist() == [str(at) for at in range(400)]


def test_a_file_without_a_header_loses_no_first_row_of_a_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", 256)
    monkeypatch.setattr(csv_rows, "_COLUMN_BYTES", 1)
    (tmp_path / "t.csv").write_text("".join(f"{at},{at}\n" for at in range(400)))
    for options in ({"names": ("a", "b")}, {}):
        source = CsvSource(path=tmp_path / "t.csv", header=False, **options)
        table = pa.concat_tables(source.blocks())
        assert [column.to_pylist() for column in table.columns] == [list(range(400))] * 2


@pytest.mark.parametrize("fault", ["1,2,3\n", "1\n"])
def test_a_line_of_too_many_fields_in_any_piece_is_told(tmp_path, monkeypatch, fault):
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", 256)
    (tmp_path / "t.csv").write_text("a,b\n" + "1,2\n" * 400 + fault + "1,2\n" * 400)
    with pytest.raises(SourceUnreadable, match=r"a line has \d fields where 2 are expected"):
        read(tmp_path / "t.csv")


def test_where_other_bytes_are_quotes_too_nothing_is_cut(tmp_path, monkeypatch):
    raw = b"a,b\n" + b"1,2\n" * 100 + b"\xa2x\ny\xa2,3\n" * 60
    (tmp_path / "t.csv").write_bytes(raw)
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", 64)
    found = read(tmp_path / "t.csv", encoding="mac-arabic")
    assert found["a"].to_pylist() == ["1"] * 100 + ["x\ny"] * 60
    narrow = [each for each in aliases.values() if each.startswith(("cp125", "iso8859", "mac_"))]
    cut = {name for name in (*narrow, "mac_arabic", "mac_farsi") if can_cut(name)}
    assert len(cut) > 25
    for name in cut:
        assert not any(bytes([byte]).decode(name, "replace").isascii() for byte in range(128, 256))


def test_a_text_that_cannot_be_cut_is_left_as_one(tmp_path):
    text = b"a,b\n1,2\n" * 5 + b'"3\n",4\n' * 9
    pieces = Pieces(io.BytesIO(text), [b'"'], piece_bytes=16)
    found = b"".join(piece.text[: piece.size] for piece in pieces)
    assert found == b"a,b\n1,2\n" * 4
    assert found + pieces.rest.read() == text
    assert [can_cut(each) for each in ("latin-1", "utf-16-le", "utf-7", "shift-jis")] == [
        True,
        False,
        False,
        False,
    ]


def test_what_several_threads_make_comes_in_order_and_nothing_runs_on():
    before = threading.active_count()
    assert list(made_in_order(lambda each: each * 2, range(50), ahead=3)) == list(range(0, 100, 2))
    ahead = made_in_order(lambda each: each * 2, range(50), ahead=3)
    assert [next(ahead), next(ahead)] == [0, 2]
    ahead.close()
    assert threading.active_count() == before

    def third_fails(each):
        if each == 2:
            raise SourceUnreadable("the third")
        return each

    ahead = made_in_order(third_fails, range(50), ahead=3)
    assert [next(ahead), next(ahead)] == [0, 1]
    with pytest.raises(SourceUnreadable, match="the third"):
        next(ahead)
    assert threading.active_count() == before


@pytest.mark.parametrize("parts", [1, 2])
def test_a_block_has_the_same_columns_one_by_one_and_all_at_once(parts):
    day = datetime(2020, 1, 31, 12, tzinfo=UTC)
    table = pa.table(
        {
            "whole": pa.array([1, None, 2**60]),
            "number": pa.array([0.1, None, float("nan")]),
            "plain": pa.array([0.1, 2.0, 3.0]),
            "small": pa.array([0.1, None, 3.0], pa.float32()),
            "yes": pa.array([True, None, False]),
            "text": pa.array(["a", None, ""]),
            "long": pa.array(["a", None, ""], pa.large_string()),
            "code": pa.array(["a", "b", "a"]).dictionary_encode(),
            "day": pa.array([day.date(), None, day.date()]),
            "days": pa.array([day.date()] * 3).cast(pa.date32()),
            "far": pa.array([4_000_000, None, 0], pa.int32()).cast(pa.date32()),
            "time": pa.array([day, None, day]),
            "clock": pa.array([day.time(), None, day.time()]),
            "amount": pa.array([Decimal("1.50"), None, Decimal(2)]),
            "raw": pa.array([b"a", None, b""]),
            "none": pa.nulls(3),
        }
    )
    table = pa.concat_tables([table] * parts)
    frame = to_frame(table)
    columns = BlockColumns(table)
    assert list(columns) == list(frame)
    for name in frame:
        assert name in columns
        pd.testing.assert_series_equal(columns[name], frame[name], check_names=False)
        assert columns.pop(name).dtype == frame[name].dtype
        assert name not in columns
