"""A table in a real PostgreSQL server: read, mapped, checked, cached; noticed when it changes."""

import subprocess
import sys
from datetime import UTC, datetime

import postgres_server
import pytest

from consilo.contracts.contract import Contract
from consilo.errors import SourceUnreadable
from silos.rows.cache import CanonicalCache
from silos.rows.mapping import Mapping
from silos.rows.sources import SqlSource, database, postgres

pytestmark = pytest.mark.federation
NOW = datetime(2026, 5, 1, tzinfo=UTC)
COLUMNS = {
    "patient": {"type": "string", "role": "id"},
    "height": {"type": "float", "unit": "cm", "nullable_share": 0.5, "range": {"min": 0}},
    "beds": {"type": "integer", "nullable_share": 0.5},
    "cost": {"type": "float", "nullable_share": 0.5},
    "smokes": {"type": "boolean", "nullable_share": 0.5},
    "visited": {"type": "date", "nullable_share": 0.5},
    "seen": {"type": "date", "nullable_share": 0.5},
    "note": {"type": "string", "nullable_share": 0.9},
    "ill": {"type": "integer", "allowed": [0, 1], "role": "target"},
}
CONTRACT = Contract.parse(
    {"name": "visits", "version": 1, "columns": COLUMNS, "rules": {"unique": [["patient"]]}},
    where="visits",
)
MAPPING = Mapping.parse(
    {"contract": "visits@1", "columns": {"height": {"from": "Height in m", "unit": "m"}}},
    CONTRACT,
    where="mapping",
)
TABLE = """
CREATE TABLE visits (
    patient uuid PRIMARY KEY, "Height in m" real, beds bigint, cost numeric(12, 2), smokes boolean,
    visited date, seen timestamptz, note text, ill smallint NOT NULL)
"""
FILL = """
INSERT INTO visits SELECT
    md5(n::text)::uuid, CASE WHEN n % 5 > 0 THEN 1.5 + (n % 50) / 100.0 END,
    9007199254740993 + n, n / 8.0, n % 2 = 0, date '2020-01-31' + n % 1000,
    timestamptz '2020-01-31 23:30:00+02' + n * interval '1 second',
    CASE n % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE E'a "b",\\n' || n END, n % 2
FROM generate_series(1, {num_rows}) n
"""
STATISTICS = """
SELECT pg_relation_filenode('visits'), n_tup_ins, n_tup_upd, n_tup_del
FROM pg_stat_user_tables WHERE relid = 'visits'::regclass
"""
NEWEST = "SELECT count(*), max(xmin::text::bigint) FROM visits"


@pytest.fixture(scope="module")
def server():
    if postgres_server.programs() is None:
        pytest.skip("no PostgreSQL server is installed here")
    with postgres_server.running() as found:
        yield found


@pytest.fixture
def visits(server, monkeypatch):
    monkeypatch.setenv("CLINIC_PASSWORD", server.password)

    def made(num_rows, **options):
        with server.connect() as connection:
            connection.execute("DROP TABLE IF EXISTS visits")
            connection.execute(TABLE)
            connection.execute(FILL.format(num_rows=num_rows))
        told = {"table": "visits", "password_env": "CLINIC_PASSWORD", **options}
        return SqlSource(url=server.url, **told)

    return made


def change(server, statement):
    with server.connect() as connection:
        connection.execute(statement)
        connection.execute("SELECT pg_stat_force_next_flush()")
        connection.execute("SELECT 1")


def test_rows_come_as_the_database_has_them_by_copy_and_by_fetching(visits, monkeypatch):
    source = visits(300)
    assert source.columns() == [
        "patient", "Height in m", "beds", "cost", "smokes", "visited", "seen", "note", "ill",
    ]  # fmt: skip
    copied = MAPPING.apply(source.read(), CONTRACT)
    assert copied.attrs == {}
    assert copied["beds"].tolist()[:2] == [9007199254740994, 9007199254740995]
    assert copied["cost"].tolist()[:2] == [0.125, 0.25] or copied["cost"].tolist()[:2] == [
        0.13,
        0.25,
    ]
    assert copied["seen"][0].isoformat() == "2020-01-31T21:30:01"
    assert copied["note"].tolist()[1] == 'a "b",\n2'
    assert copied["smokes"].tolist()[:2] == [False, True]
    monkeypatch.setattr(postgres, "can_copy", lambda connection: False)
    monkeypatch.setattr(database, "FETCH_ROWS", 70)
    fetched = MAPPING.apply(source.read(), CONTRACT)
    assert copied.drop(columns="height").equals(fetched.drop(columns="height"))
    assert (copied["height"] - fetched["height"]).abs().max() < 1e-4  # real has seven digits
    assert list(source.read(["ill", "beds"]).columns) == ["ill", "beds"]


def test_a_query_may_have_anything_that_sql_has(visits):
    source = visits(
        10, table=None, query="SELECT beds::text AS t, '100%:x' AS \"a:b\" FROM visits;"
    )
    frame = source.read()
    assert frame["a:b"].tolist() == ["100%:x"] * 10
    assert frame["t"].tolist()[0] == "9007199254740994"


def test_nothing_can_be_written_through_a_source(visits, server):
    source = visits(10, table=None, query="DELETE FROM visits RETURNING 1 AS one")
    with pytest.raises(SourceUnreadable):
        source.read()
    with server.connect() as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (10,)


def test_every_fault_says_what_to_do_and_quotes_nothing(visits, server, monkeypatch):
    source = visits(10)
    with pytest.raises(SourceUnreadable, match="there is no table 'gone'; check table or query"):
        source.model_copy(update={"table": "gone"}).read()
    with pytest.raises(SourceUnreadable, match="no column 'weight'; check the mapping"):
        source.read(["weight"])
    monkeypatch.setenv("CLINIC_PASSWORD", "wrong-S3CRET")
    with pytest.raises(SourceUnreadable, match="refuses the user or the password") as caught:
        source.read()
    assert "S3CRET" not in str(caught.value)
    nowhere = source.model_copy(update={"url": "postgresql+psycopg://consilo@127.0.0.1:1/x"})
    with pytest.raises(SourceUnreadable, match="cannot be reached"):
        nowhere.read()


@pytest.mark.parametrize("version_query", [None, STATISTICS, NEWEST])
def test_a_change_is_seen_and_no_change_is_not(visits, server, version_query):
    source = visits(500, version_query=version_query)
    change(server, "SELECT 1")
    prints = [source.fingerprint(), source.fingerprint()]
    for statement in (
        "UPDATE visits SET ill = 1 - ill WHERE beds % 7 = 0",
        "DELETE FROM visits WHERE beds % 11 = 0",
        "INSERT INTO visits (patient, ill) VALUES (md5('x')::uuid, 0)",
        "TRUNCATE visits",
    ):
        change(server, statement)
        prints.append(source.fingerprint())
    assert prints[0] == prints[1]
    assert len(set(prints)) == len(prints) - 1


def test_the_order_of_rows_does_not_count(visits, server):
    source = visits(500)
    before = source.fingerprint()
    change(server, "CLUSTER visits USING visits_pkey")
    assert source.fingerprint() == before


def test_a_version_query_is_all_that_a_message_asks_for(visits, server, tmp_path):
    source = visits(200, version_query=STATISTICS)
    change(server, "SELECT 1")
    cache = CanonicalCache(tmp_path / "cache")
    key = cache.ensure(source, MAPPING, CONTRACT, now=NOW)
    assert cache.report(key).passed, cache.report(key).reason()
    change(server, "SELECT 1")
    scans = (
        "SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_user_tables WHERE relname='visits'"
    )
    with server.connect() as connection:
        before = connection.execute(scans).fetchone()
        assert cache.ensure(source, MAPPING, CONTRACT, now=NOW) == key
        assert connection.execute(scans).fetchone() == before
    assert len(cache.frame(key)) == 200


@pytest.mark.slow
def test_a_million_rows_from_the_table_to_the_cache(visits, tmp_path):
    source = visits(1_000_000, version_query=STATISTICS)
    cache = CanonicalCache(tmp_path / "cache")
    key = cache.ensure(source, MAPPING, CONTRACT, now=NOW)
    assert cache.report(key).passed, cache.report(key).reason()
    frame = cache.frame(key)
    assert len(frame) == 1_000_000
    assert frame["ill"].sum() == 500_000
    assert frame["height"].isna().sum() == 200_000


def test_the_driver_is_loaded_only_for_a_database():
    heavy = "{'psycopg', 'sqlalchemy', 'duckdb', 'keyring', 'pyarrow', 'pandas'}"
    program = f"import sys, silos.rows.sources; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
