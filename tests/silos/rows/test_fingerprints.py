"""Digests over a source are those of the release before, so that its caches are still good."""

import sqlite3
from pathlib import Path
from typing import get_args

import pytest

from silos.rows.consent import Consent
from silos.rows.sources import kinds, parse_source

# source, its fingerprint, and the digest of a consent whose table it is; taken from the release
# that had one class for all kinds.
GOLDEN = {
    "csv": (
        {"type": "csv", "path": "rows.csv"},
        "d9bec803c851b6bd68b0b54bddfb59f57b75433dd1f8c7380a6764c9aee0361d",
        "29ff37bd09cdd316fd31344bd7bcda9215051d5298bb53f36e1e4d1349139942",
    ),
    "csv with options": (
        {
            "type": "csv",
            "path": ["rows.csv", "more.csv"],
            "separator": ";",
            "header": False,
            "names": ["a", "b"],
            "na_values": ["?"],
            "encoding": "latin-1",
        },
        "3ac21e96d401aed7958ec592dfd8a0396f5ac5ff64abbc553b0baa4aff3e16ae",
        "818a2165bbec2824d1a5775490ac72c725b62b4c09aa46513196bc75f569fb06",
    ),
    "parquet": (
        {"type": "parquet", "path": "rows.parquet"},
        "175804f74262319a163e1fa532e46b349cd94a3c4902616d371e3f2f210d9744",
        "d9aa658b07344f71f5c0f4a87e22cbaee85ba9709f875c15fb680382131e6f30",
    ),
    "sqlite": (
        {"type": "sqlite", "path": "rows.db", "table": "t"},
        "b92fd708f3e09a5e802d380d808744ac79683012feae8459ccc54bf5cd33bc59",
        "84be6751b49686d2a6518aa07280fe6e8611bfcf4216e14363c0a6a15dbf5035",
    ),
    "sqlite with a query": (
        {"type": "sqlite", "path": "rows.db", "query": "SELECT 1"},
        "751d4d30be0342fbb880443067d63b5a2e78c9c2efbd7e424f9afb7817fa4e24",
        "1fc48252c2b25152f9d420453cadcb67d0de380a7870c1e37e7bb75b6b78794b",
    ),
    "sql": (
        {"type": "sql", "url": "sqlite:///live.db", "table": "t"},
        "ce87bdee6356c0041ecc2d18338c490ea35650bf30315863dc7ce13f5db10b76",
        "54dd5082869887d252c61f965bd784ce2844617ca75481083c2a15e9186cb012",
    ),
    "sql with a version": (
        {
            "type": "sql",
            "url": "sqlite:///live.db",
            "query": "SELECT id FROM t",
            "version_query": "SELECT max(id) FROM t",
        },
        "b19d9ed2456d65f14e2905609b69f6c964692c22cfdc60a290c3dd17167d6399",
        "6f8b4a1c24aaf822cdaf62868578c08aff202d7f2aa4d0e8f05616859067c533",
    ),
    "duckdb": (
        {"type": "duckdb", "path": "rows.duckdb", "table": "t"},
        "5a3f7f82e5fc07e2debd649b712cfea1147cc0ec9ffb0422250b8b020f55fae5",
        "642d1f39773e61f0d52cdb25be7e15fe18d361c11ec98de060286182a3521c61",
    ),
    "duckdb over others": (
        {
            "type": "duckdb",
            "tables": {
                "visits": {"type": "csv", "path": "rows.csv"},
                "labs": {"type": "sqlite", "path": "rows.db", "table": "t"},
            },
            "query": "SELECT * FROM visits",
        },
        "1d1598bb910e43f15b0fe73f75052247fcb136845831a1d737010110bd04a666",
        "d71e02e976a43aba47b299ce0ac215339b4b36c3ae7b0712f43a633b1e898e8a",
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The files; for a fingerprint they need not be what their names say."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("id;x\n1;2.5\n2;\n")
    Path("more.csv").write_text("id;x\n3;a\n")
    for name in ("rows.parquet", "rows.db", "rows.duckdb"):
        Path(name).write_bytes(name.encode())
    for log in ("rows.db-wal", "rows.duckdb.wal"):
        Path(log).write_bytes(b"log")
    connection = sqlite3.connect("live.db")
    with connection:
        connection.execute("CREATE TABLE t (id integer, x real, code text)")
        rows = [(1, 0.5, "a"), (2, None, "b"), (3, 1.5, None)]
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", rows)
    connection.close()
    return tmp_path


@pytest.mark.parametrize("name", GOLDEN)
def test_digests_over_a_source_are_those_of_the_release_before(here, name):
    described, fingerprint, consent = GOLDEN[name]
    source = parse_source(described, where=name)
    assert source.fingerprint() == fingerprint
    assert Consent(source=source, subject="a", purpose="p").digest == consent


def test_every_kind_there_is_has_one():
    union, _ = get_args(kinds.Source)
    declared = {kind.model_fields["type"].default for kind in get_args(union)}
    assert declared == {described["type"] for described, _, _ in GOLDEN.values()}
