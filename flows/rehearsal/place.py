"""Where a rehearsal works: a directory that goes away, unless it is to be kept."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from consilo.runs.outcome import fresh


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
    made = Path(tempfile.mkdtemp(prefix="consilo-rehearsal-"))
    place = Place(made)
    try:
        place.home.mkdir(parents=True, mode=0o700)
        yield place
    finally:
        if kept is not None:  # copied, since disks of the rehearsal's own go with its processes
            kept.mkdir(mode=0o700, parents=True, exist_ok=True)
            shutil.copytree(made, kept, dirs_exist_ok=True, symlinks=True)
        shutil.rmtree(made, ignore_errors=True)
