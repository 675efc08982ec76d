"""A backup of a coordinator while it runs, and its restore on an empty machine.

What is lost where it is not in the backup: members and keys, the audit log, run records with their
checkpoints, and what MLflow holds. All of a coordinator's directory is taken except what is made
anew (`_MADE_ANEW`) and what belongs to silos. In the archive stands, in this order:

1. the members' list and the audit log, of one moment: no change passes between them;
2. the runs, of a moment at which the registry knew each run that had ended. A run that was under
   way has its record up to a whole line and can be gone on with;
3. the registry, as its database was, with every artifact that it names;
4. last, ``manifest.json``: the hash of each file, signed. An archive that was cut has none.

The archive holds the coordinator's keys; it is of mode 0600, and not encrypted.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO, Any

from consilo.errors import ConfigInvalid, RunNotResumable, ServiceFailed
from consilo.machine.database import patient
from consilo.machine.files import make_directory, making, move, sync_directory, sync_file
from consilo.machine.locks import share_open
from consilo.membership.keys import load_or_create_signing_key
from consilo.membership.restored import note_restore
from consilo.record.chain import START, now_utc, verify
from consilo.record.run_record import RunRecord
from consilo.wire.signing import is_signed, public_hex, sign

MANIFEST = "manifest.json"
_FORMAT = 1
_PURPOSE = "backup"
_MADE_ANEW = frozenset({"prefect", "superlink", "logs", "flwr", "federation.json"})
"""Ids of Prefect and Flower are new after their loss; the coordinator's record tells of runs."""
_SQLITE = b"SQLite format 3\0"
_TRIES = 20


@dataclass(frozen=True)
class Backup:
    """What is in an archive.

    Args:
        path: of the archive.
        made_at: UTC, ISO 8601.
        head: hash of the last line of the coordinator's audit log; 64 zeros where it has none.
        files: how many there are.
        num_bytes: of all of them.
        open_runs: runs that were under way, by name.
    """

    path: Path
    made_at: str
    head: str
    files: int
    num_bytes: int
    open_runs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "archive": str(self.path),
            "made_at": self.made_at,
            "head": self.head,
            "files": self.files,
            "bytes": self.num_bytes,
            "open_runs": list(self.open_runs),
        }


def make_backup(home: Path, archive: Path) -> Backup:
    """Write one consistent archive of a coordinator, whether or not it is up.

    Args:
        home: the coordinator's directory.
        archive: a file that does not exist yet, outside ``home``; it is there whole or not at all.

    Raises:
        ConfigInvalid: where ``home`` is no coordinator's, or the archive cannot be there.
        ServiceFailed: where runs began and ended so fast that no moment could be kept.
    """
    home, archive = home.resolve(), archive.absolute()
    if not (home / "members.db").is_file():
        raise ConfigInvalid(str(home), ["no coordinator is here: it has no members.db"])
    if archive.exists():
        raise ConfigInvalid(str(archive), ["the file exists; choose another name"])
    if archive.resolve().is_relative_to(home):
        raise ConfigInvalid(
            str(archive), ["it lies in the directory that is backed up; choose a place outside"]
        )
    make_directory(archive.parent, mode=0o700)
    key = load_or_create_signing_key(home / "keys" / "record.key")
    try:
        with (
            making(archive) as file,
            _staging(archive.parent) as staged,
            tarfile.open(fileobj=file, mode="w:gz", compresslevel=1) as tar,
        ):
            packed = _Packed(tar)
            head = _pack_members(packed, home, staged)
            open_runs = _stage_runs(home, staged)
            packed.add_folder(staged / "runs", "runs")
            packed.add_folder(staged / "registry", "")
            _pack_rest(packed, home, staged)
            made = Backup(archive, now_utc(), head, len(packed.hashes), packed.num_bytes, open_runs)
            said = {"format": _FORMAT, **made.to_json(), "hashes": packed.hashes}
            del said["archive"]
            signed = {"public_key": public_hex(key), "signature": sign(key, _PURPOSE, said)}
            packed.add_bytes(MANIFEST, json.dumps({**said, **signed}, indent=1).encode())
    except FileExistsError:  # somebody else has made it meanwhile
        raise ConfigInvalid(str(archive), ["the file exists; choose another name"]) from None
    return made


def restore(archive: Path, home: Path) -> tuple[Backup, dict[str, Any]]:
    """Lay a coordinator's directory anew from a backup; it is there whole or not at all.

    Every silo is told, in a line that the coordinator signs (`consilo.membership.restored`); so is
    the record of each run that was under way.

    Args:
        archive: as `make_backup` wrote it.
        home: a directory that does not exist, or is empty.

    Returns:
        What was in it, and the signed line.

    Raises:
        ConfigInvalid: where the archive is not whole, or ``home`` holds something.
        RecordTampered: where a log or a record in it is not as it was written.
    """
    home = home.absolute()
    if home.exists() and (not home.is_dir() or any(home.iterdir())):
        raise ConfigInvalid(str(home), ["not empty; restore into a new directory"])
    make_directory(home.parent)
    laid = Path(tempfile.mkdtemp(dir=home.parent, prefix=f".{home.name}."))  # of mode 0700
    try:
        made = _unpack(archive, laid)
        key = load_or_create_signing_key(laid / "keys" / "record.key")
        line = note_restore(
            laid, key, from_head=made.head, backup_of=made.made_at, restored_at=now_utc()
        )
        for run in made.open_runs:
            # One that had not written its first line is none, and nobody was asked for it.
            with contextlib.suppress(RunNotResumable):
                record, _ = RunRecord.reopen(laid / "runs" / run / "record.jsonl", key)
                record.add("restored", **line)
        for folder in (*(each for each in laid.rglob("*") if each.is_dir()), laid):
            sync_directory(folder)
        move(laid, home)
    except BaseException:
        shutil.rmtree(laid, ignore_errors=True)
        raise
    return made, line


class _Packed:
    """An archive that is being written.

    Args:
        tar: the archive.
    """

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.hashes: dict[str, str] = {}
        self.num_bytes = 0

    def add_bytes(self, name: str, content: bytes, mode: int = 0o600) -> None:
        """Add a file from what it holds."""
        self._add(name, io.BytesIO(content), len(content), mode)

    def add_file(self, path: Path, name: str) -> None:
        """Add a file as long as it is now; one that is gone is left out.

        A log is taken up to its last whole line.
        """
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return
        with file:
            mode = os.fstat(file.fileno()).st_mode & 0o700
            if path.suffix == ".jsonl":
                share_open(file)
                self.add_bytes(name, _whole_lines(file.read()), mode)
            else:
                self._add(name, file, os.fstat(file.fileno()).st_size, mode)

    def add_folder(self, folder: Path, name: str) -> None:
        """Add all files below a folder."""
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            self.add_file(path, str(PurePosixPath(name, path.relative_to(folder).as_posix())))

    def _add(self, name: str, file: IO[bytes], num_bytes: int, mode: int) -> None:
        hashed = _Hashing(file)
        member = tarfile.TarInfo(name)
        member.size, member.mode = num_bytes, mode
        self._tar.addfile(member, hashed)
        self.hashes[name] = hashed.sha256.hexdigest()
        self.num_bytes += num_bytes


class _Hashing:
    """Reads a file and takes the hash of what was read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, num_bytes: int = -1) -> bytes:
        content = self._file.read(num_bytes)
        self.sha256.update(content)
        return content


@contextlib.contextmanager
def _staging(beside: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=beside, prefix=".backup.") as folder:
        yield Path(folder)


def _pack_members(packed: _Packed, home: Path, staged: Path) -> str:
    """Add the list of members and the audit log, of one moment; return the log's head."""
    with contextlib.closing(patient(home / "members.db")) as holder:
        holder.isolation_level = None
        # Each change writes its line of the log within its transaction, so that none is under way.
        holder.execute("BEGIN IMMEDIATE")
        try:
            _copy_database(home / "members.db", staged / "members.db")
            log = home / "audit.jsonl"
            lines = verify(log) if log.exists() else []
            packed.add_file(staged / "members.db", "members.db")
            if lines:
                packed.add_file(log, "audit.jsonl")
        finally:
            holder.execute("ROLLBACK")
    return str(lines[-1]["hash"]) if lines else START


def _stage_runs(home: Path, staged: Path) -> tuple[str, ...]:
    """Copy runs and then the registry, so that it knows each run that has ended; name the others.

    Raises:
        ServiceFailed: where no such moment is found.
    """
    registry = home / "mlflow" / "mlflow.db"
    for _ in range(_TRIES):
        for name in ("runs", "registry"):
            shutil.rmtree(staged / name, ignore_errors=True)
        before = _copy_runs(home / "runs", staged / "runs")
        if registry.exists():
            place = staged / "registry" / "mlflow"
            place.mkdir(parents=True)
            _copy_database(registry, place / "mlflow.db")
        if before == _ended_by_run(home / "runs"):
            return tuple(sorted(run for run, ended in before.items() if not ended))
    raise ServiceFailed(
        f"runs in {home} begin and end faster than they can be copied; try again, or between runs"
    )


def _copy_runs(runs: Path, to: Path) -> dict[str, bool]:
    """Copy what runs have written; return of each whether it has ended.

    A checkpoint is written just before the record's line of its round, so a copy of both in that
    moment is what a run leaves that dies there; further apart they may not be.
    """
    if runs.is_dir():
        _copy_files(runs, to, top_only=True)
    for record in sorted(runs.glob("*/record.jsonl")):
        target = to / record.parent.name
        for _ in range(_TRIES):
            shutil.rmtree(target, ignore_errors=True)
            before = record.stat().st_size
            _copy_files(record.parent, target)
            if record.stat().st_size == before:
                break
        else:
            raise ServiceFailed(f"{record.parent.name} writes faster than it can be copied")
    return _ended_by_run(to)


def _copy_files(folder: Path, to: Path, *, top_only: bool = False) -> None:
    for path in sorted(folder.glob("*") if top_only else folder.rglob("*")):
        if not path.is_file() or path.name.startswith(".") or path.suffix == ".lock":
            continue  # a temporary file, or a lock
        target = to / path.relative_to(folder)
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # gone meanwhile
            if path.suffix == ".jsonl":
                target.write_bytes(_whole_lines(path.read_bytes()))
            else:
                shutil.copyfile(path, target)


def _ended_by_run(runs: Path) -> dict[str, bool]:
    return {each.parent.name: _has_ended(each) for each in runs.glob("*/record.jsonl")}


def _has_ended(record: Path) -> bool:
    *_, last = _whole_lines(record.read_bytes()).splitlines() or [b"{}"]
    with contextlib.suppress(ValueError):
        return bool(json.loads(last).get("kind") == "closed")
    return False


def _pack_rest(packed: _Packed, home: Path, staged: Path) -> None:
    """Add all else that is kept: keys, settings, the registry's artifacts."""
    done = ("members.db", "audit.jsonl", "runs", "mlflow/mlflow.db")
    for path in _files(home):
        name = path.relative_to(home).as_posix()
        if any(name == each or name.startswith(f"{each}/") for each in done):
            continue
        with path.open("rb") as file:
            is_database = file.read(len(_SQLITE)) == _SQLITE
        if is_database:
            copy = staged / "other.db"
            copy.unlink(missing_ok=True)
            _copy_database(path, copy)
            packed.add_file(copy, name)
        else:
            packed.add_file(path, name)


def _files(folder: Path, *, top: bool = True) -> Iterator[Path]:
    for each in sorted(folder.iterdir()):
        if each.is_symlink() or (top and each.name in _MADE_ANEW):
            continue
        if each.is_dir():
            if not (each / "silo.yaml").exists():  # a silo's own directory is its own matter
                yield from _files(each, top=False)
        elif each.is_file() and not each.name.endswith(("-wal", "-shm", ".lock")):
            yield each


def _copy_database(path: Path, to: Path) -> None:
    """Copy a SQLite database as it is at one moment, others may write meanwhile."""
    os.close(os.open(to, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with (
        contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(to)) as copy,
    ):
        source.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def _whole_lines(content: bytes) -> bytes:
    return content[: content.rfind(b"\n") + 1]


def _unpack(archive: Path, to: Path) -> Backup:
    """Write the files of an archive and return what it says of itself.

    Raises:
        ConfigInvalid: where it does not hold just what its signed manifest says.
    """
    found: dict[str, str] = {}
    manifest: dict[str, Any] = {}
    try:
        with tarfile.open(archive, mode="r:gz") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                name = PurePosixPath(member.name)
                if content is None or name.is_absolute() or ".." in name.parts:
                    raise ValueError(f"an entry that no backup has: {member.name!r}")
                if member.name == MANIFEST:
                    manifest = json.loads(content.read())
                    continue
                found[member.name] = _write(content, to / name, member.mode)
        said = {k: v for k, v in manifest.items() if k not in ("public_key", "signature")}
        if not said:
            raise ValueError("its end is missing")
        if said["format"] != _FORMAT:
            raise ValueError(f"a format that this release does not know: {said['format']!r}")
        if not is_signed(manifest["public_key"], _PURPOSE, said, manifest["signature"]):
            raise ValueError("its manifest is not signed by the coordinator")
        wrong = sorted(set(found.items()) ^ set(said["hashes"].items()))
        if wrong:
            raise ValueError(f"{wrong[0][0]!r} is not as it was written")
        key = load_or_create_signing_key(to / "keys" / "record.key")
        if public_hex(key) != manifest["public_key"]:
            raise ValueError("it is signed by another coordinator than whose keys it holds")
        made = Backup(
            archive,
            str(said["made_at"]),
            str(said["head"]),
            int(said["files"]),
            int(said["bytes"]),
            tuple(said["open_runs"]),
        )
    except FileNotFoundError:
        raise ConfigInvalid(str(archive), ["no such file"]) from None
    except (ValueError, KeyError, TypeError, EOFError, OSError, tarfile.TarError) as cause:
        raise ConfigInvalid(
            str(archive), [f"not a whole backup of a coordinator: {cause}; nothing was restored"]
        ) from None
    log = to / "audit.jsonl"
    if (verify(log)[-1]["hash"] if log.exists() else START) != made.head:
        raise ConfigInvalid(str(archive), ["its log does not end where its manifest says"])
    return made


def _write(content: IO[bytes], path: Path, mode: int) -> str:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode & 0o700)
    hashed = _Hashing(content)
    with os.fdopen(handle, "wb") as file:
        while block := hashed.read(1024**2):
            file.write(block)
    sync_file(path)
    return hashed.sha256.hexdigest()


def age_of(made_at: str, now: datetime | None = None) -> str:
    """Return how long ago something was made, for people: ``3 days``, ``5 minutes``."""
    past = ((now or datetime.now(UTC)) - datetime.fromisoformat(made_at)).total_seconds()
    for seconds, word in ((86_400, "day"), (3_600, "hour"), (60, "minute")):
        if past >= seconds:
            count = int(past // seconds)
            return f"{count} {word}{'s' if count != 1 else ''}"
    return "less than a minute"
