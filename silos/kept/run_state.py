"""What a silo keeps between the messages of one run, each of which runs in a process of its own.

A file per run and name in the silo's ``runs/``, mode 0600, written whole or not at all. The end of
a run deletes them; those of a run whose end nobody told go after 30 days without use.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import time
from pathlib import Path

from consilo.machine.files import erase, make_directory, write_atomic

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,99}")
_LAPSE_S = 30 * 86_400.0


class RunState:
    """The state of all runs in one silo.

    Args:
        directory: ``runs/`` in the silo's directory; made at the first use.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def kept(self, run_id: str, name: str) -> bytes | None:
        """Return what is kept under ``name`` for a run; None where there is nothing."""
        try:
            return self._file(run_id, name).read_bytes()
        except FileNotFoundError:
            return None

    def keep(self, run_id: str, name: str, content: bytes) -> None:
        """Keep ``content`` under ``name`` until the run ends, durably; the old one is gone."""
        file = self._file(run_id, name)
        if not file.exists():
            make_directory(self._directory, mode=0o700)
            if not file.parent.exists():
                self._lapse()
            make_directory(file.parent, mode=0o700)
        write_atomic(file, content, mode=0o600)

    def forget(self, run_id: str, name: str) -> None:
        """Erase what is kept under ``name``, if there is something."""
        erase(self._file(run_id, name))

    def end(self, run_id: str) -> None:
        """Erase everything that is kept for a run."""
        place = self._place(run_id)
        if place.exists():
            for file in place.iterdir():
                erase(file)
            shutil.rmtree(place, ignore_errors=True)

    def _place(self, run_id: str) -> Path:
        return self._directory / hashlib.sha256(run_id.encode()).hexdigest()[:32]

    def _file(self, run_id: str, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"'{name[:40]}' cannot name a part of a run's state; use small letters, digits, "
                "_ and -"
            )
        return self._place(run_id) / name

    def _lapse(self) -> None:
        for place in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - place.stat().st_mtime > _LAPSE_S:
                    shutil.rmtree(place, ignore_errors=True)
