"""Where a rehearsal works: a directory that goes away, unless it is to be kept.

It may hold copies of real rows. What a rehearsal that was killed has left is deleted by the next.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from consilo.machine.locks import Held, holding
from consilo.runs.outcome import fresh
from flows.rehearsal.disks import let_go

_PREFIX, _HELD = "consilo-rehearsal-", "held"
_NEW_S = 60.0
"""What is younger may be about to be held."""


@dataclass(frozen=True)
class Place:
    """A rehearsal's directory.

    Args:
        folder: all of it.
    """

    folder: Path

    @property
    def home(self) -> Path:
        """The coordinator's directory; the folder above it may be a disk of its own."""
        return self.disk / "home"

    @property
    def disk(self) -> Path:
        """What is full when the coordinator's disk is."""
        return self.folder / "coordinator"

    @property
    def silos(self) -> Path:
        """The folder of the silos' directories."""
        return self.folder / "silos"

    @property
    def jobs(self) -> Path:
        """The folder of the job's file, its modules and contracts."""
        return self.folder / "jobs"


@contextmanager
def rehearsal_place(keep: Path | None) -> Iterator[Place]:
    """Yield a fresh directory to work in.

    Args:
        keep: where all is in the end; None keeps nothing.

    Raises:
        ConfigInvalid: where ``keep`` holds something.
    """
    kept = None if keep is None else fresh(keep)
    sweep(Path(tempfile.gettempdir()), time.time())
    made = Path(tempfile.mkdtemp(prefix=_PREFIX))
    place = Place(made)
    try:
        with holding(made / _HELD):
            place.home.mkdir(parents=True, mode=0o700)
            yield place
    finally:
        if kept is not None:  # copied, since disks of the rehearsal's own go with its processes
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copytree(made, kept, dirs_exist_ok=True, symlinks=True)
        let_go(made)
        shutil.rmtree(made, ignore_errors=True)


def sweep(folder: Path, now: float) -> None:
    """Delete what rehearsals of ours have left that were killed.

    Args:
        folder: of all their directories.
        now: seconds since 1970.
    """
    for held in folder.glob(f"{_PREFIX}*/{_HELD}"):
        with suppress(Held, OSError):  # one that goes on, or that is gone already
            of = held.lstat()
            if of.st_uid != os.getuid() or now - of.st_mtime < _NEW_S:
                continue
            with holding(held):
                shutil.rmtree(held.parent)
