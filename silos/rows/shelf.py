"""Encoded rows on disk: a folder of arrays under each name, for the owner only, the newest kept."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from consilo.kernel.roles import Arrays, Built
from consilo.machine.files import move, sync_directory, sync_file
from consilo.wire.piecewise import Parts


class Shelf:
    """Folders of arrays, each written whole or not at all.

    Args:
        directory: made at the first use.
        kept: how many folders; the oldest go.
    """

    def __init__(self, directory: Path, *, kept: int) -> None:
        self._directory = directory
        self._kept = kept

    def __contains__(self, name: str) -> bool:
        """Return whether there are arrays under ``name``."""
        return (self._directory / name).exists()

    def put(self, name: str, arrays: Built) -> None:
        """Keep arrays under ``name``; what another process put there first stays."""
        place = self._directory / name
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=place.parent, prefix="building-"))
        try:
            for array, value in arrays.items():
                with (made / f"{array}.npy").open("xb") as file:
                    os.fchmod(file.fileno(), 0o600)
                    _save(file, value)
                    file.flush()
                sync_file(made / f"{array}.npy")
            sync_directory(made)
            # Another process may have been faster with the same rows.
            with contextlib.suppress(OSError):
                move(made, place)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        self._prune()

    def load(self, name: str) -> Arrays:
        """Return the arrays under ``name``, memory-mapped and read-only."""
        files = sorted((self._directory / name).glob("*.npy"))
        return {file.stem: np.load(file, mmap_mode="r") for file in files}

    def _prune(self) -> None:
        places = self._directory.iterdir()
        entries = sorted(places, key=lambda place: place.stat().st_mtime_ns, reverse=True)
        for place in entries[self._kept :]:
            shutil.rmtree(place, ignore_errors=True)


def _save(file: BinaryIO, value: np.ndarray[Any, Any] | Parts) -> None:
    """Write an array as numpy does, without holding one that is made piece by piece."""
    if not isinstance(value, Parts):
        np.save(file, value, allow_pickle=False)
        return
    head = {"descr": value.dtype.str, "fortran_order": False, "shape": value.shape}
    np.lib.format.write_array_header_1_0(file, head)
    num_rows = 0
    for piece in value.pieces():
        file.write(np.ascontiguousarray(piece, dtype=value.dtype).tobytes())
        num_rows += len(piece)
    if num_rows != value.shape[0]:
        raise RuntimeError(f"pieces of {num_rows} rows where {value.shape[0]} were said")
