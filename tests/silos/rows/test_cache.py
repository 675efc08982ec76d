import hashlib
import os
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from consilo.errors import SchemaDrift, SourceUnreadable
from silos.rows.arrow import to_arrow, to_pandas, write_table
from silos.rows.cache import CanonicalCache
from silos.rows.mapping import Mapping
from silos.rows.sources import CsvSource

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
COLUMNS = {
    "name": {"type": "string", "role": "id"},
    "height": {"type": "float", "nullable_share": 0.5},
    "beds": {"type": "integer", "nullable_share": 0.5},
    "ward": {"type": "category", "allowed": ["a", "b"]},
    "visited": {"type": "date", "future": True, "nullable_share": 0.5},
    "smokes": {"type": "boolean", "nullable_share": 0.5},
}
ROWS = """\
name,height,beds,ward,visited,smokes
007,1.5,1,a,2020-01-31,1
008,,,b,,
"""


class Silo:
    """A source, a mapping and a contract below one directory."""

    def __init__(self, directory):
        self.cache = CanonicalCache(directory / "cache")
        self.path = directory / "rows.csv"
        self.path.write_text(ROWS)
        self.source = CsvSource(path=self.path)
        self.contract = self.made(COLUMNS)
        self.mapping = Mapping(contract="clinic@1")

    def made(self, columns) -> Contract:
        return Contract.parse({"name": "clinic", "version": 1, "columns": columns}, where="c")

    def key(self, now=NOW) -> str:
        return self.cache.key(self.source, self.mapping, self.contract, now=now)

    def build(self, now=NOW):
        return self.cache.get_or_build(self.source, self.mapping, self.contract, now=now)

    def entries(self) -> set[str]:
        root = self.path.parent / "cache"
        return {place.name for place in root.iterdir() if place.is_dir()}

    def built_at(self) -> int:
        table = self.path.parent / "cache" / self.key() / "table.arrow"
        return table.stat().st_ino


@pytest.fixture
def silo(tmp_path):
    return Silo(tmp_path)


def test_what_comes_back_is_what_the_mapping_made(silo):
    expected = silo.mapping.apply(silo.source.read(text=["name"]), silo.contract)
    for _ in range(2):
        frame, report = silo.build()
        assert report.passed, report.reason()
        pd.testing.assert_frame_equal(frame, expected)
    pd.testing.assert_frame_equal(silo.cache.frame(silo.key()), expected)


def test_a_second_call_builds_nothing(silo):
    first = silo.build()[1]
    built = silo.built_at()
    assert silo.build()[1] == first
    assert silo.built_at() == built
    assert silo.entries() == {silo.key()}


def test_a_hit_neither_opens_the_source_nor_loads_great_expectations(silo):
    long_ago = (datetime.now(UTC) - timedelta(days=1)).timestamp()
    os.utime(silo.path, (long_ago, long_ago))
    silo.build()
    # The time of change cannot be set back: name the age of the file as the memo would see it.
    import time

    time.sleep(max(0, silo.path.stat().st_ctime + 2.1 - time.time()))
    silo.build()
    program = f"""
        import sys
        from datetime import datetime
        opened = []
        sys.addaudithook(lambda event, args: opened.append(args[0]) if event == "open" else None)
        from pathlib import Path
        from consilo.contracts.contract import Contract
        from silos.rows.cache import CanonicalCache
        from silos.rows.mapping import Mapping
        from silos.rows.sources import CsvSource
        contract = Contract.from_json({silo.contract.to_json()!r})
        cache = CanonicalCache(Path({str(silo.path.parent / "cache")!r}))
        source = CsvSource(path=Path({str(silo.path)!r}))
        now = datetime.fromisoformat({NOW.isoformat()!r})
        frame, report = cache.get_or_build(
            source, Mapping(contract="clinic@1"), contract, now=now
        )
        assert report.passed and len(frame) == 2
        assert "great_expectations" not in sys.modules
        assert not [path for path in opened if str(path).endswith("rows.csv")], opened
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)


def test_a_change_of_the_source_the_mapping_or_the_contract_builds_anew(silo):
    frame, _ = silo.build()
    keys = {silo.key()}
    silo.path.write_text(ROWS.replace("1.5", "2.5"))
    assert silo.build()[0]["height"][0] == 2.5
    keys.add(silo.key())
    silo.mapping = Mapping.parse(
        {"contract": "clinic@1", "missing": [2.5]}, silo.contract, where="m"
    )
    assert silo.build()[0]["height"].isna().all()
    keys.add(silo.key())
    silo.contract = silo.made({**COLUMNS, "ward": {"type": "category", "allowed": ["a"]}})
    assert not silo.build()[1].passed
    keys.add(silo.key())
    assert len(keys) == 4
    assert silo.entries() == {silo.key()}
    # What was mapped before its entry was replaced stays readable.
    assert frame["height"][0] == 1.5


def test_a_day_counts_only_for_a_contract_with_rules_about_dates(silo):
    tomorrow = NOW + timedelta(days=1)
    assert silo.key() == silo.key(tomorrow)
    silo.contract = silo.made({**COLUMNS, "visited": {"type": "date"}})
    assert silo.key() != silo.key(tomorrow)
    assert silo.key() == silo.key(NOW + timedelta(hours=1))


def test_a_table_that_fails_its_check_is_kept_but_no_round_gets_it(silo):
    silo.path.write_text(ROWS.replace(",b,", ",z,"))
    frame, report = silo.build()
    assert not report.passed
    assert len(frame) == 2
    assert silo.cache.report(silo.key()) == report
    with pytest.raises(SchemaDrift, match=r"breaks clinic@1: allowed \(ward\)"):
        silo.cache.frame(silo.key())


@pytest.mark.parametrize("file", ["table.arrow", "report.json", "entry.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_entry_is_never_used(silo, file, damage):
    silo.build()
    expected = silo.mapping.apply(silo.source.read(text=["name"]), silo.contract)
    path = silo.path.parent / "cache" / silo.key() / file
    before = path.stat()
    content = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    else:
        content = content[: len(content) // 2] if damage == "cut" else content
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    frame, report = silo.build()
    assert report.passed
    pd.testing.assert_frame_equal(frame, expected)


def test_a_damaged_table_is_not_mapped(silo):
    silo.build()
    path = silo.path.parent / "cache" / silo.key() / "table.arrow"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(SourceUnreadable, match="damaged"):
        silo.cache.frame(silo.key())


def test_an_entry_that_is_not_there_is_told(silo):
    with pytest.raises(SourceUnreadable, match="standardise"):
        silo.cache.frame("0" * 64)


def test_only_the_owner_can_read_the_cache(silo):
    silo.build()
    root = silo.path.parent / "cache"
    for place in [root, *root.rglob("*")]:
        assert place.stat().st_mode & 0o777 == (0o700 if place.is_dir() else 0o600), place


def test_what_was_left_half_built_is_removed(silo):
    left = silo.path.parent / "cache" / "building-x"
    left.mkdir()
    silo.build()
    assert not left.exists()


def test_a_column_or_a_whole_table_that_is_not_there_is_a_finding(silo):
    silo.path.write_text("other\n1\n2\n")
    frame, report = silo.build()
    assert len(frame) == 2
    assert {each.rule for each in report.failures} == {"present"}
    silo.path.write_text("name,height,beds,ward,visited,smokes\n")
    frame, report = silo.build()
    assert report.reason() == "breaks clinic@1: min_rows"
    assert len(frame) == 0


def test_a_source_that_is_gone_is_an_error_even_where_its_table_is_cached(silo):
    silo.build()
    silo.path.unlink()
    with pytest.raises(SourceUnreadable, match=r"rows\.csv does not exist"):
        silo.build()


class Restless(CsvSource):
    """A source that somebody writes to while it is read."""

    def blocks(self, columns=None, *, text=(), types=None):
        yield from super().blocks(columns, text=text, types=types)
        self.path[0].write_text(ROWS.replace("1.5", "9.5"))


def test_a_source_that_changes_while_it_is_read_leaves_no_entry(silo):
    silo.source = Restless(type="csv", path=silo.path)
    with pytest.raises(SourceUnreadable, match="changed while it was read"):
        silo.build()
    assert silo.entries() == set()


def test_a_table_is_hashed_as_it_is_written(silo, tmp_path):
    import pyarrow as pa

    frame, _ = silo.build()
    path = tmp_path / "table.arrow"
    assert write_table(path, to_arrow(frame)) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert path.stat().st_mode & 0o777 == 0o600
    with pa.memory_map(str(path)) as file:
        pd.testing.assert_frame_equal(to_pandas(pa.ipc.open_file(file).read_all()), frame)


def test_a_check_that_fails_to_run_leaves_nothing_behind(silo, monkeypatch):
    def breaks(*_, **__):
        raise RuntimeError("no")

    monkeypatch.setattr("silos.rows.check.check", breaks)
    with pytest.raises(RuntimeError):
        silo.build()
    assert silo.entries() == set()


def test_a_disk_that_is_full_leaves_no_entry(silo, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("silos.rows.cache.write_table", full)
    with pytest.raises(OSError, match="No space"):
        silo.build()
    assert silo.entries() == set()


class Even:
    """Keeps every other row, by a column that the contract does not have."""

    columns = ("number",)

    def __init__(self, rest=0):
        self.rest = rest
        self.seen = []

    @property
    def digest(self):
        return hashlib.sha256(str(self.rest).encode()).hexdigest()

    def keep(self, block):
        numbers = block["number"].to_pylist()
        self.seen += numbers
        return np.array([int(each) % 2 == self.rest for each in numbers])


def test_rows_that_may_not_be_used_reach_neither_the_check_nor_the_cache(silo):
    row = "{n},{height},{n},a,2020-01-31,1,{n:03}\n"
    lines = [row.format(n=n, height="tall" if n % 2 else n) for n in range(40)]
    silo.path.write_text("name,height,beds,ward,visited,smokes,number\n" + "".join(lines))
    everything, report = silo.build()
    assert len(everything) == 40
    assert not report.passed
    kept = {}
    for rest in (0, 1, 0):
        rows = Even(rest)
        kept[rest] = silo.cache.get_or_build(
            silo.source, silo.mapping, silo.contract, now=NOW, keep=rows
        )
        assert rows.seen in ([], [f"{n:03}" for n in range(40)])  # as written, and all of them
    assert kept[0][0]["beds"].tolist() == list(range(0, 40, 2))
    assert kept[0][1].passed
    assert not kept[1][1].passed
    assert "number" not in kept[0][0].columns
    keys = {
        silo.cache.key(silo.source, silo.mapping, silo.contract, now=NOW, keep=keep)
        for keep in (None, Even(0), Even(1), Even(1))
    }
    assert len(keys) == 3
