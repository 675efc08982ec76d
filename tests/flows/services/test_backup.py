"""A coordinator's backup is of one moment, whole or none, and its restore is told to silos."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import stat
import tarfile
import threading
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import ConfigInvalid
from consilo.membership.coordinator import Coordinator, Reachable
from consilo.membership.restored import KIND, restores_of, take_in
from consilo.record.chain import Chain, verify
from consilo.record.crosscheck import compare
from consilo.record.run_record import RunRecord, read
from consilo.wire.signing import public_hex
from flows.services.backup import MANIFEST, make_backup, restore


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A coordinator with an invited silo, a run that has ended, one under way, and a registry."""
    place = tmp_path / "coordinator"
    Reachable(port=4321).save(place)
    with Coordinator(place) as coordinator:
        coordinator.invite("north", "127.0.0.1:4321")
        key = coordinator.signing_key
    for run, ended in (("study-1", True), ("study-2", False)):
        record = RunRecord(place / "runs" / run / "record.jsonl", key)
        record.add("opened", run_id=run, signing_keys={})
        record.add("round", round=1)
        (place / "runs" / run / "checkpoint.safetensors").write_bytes(run.encode())
        if ended:
            record.close(status="complete")
    (place / "mlflow" / "artifacts" / "1").mkdir(parents=True)
    (place / "mlflow" / "artifacts" / "1" / "model").write_bytes(b"weights")
    with closing(sqlite3.connect(place / "mlflow" / "mlflow.db")) as registry:
        registry.execute("PRAGMA journal_mode = WAL")
        registry.execute("CREATE TABLE versions (name TEXT)")
        registry.execute("INSERT INTO versions VALUES ('study v1')")
        registry.commit()
    (place / "prefect").mkdir()
    (place / "prefect" / "prefect.db").write_bytes(b"disposable")
    (place / "federation.json").write_text("{}")
    silo = place / "silos" / "north"
    silo.mkdir(parents=True)
    (silo / "silo.yaml").write_text("name: north")
    (silo / "rows.csv").write_text("a row that no backup of a coordinator may hold")
    return place


def test_what_is_backed_up_is_there_again(home: Path, tmp_path: Path) -> None:
    torn = home / "runs" / "study-2" / "record.jsonl"
    with torn.open("ab") as file:
        file.write(b'{"seq":2,"ti')
    made = make_backup(home, tmp_path / "monday.tar.gz")
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o600
    assert made.open_runs == ("study-2",)
    assert made.head == Chain(home / "audit.jsonl").head
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []

    again = tmp_path / "elsewhere" / "coordinator"
    told, line = restore(made.path, again)
    assert told.head == line["from_head"] == made.head
    assert stat.S_IMODE(again.stat().st_mode) == 0o700
    with Coordinator(home) as old, Coordinator(again) as new:
        assert new.members.all() == old.members.all()
        assert new.signing_keys == old.signing_keys
        assert new.statement("north")["statement"]["restored"] == [line]
        assert "restored" not in old.statement("north")["statement"]
    with closing(sqlite3.connect(again / "mlflow" / "mlflow.db")) as registry:
        assert registry.execute("SELECT name FROM versions").fetchall() == [("study v1",)]
    assert (again / "mlflow" / "artifacts" / "1" / "model").read_bytes() == b"weights"
    assert (again / "runs" / "study-1" / "record.jsonl").read_bytes() == (
        home / "runs" / "study-1" / "record.jsonl"
    ).read_bytes()
    kinds = [each["kind"] for each in read(again / "runs" / "study-2" / "record.jsonl")]
    assert kinds == ["opened", "round", "restored"]
    assert (again / "runs" / "study-2" / "checkpoint.safetensors").read_bytes() == b"study-2"
    for gone in ("prefect", "federation.json", "silos"):
        assert not (again / gone).exists()
    secret = again / "keys" / "record.key"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_members_and_log_are_of_one_moment(home: Path, tmp_path: Path) -> None:
    """While another process changes members, each backup's list is the one that its log tells."""
    stopped = threading.Event()

    def change() -> None:
        number = 0
        with Coordinator(home) as coordinator:
            while not stopped.is_set():
                coordinator.invite(f"silo-{number}", "127.0.0.1:4321")
                number += 1

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for number in range(5):
            made = make_backup(home, tmp_path / f"{number}.tar.gz")
            again = tmp_path / f"again-{number}"
            restore(made.path, again)
            with Coordinator(again) as coordinator:
                members = set(coordinator.members.all())
            log = verify(again / "audit.jsonl")
            invited = {e["body"]["silo"] for e in log if e["kind"] == "silo_invited"}
            assert members == invited
    finally:
        stopped.set()
        thread.join()


def test_a_run_that_ends_meanwhile_is_known_to_the_registry(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No backup holds the end of a run beside a registry that has not heard of it."""
    from flows.services import backup

    key = Ed25519PrivateKey.generate()
    taken = backup._copy_database
    ended: list[str] = []

    def while_a_run_ends(path: Path, to: Path) -> None:
        taken(path, to)
        if path.name == "mlflow.db" and not ended:
            ended.append("study-2")
            with closing(sqlite3.connect(path)) as registry:
                registry.execute("INSERT INTO versions VALUES ('study v2')")
                registry.commit()
            record, _ = RunRecord.reopen(home / "runs" / "study-2" / "record.jsonl", key)
            record.close(status="complete")

    monkeypatch.setattr(backup, "_copy_database", while_a_run_ends)
    made = make_backup(home, tmp_path / "monday.tar.gz")
    assert made.open_runs == ()
    restore(made.path, tmp_path / "again")
    with closing(sqlite3.connect(tmp_path / "again" / "mlflow" / "mlflow.db")) as registry:
        assert ("study v2",) in registry.execute("SELECT name FROM versions").fetchall()


def _entries(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}


def _write(archive: Path, entries: dict[str, bytes]) -> None:
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o600
            tar.addfile(member, io.BytesIO(content))


def _without_end(content: dict[str, bytes]) -> None:
    del content[MANIFEST]


def _edited(content: dict[str, bytes]) -> None:
    content["mlflow/artifacts/1/model"] = b"other weights"


def _lacking(content: dict[str, bytes]) -> None:
    del content["runs/study-1/record.jsonl"]


def _more(content: dict[str, bytes]) -> None:
    content["keys/another.key"] = b"x"


def _outside(content: dict[str, bytes]) -> None:
    content["../escaped"] = b"x"


def _other_manifest(content: dict[str, bytes]) -> None:
    said = json.loads(content[MANIFEST])
    content[MANIFEST] = json.dumps({**said, "head": "0" * 64}).encode()


def _other_keys(content: dict[str, bytes]) -> None:
    said = json.loads(content[MANIFEST])
    content[MANIFEST] = json.dumps(
        {**said, "public_key": public_hex(Ed25519PrivateKey.generate())}
    ).encode()


@pytest.mark.parametrize(
    "change", [_without_end, _edited, _lacking, _more, _outside, _other_manifest, _other_keys]
)
def test_what_is_not_as_it_was_written_is_not_restored(change, home, tmp_path) -> None:
    made = make_backup(home, tmp_path / "monday.tar.gz")
    entries = _entries(made.path)
    change(entries)
    _write(tmp_path / "other.tar.gz", entries)
    with pytest.raises(ConfigInvalid, match="nothing was restored"):
        restore(tmp_path / "other.tar.gz", tmp_path / "again")
    assert not (tmp_path / "again").exists()
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.97])
def test_a_cut_archive_is_not_restored(part: float, home: Path, tmp_path: Path) -> None:
    made = make_backup(home, tmp_path / "monday.tar.gz")
    content = made.path.read_bytes()
    (tmp_path / "cut.tar.gz").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(ConfigInvalid):
        restore(tmp_path / "cut.tar.gz", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_nothing_is_written_over(home: Path, tmp_path: Path) -> None:
    archive = tmp_path / "monday.tar.gz"
    make_backup(home, archive)
    with pytest.raises(ConfigInvalid, match="exists"):
        make_backup(home, archive)
    with pytest.raises(ConfigInvalid, match="not empty"):
        restore(archive, home)
    with pytest.raises(ConfigInvalid, match="outside"):
        make_backup(home, home / "monday.tar.gz")
    with pytest.raises(ConfigInvalid, match="no coordinator is here"):
        make_backup(tmp_path, tmp_path / "other.tar.gz")
    with pytest.raises(ConfigInvalid, match="no such file"):
        restore(tmp_path / "none.tar.gz", tmp_path / "again")
    (tmp_path / "plain.tar.gz").write_bytes(gzip.compress(b"no archive"))
    with pytest.raises(ConfigInvalid, match="not a whole backup"):
        restore(tmp_path / "plain.tar.gz", tmp_path / "again")


def test_a_silo_notes_a_restore_once_and_shows_it(home: Path, tmp_path: Path) -> None:
    made = make_backup(home, tmp_path / "monday.tar.gz")
    restore(made.path, tmp_path / "again")
    with Coordinator(tmp_path / "again") as coordinator:
        keys = coordinator.signing_keys
    said = restores_of(tmp_path / "again")
    log = Chain(tmp_path / "silo.jsonl")
    (news,) = take_in(said, log, keys)
    assert made.head[:12] in news
    assert made.made_at in news
    assert take_in(said, log, keys) == []
    (line,) = verify(log.path)
    assert line["kind"] == KIND
    assert line["body"]["from_head"] == made.head


def test_a_silo_takes_in_no_restore_that_its_coordinator_did_not_sign(home, tmp_path) -> None:
    made = make_backup(home, tmp_path / "monday.tar.gz")
    restore(made.path, tmp_path / "again")
    (said,) = restores_of(tmp_path / "again")
    with Coordinator(home) as coordinator:
        keys = coordinator.signing_keys
    log = Chain(tmp_path / "silo.jsonl")
    for other in (
        {**said, "from_head": "0" * 64},
        {**said, "restored_at": "\x1b[2J"},
        {**said, "signature": "00"},
        {},
        "restored",
        None,
    ):
        assert take_in([other], log, keys) == []
    for other in (None, "restored", {"restored": said}, 7):
        assert take_in(other, log, keys) == []
    assert take_in([said], log, [public_hex(Ed25519PrivateKey.generate())]) == []
    assert not log.path.exists()


def test_lines_lost_by_a_restore_are_told_from_a_record_that_was_rewritten(tmp_path) -> None:
    key = Ed25519PrivateKey.generate()
    record = RunRecord(tmp_path / "record.jsonl", key)
    record.add("opened", run_id="study-2", signing_keys={})
    asked = {"run": "study-2", "step": "s", "coordinator_head": "1" * 64}
    audit = [{"kind": "asked", "hash": "a", "body": asked}]
    (finding,) = compare(read(record.path), audit, "north")
    assert finding.endswith("a record that is not this one")
    record.add("restored", from_head="0" * 64)
    (finding,) = compare(read(record.path), audit, "north")
    assert finding.endswith("lost when the coordinator was restored from a backup")
