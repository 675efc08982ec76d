import os
import sqlite3
import threading

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import compute as pc
from pyarrow import csv

from consilo.errors import ConfigInvalid, SourceUnreadable
from silos.rows.sources import (
    DEFAULT_NULLS,
    CsvSource,
    ParquetSource,
    Source,
    SqliteSource,
    SqlSource,
    TypesChanged,
    blocks,
    csv_form,
    csv_rows,
    load_source,
)
from silos.rows.sources.blocks import read_ahead

SECRET = "SECRET-77"
ROWS = pd.DataFrame({"id": [1, 2, 3], "x": [0.5, 1.5, None], "code": ["a", "b", None]})


@pytest.fixture
def everywhere(tmp_path):
    """The same rows in every kind of source."""
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    ROWS.to_csv(tmp_path / "rows.csv.gz", index=False)
    ROWS.to_parquet(tmp_path / "rows.parquet")
    connection = sqlite3.connect(tmp_path / "rows.db")
    ROWS.to_sql("rows", connection, index=False)
    connection.close()
    return {
        "csv": CsvSource(path=tmp_path / "rows.csv"),
        "gz": CsvSource(path=tmp_path / "rows.csv.gz"),
        "parquet": ParquetSource(path=tmp_path / "rows.parquet"),
        "sqlite": SqliteSource(path=tmp_path / "rows.db", table="rows"),
        "query": SqliteSource(path=tmp_path / "rows.db", query="SELECT * FROM rows;"),
        "sql": SqlSource(url=f"sqlite:///{tmp_path / 'rows.db'}", table="rows"),
    }


@pytest.mark.parametrize("kind", ["csv", "gz", "parquet", "sqlite", "query", "sql"])
def test_every_kind_of_source_holds_the_same_rows(everywhere, kind):
    source = everywhere[kind]
    assert source.columns() == ["id", "x", "code"]
    frame = source.read()
    assert frame["id"].tolist() == [1, 2, 3]
    assert frame["x"].tolist()[:2] == [0.5, 1.5]
    assert frame.isna().sum().tolist() == [0, 1, 1]
    assert list(source.read(["code", "id"]).columns) == ["code", "id"]
    assert source.fingerprint() == source.fingerprint()
    with pytest.raises(SourceUnreadable, match="no column 'cod'; check the mapping"):
        source.read(["cod"])


def csv_of(tmp_path, text: str, **options) -> Source:
    (tmp_path / "t.csv").write_bytes(text.encode(options.get("encoding", "utf-8")))
    return CsvSource(path=tmp_path / "t.csv", **options)


def test_a_file_without_a_header_takes_its_names_from_the_source(tmp_path):
    source = csv_of(tmp_path, "1;?\n2;3\n", separator=";", header=False, names=["a", "b"])
    assert source.read()["b"].tolist() == ["?", "3"]
    assert source.model_copy(update={"na_values": ("?",)}).read()["b"].isna().tolist() == [
        True,
        False,
    ]


def test_text_stays_as_written_where_asked(tmp_path):
    source = csv_of(tmp_path, "code,x\n007,1\n010,2\n")
    assert source.read()["code"].tolist() == [7, 10]
    assert source.read(text=["code"])["code"].tolist() == ["007", "010"]


def test_a_column_that_turns_from_numbers_to_text_late_is_read_as_text(tmp_path):
    rows = "".join(f"{number},1\n" for number in range(200_000))
    frame = csv_of(tmp_path, f"a,b\n{rows}x,2\n1.5,3\n").read()
    assert frame["a"].tolist()[-2:] == ["x", "1.5"]
    assert frame["b"].sum() == 200_005


def test_whole_numbers_with_gaps_stay_whole(tmp_path):
    big = 2**60 + 1
    assert csv_of(tmp_path, f"a,b\n{big},1\n,2\n").read()["a"][0] == big


def test_several_files_are_one_table(tmp_path):
    (tmp_path / "one.csv").write_text("a,b\n1,2\n")
    (tmp_path / "two.csv").write_text("a,b\n1.5,x\n")
    source = CsvSource(path=["one.csv", "two.csv"]).resolve(tmp_path)
    frame = source.read()
    assert frame["a"].tolist() == [1, 1.5]
    assert frame["b"].tolist() == ["2", "x"]


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("", {}, "t.csv is empty"),
        (f"a,b\n1,2\n{SECRET},2,3\n", {}, "a line has 3 fields where 2 are expected"),
        (f"{SECRET},{SECRET}\n1,1\n", {}, "column 2 has the name of one before it"),
        (f"a\n{SECRET}ü\n", {"encoding": "latin-1"}, "utf-8 text; set encoding"),
        (f"ü\n{SECRET}\n", {"encoding": "latin-1"}, "utf-8 text; set encoding"),
    ],
)
def test_a_file_that_cannot_be_read_says_why_and_quotes_nothing(tmp_path, text, options, said):
    source = csv_of(tmp_path, text, **options).model_copy(update={"encoding": "utf-8"})
    with pytest.raises(SourceUnreadable, match=said) as caught:
        source.read()
    assert SECRET not in str(caught.value)


def test_a_first_row_taken_for_a_header_is_not_quoted(tmp_path):
    source = csv_of(tmp_path, f"{SECRET},63\n{SECRET},64\n")
    with pytest.raises(SourceUnreadable) as caught:
        source.read([SECRET.lower()])
    assert SECRET not in str(caught.value)


def test_what_is_not_there_is_told(tmp_path, everywhere):
    with pytest.raises(SourceUnreadable, match=r"gone\.csv does not exist"):
        CsvSource(path=tmp_path / "gone.csv").read()
    with pytest.raises(SourceUnreadable, match="no table 'gone'"):
        SqliteSource(path=tmp_path / "rows.db", table="gone").read()
    with pytest.raises(SourceUnreadable, match="not an SQLite database"):
        SqliteSource(path=tmp_path / "rows.csv", table="rows").read()
    with pytest.raises(SourceUnreadable, match="as Parquet"):
        ParquetSource(path=tmp_path / "rows.csv").read()
    hidden = everywhere["sql"].model_copy(update={"password_env": "CONSILO_TEST_UNSET"})
    with pytest.raises(SourceUnreadable, match="set the environment variable CONSILO_TEST_UNSET"):
        hidden.read()


def test_a_header_without_rows_is_an_empty_table(tmp_path):
    frame = csv_of(tmp_path, "a,b\n").read()
    assert list(frame.columns) == ["a", "b"]
    assert len(frame) == 0


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("type: csv", "path: this key is required and missing"),
        ("{type: csv, path: a.csv, seperator: ;}", "did you mean 'separator'"),
        ("{type: sqlite, path: a.db}", "a table or a query"),
        ("{type: sqlite, path: a.db, table: t, query: q}", "a table or a query"),
        ("{type: sql, table: t}", "url: this key is required and missing"),
        (
            "{type: parquet, path: a, separator: ;}",
            "separator: not an option of type parquet, but",
        ),
        ("{type: xlsx, path: a}", "type: expected one of csv, .*found 'xlsx'"),
        ("{type: cvs, path: a}", "did you mean 'csv'"),
        ("{path: a.csv}", "type: this key is required and missing"),
        ("{type: csv, path: []}", "path: expected 1 or more entries"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(tmp_path, value, said):
    (tmp_path / "source.yaml").write_text(value)
    with pytest.raises(ConfigInvalid, match=said):
        load_source(tmp_path / "source.yaml")


def test_a_source_file_speaks_of_paths_beside_it(tmp_path, everywhere):
    (tmp_path / "source.yaml").write_text("{type: csv, path: rows.csv}")
    assert len(load_source(tmp_path / "source.yaml").read()) == 3


@given(st.text("ab\n", max_size=8), st.text("ab\n", max_size=8))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_fingerprint_is_that_of_the_content(tmp_path, one, other):
    memo = tmp_path / "memo.json"
    source = CsvSource(path=tmp_path / "t.csv")
    prints = []
    for text in (one, other, one):
        (tmp_path / "t.csv").write_text(f"h\n{text}")
        prints.append(source.fingerprint(memo))
    assert prints[0] == prints[2]
    assert (prints[0] == prints[1]) == (one == other)


def test_the_fingerprint_remembers_an_old_file_and_sees_a_changed_one(tmp_path):
    path, memo = tmp_path / "t.csv", tmp_path / "memo.json"
    path.write_text("a\n1\n")
    source = CsvSource(path=path)
    before = source.fingerprint(memo)
    # Written just now: it could change again within the same tick, so nothing is remembered.
    assert not memo.exists()
    stat = path.stat()
    path.write_text("a\n2\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert source.fingerprint(memo) != before


def test_the_options_are_part_of_the_fingerprint(tmp_path):
    source = csv_of(tmp_path, "a;b\n1;2\n")
    other = source.model_copy(update={"separator": ";"})
    assert source.fingerprint() != other.fingerprint()


def test_rows_in_the_write_ahead_log_count(tmp_path):
    connection = sqlite3.connect(tmp_path / "w.db")
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE t (a)")
    connection.commit()
    source = SqliteSource(path=tmp_path / "w.db", table="t")
    before = source.fingerprint()
    connection.execute("INSERT INTO t VALUES (1)")
    connection.commit()
    assert source.fingerprint() != before
    assert len(source.read()) == 1
    connection.close()


def test_a_version_query_answers_for_the_rows(everywhere):
    source = everywhere["sql"].model_copy(update={"version_query": "SELECT max(id) FROM rows"})
    path = source.url.removeprefix("sqlite:///")
    before = source.fingerprint(), everywhere["sql"].fingerprint()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE rows SET x = 9 WHERE id = 1")
    connection.close()
    assert source.fingerprint() == before[0]
    assert everywhere["sql"].fingerprint() != before[1]


CELLS = st.sampled_from(
    ["1", "-7", "9007199254740993", "1.5", "nan", "", "true", "2020-01-31", "x"]
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(CELLS, CELLS), max_size=40),
    st.lists(st.tuples(CELLS, CELLS), max_size=5),
    st.sampled_from([(), ("b",)]),
)
def test_a_csv_file_read_in_blocks_is_the_one_read_whole(tmp_path, first, second, text):
    paths = [tmp_path / "1.csv", tmp_path / "2.csv"]
    for path, rows in zip(paths, (first, second), strict=True):
        path.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    (tmp_path / "all.csv").write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in [*first, *second]))
    whole = _read_whole(tmp_path / "all.csv", text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_form, "TEXT_BLOCK", 64)
        patch.setattr(blocks, "BLOCK_ROWS", 7)
        source = CsvSource(path=paths)
        found = _all_blocks(source, text)
        assert {block.num_rows for block in found[:-1]} <= {7}
        assert 1 <= len(found) <= max(1, -(-whole.num_rows // 7))
        assert pa.concat_tables(found).equals(whole)
        pd.testing.assert_frame_equal(source.read(["b", "a"], text=text), blocks.to_frame(whole))


def _read_whole(path, text):
    converting = csv.ConvertOptions(
        include_columns=["b", "a"],
        column_types={name: pa.string() for name in text},
        null_values=list(DEFAULT_NULLS),
        strings_can_be_null=True,
    )
    whole = csv.read_csv(path, convert_options=converting)
    floats = [field.name for field in whole.schema if pa.types.is_floating(field.type)]
    # Whole numbers of more digits than a float has are kept as they are written.
    long = [name for name in floats if pc.any(pc.greater_equal(whole[name], 2.0**53)).as_py()]
    return _read_whole(path, (*text, *long)) if long else whole


def _all_blocks(source, text):
    types = {}
    for _ in range(3):
        try:
            return list(source.blocks(["b", "a"], text=text, types=types))
        except TypesChanged as changed:
            types = changed.types
    raise AssertionError("types changed and changed")


def _refuses(*_):
    raise AssertionError("the types were sought")


@pytest.mark.parametrize("kind", ["int64", "double"])
def test_numbers_are_read_in_blocks_and_keep_their_gaps(tmp_path, monkeypatch, kind):
    path = tmp_path / "rows.csv"
    unit = "1" if kind == "int64" else "0.5"
    path.write_text("a,b\n" + "".join(f"{unit if n % 3 else ''},{n}\n" for n in range(3000)))
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", 512)
    monkeypatch.setattr(csv_rows, "_settled", _refuses)
    frame = CsvSource(path=path).read()
    assert str(frame["a"].dtype) == ("Int64" if kind == "int64" else "float64")
    assert frame["a"].isna().tolist() == [n % 3 == 0 for n in range(3000)]
    assert frame["a"].sum() == 2000 * float(unit)
    assert frame["b"].tolist() == list(range(3000))


def test_rows_are_read_ahead_by_one_and_nothing_runs_on():
    made = []

    def rows():
        for each in range(9):
            made.append(each)
            yield each

    before = threading.active_count()
    ahead = read_ahead(rows())
    assert next(ahead) == 0
    assert next(ahead) == 1
    ahead.close()
    assert made in ([0, 1], [0, 1, 2])
    assert threading.active_count() == before
    assert list(read_ahead(rows())) == list(range(9))
    assert list(read_ahead([])) == []


def test_what_reading_ahead_meets_is_raised_where_its_row_would_have_been():
    def rows():
        yield 1
        yield 2
        raise SourceUnreadable("the third")

    ahead = read_ahead(rows())
    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(SourceUnreadable, match="the third"):
        next(ahead)
