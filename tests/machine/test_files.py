import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.machine import files
from consilo.machine.files import write_atomic
from consilo.record.run_record import RunRecord
from silos.kept.store import Store


def test_a_file_is_replaced_whole_with_its_mode(tmp_path):
    path = tmp_path / "new" / "secret.key"
    write_atomic(path, b"one", mode=0o600)
    write_atomic(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(path.parent) == ["secret.key"]


def test_a_failed_write_leaves_the_old_content_and_no_rest(tmp_path):
    path = tmp_path / "state"
    write_atomic(path, b"old")
    with pytest.raises(TypeError):
        write_atomic(path, "not bytes")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["state"]


def test_a_target_that_cannot_be_replaced_leaves_no_rest(tmp_path):
    (tmp_path / "folder" / "inside").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write_atomic(tmp_path / "folder", b"x")
    assert os.listdir(tmp_path) == ["folder"]


class Watched(files.Disk):
    """A disk that tells what was asked of it, and may fail."""

    def __init__(self, failing=""):
        self.calls, self.failing = [], failing

    def sync(self, file):
        self.calls.append("sync")
        if self.failing == "sync":
            raise OSError(errno.EIO, "Input/output error")
        super().sync(file)

    def sync_directory(self, directory):
        self.calls.append(f"names of {directory.name}")
        super().sync_directory(directory)

    def write(self, file, data):
        if self.failing == "write":
            super().write(file, data[:2])
            raise OSError(errno.ENOSPC, "No space left on device")
        super().write(file, data)


def add(path, line, disk):
    with files.on(disk), path.open("r+b") as file:
        files.append(file, path, line)


@pytest.mark.parametrize("failing", ["write", "sync"])
def test_a_line_that_cannot_be_written_leaves_the_file_as_it_was(tmp_path, failing):
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    with pytest.raises(OSError, match=r"No space|Input/output"):
        add(path, b"two\n", Watched(failing))
    assert path.read_bytes() == b"one\n"
    add(path, b"three\n", Watched())
    assert path.read_bytes() == b"one\nthree\n"


def test_the_name_of_a_new_log_is_synced_before_its_first_line(tmp_path):
    path, disk = tmp_path / "log", Watched()
    path.touch()
    add(path, b"one\n", disk)
    add(path, b"two\n", disk)
    assert disk.calls == [f"names of {tmp_path.name}", "sync", "sync"]


def test_what_is_relied_on_is_synced_first(tmp_path):
    disk = Watched()
    with files.on(disk):
        assert not files.rely_on(tmp_path / "log")
        (tmp_path / "log").write_bytes(b"one\n")  # by a process that died before it synced it
        assert files.rely_on(tmp_path / "log")
        assert disk.calls == ["sync", f"names of {tmp_path.name}"]


def test_a_record_and_a_secret_are_relied_on_when_they_are_gone_on_with(tmp_path):
    key = Ed25519PrivateKey.generate()
    record = RunRecord(tmp_path / "run" / "record.jsonl", key)
    record.add("opened")
    store = Store(tmp_path / "silo")
    secret = store.secret("run")
    disk = Watched()
    with files.on(disk):
        RunRecord.reopen(record.path, key)
        assert disk.calls == [f"names of {tmp_path.name}", "sync", "names of run"]
        disk.calls.clear()
        assert store.secret("run") == secret
        assert disk.calls == ["sync", "names of secrets"]


def test_a_folder_that_is_there_is_made_sure_of(tmp_path):
    disk = Watched()
    with files.on(disk):
        files.make_directory(tmp_path / "a" / "b", mode=0o700)
        assert disk.calls == [
            f"names of {tmp_path.parent.name}",
            f"names of {tmp_path.name}",
            "names of a",
        ]
        disk.calls.clear()
        files.make_directory(tmp_path / "a" / "b")
        assert disk.calls == ["names of a"]
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o700


def test_a_new_file_is_made_once(tmp_path):
    path = tmp_path / "new" / "key"
    files.write_new(path, b"one")
    with pytest.raises(FileExistsError, match="key"):
        files.write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(path.parent) == ["key"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_of_many_who_make_a_file_one_wins(tmp_path):
    def make(number):
        try:
            files.write_new(tmp_path / "key", b"%d" % number)
        except FileExistsError:
            return None
        return number

    with ThreadPoolExecutor(8) as threads:
        won = [each for each in threads.map(make, range(40)) if each is not None]
    assert (tmp_path / "key").read_bytes() == b"%d" % won[0]
    assert len(won) == 1
    assert os.listdir(tmp_path) == ["key"]


def test_what_a_dead_writer_left_is_deleted_and_a_living_ones_is_not(tmp_path):
    path = tmp_path / "state"
    dead, living, other = (
        tmp_path / name for name in (f".state.{'0' * 16}", f".state.{'1' * 16}", ".state.yaml")
    )
    for each in (dead, living, other):
        each.write_bytes(b"half")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomic(path, b"whole")
        assert not dead.exists()
        assert living.exists()
        files.tidy(tmp_path.parent)
        assert living.exists()
    files.tidy(tmp_path.parent)
    assert sorted(os.listdir(tmp_path)) == [".state.yaml", "state"]


def test_what_is_erased_is_overwritten_and_does_not_come_back(tmp_path):
    path, disk = tmp_path / "key", Watched()
    path.write_bytes(b"secret")
    os.link(path, tmp_path / "peek")
    with files.on(disk):
        files.erase(path)
        files.erase(path)
    assert (tmp_path / "peek").read_bytes() == bytes(6)
    assert disk.calls == ["sync", f"names of {tmp_path.name}"]
