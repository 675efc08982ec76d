import contextlib
import sqlite3
import stat

import pytest

from consilo.machine.database import open_database, transaction

TABLE = "CREATE TABLE IF NOT EXISTS words (word TEXT)"
OFF, FULL, EXTRA = 0, 2, 3


def words(path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return [word for (word,) in database.execute("SELECT word FROM words")]


@pytest.mark.parametrize(
    ("lasting", "wal", "level"),
    [(False, False, OFF), (False, True, OFF), (True, False, EXTRA), (True, True, FULL)],
)
def test_a_database_is_its_owners_alone_and_as_durable_as_said(tmp_path, lasting, wal, level):
    path = tmp_path / "some.db"
    database = open_database(path, lasting=lasting, wal=wal, schema=TABLE)
    with contextlib.closing(database), database:
        database.execute("INSERT INTO words VALUES ('one')")
        assert database.execute("PRAGMA synchronous").fetchone() == (level,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal" if wal else "delete",)
        files = list(tmp_path.iterdir())
        assert len(files) == (3 if wal else 2)
        assert {stat.S_IMODE(each.stat().st_mode) for each in files} == {0o600}
    with contextlib.closing(open_database(path, lasting=lasting, schema=TABLE)):
        assert words(path) == ["one"]


def test_a_transaction_is_whole_or_not_there_and_keeps_others_out(tmp_path):
    path = tmp_path / "some.db"
    database = open_database(path, lasting=True, begin=None, schema=TABLE)
    with (
        contextlib.closing(database),
        contextlib.closing(sqlite3.connect(path, timeout=0)) as other,
    ):
        with transaction(database):
            with pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("INSERT INTO words VALUES ('theirs')")
            database.execute("INSERT INTO words VALUES ('ours')")
        with contextlib.suppress(KeyError), transaction(database):
            database.execute("INSERT INTO words VALUES ('half')")
            raise KeyError
        assert words(path) == ["ours"]


def test_a_database_with_a_wrong_schema_is_let_go(tmp_path):
    closed = []

    class Watched(sqlite3.Connection):
        def close(self) -> None:
            closed.append(True)
            super().close()

    def connect(path):
        return sqlite3.connect(path, factory=Watched)

    with pytest.raises(sqlite3.OperationalError):
        open_database(tmp_path / "some.db", lasting=True, schema="nonsense", connect=connect)
    assert closed == [True]
