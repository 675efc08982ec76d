"""A machine's disk in a simulation: it knows what was synced, and the machine dies at any step.

Files are real ones below a folder; what a loss of power would leave of them is kept beside. A
SQLite file is a database in memory that outlives the processes which open it. Every step of
`consilo.machine.files.Disk`, and every statement that writes, may be the last, or may fail.
"""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path
from random import Random

from consilo.machine.files import Disk

ERRORS = {"full": errno.ENOSPC, "io": errno.EIO}
_WRITES = ("INSERT", "DELETE", "UPDATE", "BEGIN ", "REPLAC", "CREATE", "ALTER ")


class Died(BaseException):
    """The process ends here, without a word."""


class MachineDisk(Disk):
    """The disk of one machine.

    Args:
        root: everything of this machine lies below it.
        rng: what of all that was not synced is there after a loss of power.
    """

    def __init__(self, root: Path, rng: Random) -> None:
        self.root = root
        self.steps = 0
        self.ending = ""
        self.unsynced: tuple[str, ...] = ()
        self._faults: dict[int, str] = {}
        self._rng = rng
        self._content: dict[int, bytes] = {}
        self._names: dict[Path, dict[str, int]] = {}
        self._databases: dict[Path, Database] = {}

    def step(self, *, frees: bool = False) -> None:
        """Come to the next step; it may be the end. What only frees space works on a full disk."""
        if self.ending:
            raise Died
        self.steps += 1
        fault = self._faults.get(self.steps, "")
        if frees and fault == "full":
            return
        if fault in ERRORS:
            raise OSError(ERRORS[fault], os.strerror(ERRORS[fault]))
        if fault:
            self.ending = fault
            raise Died

    def write(self, file, data):
        self.step()
        super().write(file, data)

    def sync(self, file):
        self.step()
        about = os.fstat(file.fileno())
        path = f"/proc/self/fd/{file.fileno()}"
        if self.unsynced and Path(os.readlink(path)).name in self.unsynced:
            return  # a mistake that is planted
        again = os.open(path, os.O_RDONLY)
        try:
            self._content[about.st_ino] = os.pread(again, about.st_size, 0)
        finally:
            os.close(again)

    def sync_directory(self, directory):
        self.step()
        self._names[directory] = _names(directory)

    def replace(self, old, new):
        self.step()
        super().replace(old, new)

    def unlink(self, path):
        self.step(frees=True)
        super().unlink(path)

    def mkdir(self, path, mode):
        self.step()
        super().mkdir(path, mode)

    def connect(self, path, timeout_s):
        found = self._databases.get(path)
        if found is None:
            found = self._databases[path] = sqlite3.connect(":memory:", factory=Database)
            found.begin(self, path)
        return found

    def committed(self, path: Path) -> None:
        """Take note that a file's name is on the disk: SQLite syncs the folder of a new journal."""
        self._names.setdefault(path.parent, {})[path.name] = path.stat().st_ino

    def settle(self, faults: dict[int, str]) -> None:
        """Take all that is there for synced; from here on steps count.

        Args:
            faults: step → ``kill``, ``power``, ``full`` or ``io``.
        """
        self._faults, self.steps = faults, 0
        for folder, _, files in os.walk(self.root):
            place = Path(folder)
            self._names[place] = _names(place)
            for name in files:
                file = place / name
                self._content[file.stat().st_ino] = file.read_bytes()

    def come_back(self) -> None:
        """Be what a process finds that starts after the end."""
        if self.ending == "power":
            self._lose(self.root)
            for path, database in list(self._databases.items()):
                if path.exists():
                    database.lose(self._rng)
                else:
                    self._databases.pop(path).really_close()
        self.ending = ""

    def close(self) -> None:
        """Let go of the databases."""
        for each in self._databases.values():
            each.really_close()

    def _lose(self, folder: Path) -> None:
        """Let what was not synced be there, or not, or in part."""
        synced, there = self._names.get(folder, {}), _names(folder)
        for name in sorted(synced.keys() | there.keys()):
            before, after = synced.get(name), there.get(name)
            path = folder / name
            if before != after and self._rng.random() < 0.5:
                self._undo(path, before)
            if path.is_dir():
                self._lose(path)
            elif path.exists():
                self._tear(path)
        self._names[folder] = _names(folder)

    def _undo(self, path: Path, before: int | None) -> None:
        """Let a name be what it was when its folder was synced."""
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if before is not None and before in self._content:
            content = self._content[before]
            path.write_bytes(content)
            self._content[path.stat().st_ino] = content

    def _tear(self, path: Path) -> None:
        """Let a file's content be what was synced, and of the rest all, a part or nothing."""
        number = path.stat().st_ino
        synced, there = self._content.get(number, b""), path.read_bytes()
        if there == synced:
            return
        kept = self._rng.randrange(3)
        if kept == 0:
            there = synced
        elif kept == 1:
            same = len(synced) if there.startswith(synced) else 0
            there = there[: self._rng.randint(same, len(there))]
        path.write_bytes(there)
        self._content[number] = there


_made: dict[str, bytes] = {}
"""What an empty database is after a script: to copy it is faster than to run the script."""


class Database(sqlite3.Connection):
    """A SQLite file of a simulated machine; to close it leaves it as it is."""

    def begin(self, disk: MachineDisk, path: Path) -> None:
        """Be the file ``path``."""
        self._disk, self._path = disk, path
        self._schemas: set[str] = set()
        self._is_used = False
        self._ahead = self._lasts = False
        self._before: bytes | None = None

    def execute(self, sql, *values):
        if sql.startswith("PRAGMA journal_mode"):
            self._ahead = sql.endswith("WAL")
        elif sql.startswith("PRAGMA synchronous"):
            level = sql.rpartition(" ")[2]
            self._lasts = level == "EXTRA" or (level == "FULL" and self._ahead)
            self._lasts &= self._path.name not in self._disk.unsynced
            return None
        elif sql == "COMMIT":
            self._end()
        elif sql.startswith(_WRITES):
            self._write()
        return super().execute(sql, *values)

    def executemany(self, sql, rows):
        self._write()
        return super().executemany(sql, rows)

    def executescript(self, script):
        if script not in self._schemas:
            self._write()
            if self._schemas or self._is_used or script not in _made:
                super().executescript(script)
            else:
                super().deserialize(_made[script])
            if not self._schemas and not self._is_used:
                _made.setdefault(script, super().serialize())
            self._is_used = True
            self._disk.committed(self._path)
            self._schemas.add(script)

    def __exit__(self, kind, value, trace):
        if kind is None and self.in_transaction:
            self._end()
            super().commit()
        elif self.in_transaction:
            super().rollback()

    def close(self):
        if self.in_transaction:
            super().rollback()

    def really_close(self) -> None:
        """Close it."""
        super().close()

    def lose(self, rng: Random) -> None:
        """Take back what a loss of power may take back."""
        if self._before is not None and rng.random() < 0.5:
            super().deserialize(self._before)
            self._schemas.clear()
        self._before = None

    def _write(self) -> None:
        self._disk.step()
        is_old = self._is_used and not self.in_transaction  # an empty one has nothing to go back to
        if not self._lasts and self._before is None and is_old:
            self._before = super().serialize()

    def _end(self) -> None:
        self._disk.step()
        if self._lasts:
            self._before = None  # and what was committed before it
        self._disk.committed(self._path)


def _names(folder: Path) -> dict[str, int]:
    with os.scandir(folder) as entries:
        return {each.name: each.inode() for each in entries}
