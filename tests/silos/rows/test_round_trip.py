"""A table that was written elsewhere and is read back through a mapping is the same table.

Written by pandas, DuckDB, polars, Arrow and PostgreSQL. With dirt in it, every dirty cell is
counted, and no other cell is changed.
"""

from __future__ import annotations

import csv
import sqlite3
import tempfile
import unicodedata
from contextlib import closing
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import postgres_server
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from consilo.contracts.contract import Contract
from silos.rows.arrow import to_pandas
from silos.rows.mapping import Mapping
from silos.rows.sources import csv_form, parse_source, postgres
from silos.rows.standardise import standardise

TABLE = Contract.parse(
    {
        "name": "t",
        "version": 1,
        "columns": {
            "key": {"type": "string", "role": "id"},
            "code": {"type": "category", "allowed": ["007", "7", "Ä b", "x,y", 'q"q', "1e3"]},
            "size": {"type": "float", "nullable_share": 1},
            "count": {"type": "integer", "nullable_share": 1},
            "yes": {"type": "boolean", "nullable_share": 1},
            "day": {"type": "date", "nullable_share": 1},
        },
    },
    where="t",
)
LOCAL = {"key": "Patient No.", "code": "Code (new)", "size": "size, cm"}
MAPPING = Mapping.parse(
    {"contract": "t@1", "columns": {name: {"from": local} for name, local in LOCAL.items()}},
    TABLE,
    where="m",
)
# Letters, marks and signs, composed as they are read, but nothing that is itself a blank end or a
# text for "nothing".
TEXTS = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S")), min_size=1, max_size=6
).map(lambda text: unicodedata.normalize("NFC", f"k{text}"))
MOMENTS = st.datetimes(pd.Timestamp(1700, 1, 1), pd.Timestamp(2200, 1, 1)).map(
    lambda moment: moment.replace(microsecond=0)
)
ROWS = st.lists(
    st.tuples(
        st.one_of(TEXTS, st.sampled_from(["007", "7", "0", "1000.0", "1e5", "+1", "true"])),
        st.sampled_from(TABLE.columns["code"].allowed),
        st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
        st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), MOMENTS),
    ),
    min_size=2,
    max_size=30,
)
EASY = settings(
    max_examples=15,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def table(rows: list[tuple]) -> pd.DataFrame:
    key, code, size, number, yes, day = zip(*rows, strict=True)
    return pd.DataFrame(
        {
            "key": pd.Series(key, dtype="str"),
            "code": pd.Series(code, dtype="str"),
            "size": pd.Series(size, dtype="float64"),
            "count": pd.array(number, dtype="Int64"),
            "yes": pd.array(yes, dtype="boolean"),
            "day": pd.Series(pd.to_datetime(list(day)), dtype="datetime64[ns]"),
        }
    )


def read(described: dict) -> tuple[pd.DataFrame, dict[str, int]]:
    with tempfile.TemporaryDirectory() as spool:
        source = parse_source(described, where="s")
        made, unreadable = standardise(source, MAPPING, TABLE, Path(spool))
        return to_pandas(made), {name: each["count"] for name, each in unreadable.items()}


def as_duckdb(frame: pd.DataFrame, path: Path, how: str) -> None:
    with duckdb.connect() as connection:
        connection.register("rows", frame)
        connection.execute(f"COPY (SELECT * FROM rows) TO '{path}' ({how})")


def written(frame: pd.DataFrame, way: str, place: Path) -> dict:
    """Write a table in one of the ways; return the source that it is to a silo."""
    local = frame.rename(columns=LOCAL)
    path = place / "t.csv"
    if way.startswith("pandas csv"):
        _, _, separator, encoding, quoting = way.split(" ")
        local.to_csv(
            path, index=False, sep=separator, encoding=encoding, quoting=getattr(csv, quoting)
        )
        return {"type": "csv", "path": str(path), "separator": separator, "encoding": encoding}
    if way in SIGNS:
        options, told = SIGNS[way]
        local.to_csv(path, index=False, **options)
        return {"type": "csv", "path": str(path), **told}
    if way.startswith("polars csv"):
        _, _, separator, style = way.split(" ")
        pl.from_pandas(local).write_csv(path, separator=separator, quote_style=style)
        return {"type": "csv", "path": str(path), "separator": separator}
    if way == "duckdb csv escaped":
        texts = ", ".join(f'"{name}"' for name in local.columns[:2])  # it escapes in quotes only
        how = f"FORMAT csv, HEADER, DELIMITER '\t', ESCAPE '\\', FORCE_QUOTE ({texts})"
        as_duckdb(local, path, how)
        return {"type": "csv", "path": str(path), "separator": "\t", "escape": "\\"}
    if way == "duckdb csv":
        as_duckdb(local, path, "FORMAT csv, HEADER")
        return {"type": "csv", "path": str(path)}
    if way in ("duckdb over csv", "duckdb table"):
        local.to_csv(path, index=False)
        if way == "duckdb over csv":
            tables = {"t": {"type": "csv", "path": str(path)}}
            return {"type": "duckdb", "tables": tables, "query": "SELECT * FROM t"}
        (place / "t.duckdb").unlink(missing_ok=True)
        with duckdb.connect(str(place / "t.duckdb")) as connection:
            connection.register("rows", local)
            connection.execute("CREATE TABLE t AS SELECT * FROM rows")
        return {"type": "duckdb", "path": str(place / "t.duckdb"), "table": "t"}
    if way == "sqlite":
        (place / "t.db").unlink(missing_ok=True)
        with closing(sqlite3.connect(place / "t.db")) as connection:
            local.to_sql("t", connection, index=False)
        return {"type": "sqlite", "path": str(place / "t.db"), "table": "t"}
    path = place / "t.parquet"
    if way == "duckdb parquet":
        as_duckdb(local, path, "FORMAT parquet")
    elif way == "polars parquet":
        pl.from_pandas(local).write_parquet(path)
    else:
        local.to_parquet(path, index=False)
    return {"type": "parquet", "path": str(path)}


SIGNS: dict[str, tuple[dict, dict]] = {
    "csv single quotes": ({"quotechar": "'"}, {"quote": "'"}),
    "csv backslashes": (
        {"escapechar": "\\", "doublequote": False, "sep": ";"}, {"escape": "\\", "separator": ";"},
    ),
    "csv line ends of windows": ({"lineterminator": "\r\n", "sep": "\t"}, {"separator": "\t"}),
    "csv line ends of old": ({"lineterminator": "\r", "sep": "^"}, {"separator": "^"}),
    "csv unit separator": ({"sep": "\x1f"}, {"separator": "\x1f"}),
}  # fmt: skip
WAYS = [
    *SIGNS, "duckdb csv escaped",
    "pandas csv , utf-8 QUOTE_MINIMAL", "pandas csv ; utf-8-sig QUOTE_ALL",
    "pandas csv | utf-16 QUOTE_NONNUMERIC", "duckdb csv", "duckdb over csv", "duckdb table",
    "polars csv , necessary", "polars csv ; always", "polars csv | non_numeric",
    "sqlite", "pandas parquet", "duckdb parquet", "polars parquet",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
@EASY
@given(ROWS)
def test_a_table_is_the_same_after_the_way_through_a_file(way, tmp_path, rows):
    if way == "duckdb over csv":  # a column of nothing but numbers is one to DuckDB
        rows = [("key", *rows[0][1:]), *rows]
    frame = table(rows)
    made, unreadable = read(written(frame, way, tmp_path))
    assert unreadable == {}
    pd.testing.assert_frame_equal(made, frame, check_exact=True)


@pytest.mark.parametrize("block", [64, 4 << 20])
def test_a_text_may_have_line_ends_in_it(tmp_path, monkeypatch, block):
    """A block once ended within such a field: a line has 1 fields where 2 are expected."""
    monkeypatch.setattr(csv_form, "TEXT_BLOCK", block)
    frame = pd.DataFrame({"a": [f"x\n{at}, y\r\nz" for at in range(40)], "b": range(40)})
    frame.to_csv(tmp_path / "t.csv", index=False)
    found = parse_source({"type": "csv", "path": str(tmp_path / "t.csv")}, where="s").read()
    assert found["a"].tolist() == frame["a"].tolist()
    assert found["b"].tolist() == list(range(40))


@pytest.fixture(scope="module")
def server():
    if postgres_server.programs() is None:
        pytest.skip("no PostgreSQL server is installed here")
    with postgres_server.running() as found:
        yield found


@pytest.mark.federation
@pytest.mark.parametrize("copied", [True, False], ids=["copied", "fetched"])
@EASY
@given(ROWS)
def test_a_table_is_the_same_after_the_way_through_postgresql(server, copied, rows):
    frame = table(rows)
    local = frame.rename(columns=LOCAL)
    kinds = ["text", "text", "double precision", "bigint", "boolean", "timestamp"]
    names = [f'"{name}"' for name in local.columns]
    described = ", ".join(map(" ".join, zip(names, kinds, strict=True)))
    cells = [
        [None if pd.isna(each) else each for each in row]
        for row in local.astype(object).itertuples(index=False)
    ]
    with server.connect() as connection:
        connection.execute(f"DROP TABLE IF EXISTS t; CREATE TABLE t ({described})")
        with connection.cursor() as cursor:
            cursor.executemany("INSERT INTO t VALUES (%s, %s, %s, %s, %s, %s)", cells)
    told = {"url": server.url, "table": "t", "password_env": "CLINIC_PASSWORD"}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("CLINIC_PASSWORD", server.password)
        if not copied:
            patched.setattr(postgres, "can_copy", lambda connection: False)
        made, unreadable = read({"type": "sql", **told})
    assert unreadable == {}
    pd.testing.assert_frame_equal(made, frame, check_exact=True)


@pytest.mark.federation
def test_types_of_postgresql_are_read_exactly_or_counted(server, monkeypatch):
    monkeypatch.setenv("CLINIC_PASSWORD", server.password)
    cells = {
        "9007199254740993::numeric(20,0)": ("integer", 9007199254740993),
        "9007199254740993::numeric": ("integer", 9007199254740993),
        "9007199254740992.5::numeric": ("string", "9007199254740992.5"),
        "1.5::numeric(6,2)": ("float", 1.5),
        "'\\x6162'::bytea": ("string", None),
        "B'0101'": ("integer", None),
        "interval '1 day'": ("float", None),
        "'infinity'::timestamp": ("date", None),
        "'NaN'::float8": ("float", None),
        "timestamptz '2024-01-02 01:00+01'": ("date", pd.Timestamp(2024, 1, 2)),
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid": (
            "string", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        ),
        "'007'::text": ("category", "007"),
    }  # fmt: skip
    for cell, (kind, expected) in cells.items():
        one = Contract.parse(
            {"name": "t", "version": 1, "columns": {"x": {"type": kind, "nullable_share": 1}}},
            where="t",
        )
        told = {
            "url": server.url,
            "query": f"SELECT {cell} AS x",
            "password_env": "CLINIC_PASSWORD",
        }
        source = parse_source({"type": "sql", **told}, where="s")
        made = Mapping(contract="t@1").apply(source.read(), one)["x"][0]
        assert (None if pd.isna(made) else made) == expected, cell


DIRT = {
    "size": [
        "1,5",
        "1.2.3",
        "1,234",
        "12 34",
        "5-",
        "<3",
        "x",
        "1_000",
        "0x1F",
        "--2",
        "(3)",
        "4 %",
    ],
    "count": ["1.5", "1e400", "7a", "12,5", "2024-01-01", "1 0"],
    "yes": ["maybe", "2", "0.5", "-1", "jein"],
    "day": ["01/02/2024", "2024", "2024-13-01", "45293", "24-01-02", "2024-02-30", "tomorrow"],
}
DIRTY = st.lists(
    st.tuples(st.integers(0, 29), st.sampled_from([(n, d) for n in DIRT for d in DIRT[n]])),
    max_size=8,
)


@pytest.mark.parametrize(
    "way",
    ["pandas csv , utf-8 QUOTE_MINIMAL", "polars csv , necessary", "sqlite", "pandas parquet"],
)
@EASY
@given(ROWS, DIRTY)
def test_every_dirty_cell_is_counted_and_no_other_is_changed(way, tmp_path, rows, dirt):
    clean = table(rows)
    # As their owners hold them: a column with one dirty cell is text.
    raw = clean.astype({name: object for name in DIRT})
    raw["count"] = [None if pd.isna(each) else str(each) for each in clean["count"]]
    raw["size"] = [None if np.isnan(each) else repr(each) for each in clean["size"]]
    raw["yes"] = [None if pd.isna(each) else str(each) for each in clean["yes"]]
    raw["day"] = [None if pd.isna(each) else str(each) for each in clean["day"]]
    expected = clean.copy()
    counted: dict[str, set[int]] = {}
    for at, (name, cell) in dirt:
        if at < len(raw):
            raw.loc[at, name] = cell
            expected.loc[at, name] = None
            counted.setdefault(name, set()).add(at)
    made, unreadable = read(written(raw.astype({name: "str" for name in DIRT}), way, tmp_path))
    assert unreadable == {name: len(each) for name, each in counted.items()}
    pd.testing.assert_frame_equal(made, expected, check_exact=True)
