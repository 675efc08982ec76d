"""How this silo's rows were spread when a model was last trained: kept here, to compare with later.

A file a name in ``spreads/``, mode 0600. The names of a coordinator's jobs are its own choice, so
the number of files is bounded: the 64 that were kept last stay.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

from consilo.machine.files import erase, make_directory, write_atomic

MOST_KEPT = 64
_NAME = re.compile("[0-9a-f]{64}")


class KeptSpreads:
    """The role `consilo.horizontal.between.drift.Spreads`.

    Args:
        directory: ``spreads/`` in the silo's directory; made at the first use.
        now: seconds since 1970.
    """

    def __init__(self, directory: Path, *, now: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._now = now

    def spread(self, name: str, *, within_s: float | None) -> bytes | None:
        """Return what is kept under a name, unless it was kept longer ago; None is any time."""
        file = self._file(name)
        try:
            at, _, content = file.read_bytes().partition(b"\n")
        except FileNotFoundError:
            return None
        if within_s is not None and not 0.0 <= self._now() - float(at) < within_s:
            return None
        return content

    def keep_spread(self, name: str, content: bytes) -> None:
        """Keep something under a name, durably; beyond `MOST_KEPT` the oldest is forgotten."""
        if not self._directory.is_dir():
            make_directory(self._directory, mode=0o700)
        write_atomic(self._file(name), f"{self._now()}\n".encode() + content, mode=0o600)
        kept: list[tuple[float, Path]] = []
        for file in self._directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                kept.append((file.stat().st_mtime, file))
        for _, file in sorted(kept)[:-MOST_KEPT]:
            erase(file)

    def forget_spread(self, name: str) -> None:
        """Forget what is kept under a name, if anything is."""
        erase(self._file(name))

    def _file(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError("a spread's name is 64 hexadecimal digits")
        return self._directory / name
