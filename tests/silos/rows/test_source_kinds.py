"""Folders and patterns of files, DuckDB over any source, and where a password may be."""

import os
import shutil

import duckdb
import keyring
import keyring.backend
import keyring.backends.fail
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from consilo.errors import ConfigInvalid, SourceUnreadable
from silos.rows.sources import (
    CsvSource,
    ParquetSource,
    Source,
    SqlSource,
    load_source,
    parse_source,
)

SECRET = "SECRET-77"


@pytest.fixture
def visits(tmp_path):
    """A folder of CSV files, one of Parquet files, and what does not belong to either."""
    for kind in ("csv", "parquet"):
        (tmp_path / kind / "2025").mkdir(parents=True)
    for at, name in enumerate(["b", "a", "2025/c"]):
        frame = pd.DataFrame({"id": [10 * at, 10 * at + 1], "x": [0.5, None]})
        frame.to_csv(tmp_path / "csv" / f"{name}.csv", index=False)
        frame.to_parquet(tmp_path / "parquet" / f"{name}.parquet")
    (tmp_path / "csv" / "_SUCCESS.csv").write_text("done")
    (tmp_path / "csv" / ".hidden.csv").write_text("x")
    (tmp_path / "csv" / "notes.docx").write_text("x")
    return tmp_path


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_folder_is_all_its_files_sorted_by_path(visits, kind):
    frame = parse_source({"type": kind, "path": kind}, where="t").resolve(visits).read()
    assert frame["id"].tolist() == [20, 21, 10, 11, 0, 1]
    assert frame["x"].isna().sum() == 3


def test_a_pattern_is_what_it_matches(visits):
    assert len(CsvSource(path="csv/*.csv").resolve(visits).read()) == 4
    assert len(CsvSource(path="csv/**/*.csv").resolve(visits).read()) == 6
    both = CsvSource(path=["csv/b.csv", "csv/[ab].csv"]).resolve(visits)
    assert both.read()["id"].tolist() == [0, 1, 10, 11]
    with pytest.raises(SourceUnreadable, match=r"no file matches z\*\.csv"):
        CsvSource(path="csv/z*.csv").resolve(visits).read()
    (visits / "empty").mkdir()
    with pytest.raises(SourceUnreadable, match=r"holds no such file; expected names that end in"):
        ParquetSource(path="empty").resolve(visits).read()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_added_changed_or_removed_is_another_content(visits, kind):
    source = parse_source({"type": kind, "path": kind}, where="t").resolve(visits)
    prints = [source.fingerprint(visits / "memo.json"), source.fingerprint(visits / "memo.json")]
    new = visits / kind / f"z.{kind}"
    shutil.copy(visits / kind / f"a.{kind}", new)
    prints.append(source.fingerprint(visits / "memo.json"))
    shutil.copy(visits / kind / f"b.{kind}", new)
    prints.append(source.fingerprint(visits / "memo.json"))
    new.unlink()
    prints.append(source.fingerprint(visits / "memo.json"))
    assert prints[0] == prints[1] == prints[4]
    assert len(set(prints)) == 3


def test_files_with_other_columns_are_named_and_nothing_of_them_is_quoted(visits):
    (visits / "csv" / "c.csv").write_text(f"id,{SECRET}\n1,2\n")
    with pytest.raises(SourceUnreadable, match=r"the file c\.csv has other columns") as caught:
        CsvSource(path="csv").resolve(visits).read()
    assert SECRET not in str(caught.value)


def test_files_whose_columns_stand_in_another_order_are_one_table(visits):
    (visits / "csv" / "c.csv").write_text("x,id\n9.5,7\n")
    frame = CsvSource(path="csv/*.csv").resolve(visits).read()
    assert frame.iloc[-1].tolist() == [7, 9.5]


def test_parquet_files_of_unlike_types_are_read_as_the_wider_one(tmp_path):
    pq.write_table(pa.table({"a": [1, 2], "b": ["x", "y"]}), tmp_path / "1.parquet")
    other = pa.table({"a": [1.5], "b": pa.array(["z"]).dictionary_encode()})
    pq.write_table(other, tmp_path / "2.parquet")
    blocks = list(ParquetSource(path=tmp_path).blocks())
    assert pa.concat_tables(blocks).to_pydict() == {"a": [1.0, 2.0, 1.5], "b": ["x", "y", "z"]}


def test_a_parquet_row_group_larger_than_a_block_comes_in_blocks(tmp_path):
    pq.write_table(pa.table({"a": range(200_000)}), tmp_path / "1.parquet")
    sizes = [block.num_rows for block in ParquetSource(path=tmp_path).blocks()]
    assert sum(sizes) == 200_000
    assert max(sizes) <= 65_536


@pytest.fixture
def clinic(visits):
    with duckdb.connect(str(visits / "clinic.duckdb")) as connection:
        connection.execute("CREATE TABLE wards AS SELECT 0 AS id, 'a' AS ward UNION SELECT 10, 'b'")
    (visits / "late.csv").write_text("id,y\n" + "1,2\n" * 400_000 + "10,x\n")
    return visits


def duck(home, **options) -> Source:
    return parse_source({"type": "duckdb", **options}, where="t").resolve(home)


def test_duckdb_reads_its_own_file_other_sources_and_both(clinic):
    wards = duck(clinic, path="clinic.duckdb", table="wards")
    assert wards.columns() == ["id", "ward"]
    assert sorted(wards.read()["ward"]) == ["a", "b"]
    tables = {
        "visits": {"type": "csv", "path": "csv"},
        "again": {"type": "parquet", "path": "parquet"},
        "late": {"type": "csv", "path": "late.csv"},
    }
    query = """
        SELECT ward, count(*) AS n FROM wards JOIN visits USING (id) JOIN again USING (id)
        JOIN (SELECT DISTINCT id FROM late WHERE y = 'x' UNION ALL SELECT 0) USING (id)
        GROUP BY ward ORDER BY ward
    """
    both = duck(clinic, path="clinic.duckdb", tables=tables, query=query)
    assert both.read().to_dict("list") == {"ward": ["a", "b"], "n": [1, 1]}
    assert both.columns() == ["ward", "n"]
    assert list(both.read(["n"]).columns) == ["n"]
    before = both.fingerprint()
    assert both.fingerprint() == before
    (clinic / "csv" / "new.csv").write_text("id,x\n5,1\n")
    assert both.fingerprint() != before


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT * FROM read_csv('{home}/csv/a.csv')", "PermissionException"),
        ("SELECT * FROM '{home}/csv/a.csv'", "PermissionException"),
        ("SELECT * FROM read_text('/etc/hostname')", "PermissionException"),
        ("SELECT * FROM glob('{home}/*')", "PermissionException"),
        ("SELECT * FROM source", "there is no table"),  # a variable of ours
        ("SELECT 1 AS a; ATTACH '{home}/other.duckdb'", "ParserException"),
        (
            "SELECT 1 AS a) t; COPY wards TO '{home}/out.csv'; SELECT * FROM (SELECT 1 AS a",
            "PermissionException",
        ),
        ("SELECT 1 AS a) t; INSTALL httpfs; SELECT * FROM (SELECT 1 AS a", "PermissionException"),
        ("SELECT 1 AS a) t; LOAD httpfs; SELECT * FROM (SELECT 1 AS a", "PermissionException"),
        (
            "SELECT 1 AS a) t; SET enable_external_access = true; SELECT * FROM (SELECT 1 AS a",
            "InvalidInputException",
        ),
        (
            "SELECT 1 AS a) t; SET lock_configuration = false; SELECT * FROM (SELECT 1 AS a",
            "InvalidInputException",
        ),
        (
            "SELECT 1 AS a) t; DELETE FROM wards; SELECT * FROM (SELECT 1 AS a",
            "InvalidInputException",
        ),
    ],
)
def test_a_query_of_duckdb_reaches_nothing_that_is_not_named(clinic, query, said):
    before = sorted(clinic.rglob("*"))
    source = duck(clinic, path="clinic.duckdb", query=query.format(home=clinic))
    with pytest.raises(SourceUnreadable, match=said):
        source.read()
    assert sorted(clinic.rglob("*")) == before
    assert len(duck(clinic, path="clinic.duckdb", table="wards").read()) == 2


def test_duckdb_spills_beside_nothing_and_leaves_nothing(clinic, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "parquet"))
    before = sorted(tmp_path.rglob("*"))
    tables = {"late": {"type": "csv", "path": "late.csv"}}
    assert len(duck(clinic, tables=tables, query="SELECT * FROM late").read()) == 400_001
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"type": "duckdb", "table": "t"}, "needs a path, tables, or both"),
        ({"type": "duckdb", "path": "a", "table": "t", "query": "q"}, "a table or a query"),
        ({"type": "duckdb", "path": ["a", "b"], "table": "t"}, "takes one path"),
        (
            {"type": "csv", "path": "a", "tables": {}},
            "tables: not an option of type csv",
        ),
        ({"type": "duckdb", "tables": {"a b": {}}, "query": "q"}, "tables"),
        (
            {"type": "duckdb", "tables": {"a": {"type": "csv"}}, "query": "q"},
            r"tables\.a\.path: this key is",
        ),
        (
            {"type": "csv", "path": "a", "password_keyring": "a/b"},
            "_keyring: not an option of type",
        ),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, value, said):
    (tmp_path / "source.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(ConfigInvalid, match=said):
        load_source(tmp_path / "source.yaml")


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql+psycopg://reader:{SECRET}@db/clinic",
        f"postgresql+psycopg://reader@db/clinic?password={SECRET}",
        f"mssql+pyodbc://?odbc_connect=DRIVER%3Dx%3BUID%3Dreader%3BPWD%3D{SECRET}",
    ],
)
def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path, url):
    value = {"type": "sql", "url": url, "table": "t"}
    (tmp_path / "source.yaml").write_text(yaml.safe_dump(value))
    with pytest.raises(
        ConfigInvalid, match="password_env: VARIABLE, or password_keyring"
    ) as caught:
        load_source(tmp_path / "source.yaml")
    assert SECRET not in str(caught.value)


class InMemory(keyring.backend.KeyringBackend):
    """A keyring for one test."""

    priority = 1

    def __init__(self):
        super().__init__()
        self.kept = {("clinic", "reader"): SECRET}

    def get_password(self, service, username):
        return self.kept.get((service, username))

    def set_password(self, service, username, password):
        self.kept[service, username] = password

    def delete_password(self, service, username):
        del self.kept[service, username]


@pytest.fixture
def ring():
    before = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(before)


def sql(**options) -> SqlSource:
    url = "postgresql+psycopg://reader@127.0.0.1:1/clinic"
    return SqlSource(url=url, table="t", **options)


def test_a_password_comes_from_the_keyring_or_the_environment(ring, monkeypatch):
    from silos.rows.sources.password import password_of

    ring(InMemory())
    assert password_of(env=None, entry="clinic/reader", where="t") == SECRET
    monkeypatch.setenv("CLINIC", "other")
    assert password_of(env="CLINIC", entry=None, where="t") == "other"
    assert password_of(env=None, entry=None, where="t") is None
    with pytest.raises(SourceUnreadable, match="store it with 'keyring set clinic nobody'"):
        sql(password_keyring="clinic/nobody").read()
    ring(keyring.backends.fail.Keyring())
    with pytest.raises(SourceUnreadable, match="unlock or install a keyring, or use password_env"):
        sql(password_keyring="clinic/reader").read()


def test_the_password_is_in_no_error_and_no_fingerprint(ring):
    ring(InMemory())
    source = sql(password_keyring="clinic/reader")
    with pytest.raises(SourceUnreadable, match="cannot be reached") as caught:
        source.read()
    assert SECRET not in str(caught.value)
    assert SECRET not in source.model_dump_json()
    assert not [name for name, value in os.environ.items() if value == SECRET]
