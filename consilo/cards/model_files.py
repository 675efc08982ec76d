"""The files of a model by their digests: a run's record holds one digest over all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from consilo.wire.payload import digest

_BLOCK_BYTES = 1 << 20


def sha256_of(file: IO[bytes]) -> str:
    """Return the SHA-256 of a file's bytes from where it stands, in hexadecimal."""
    state = hashlib.sha256()
    while block := file.read(_BLOCK_BYTES):
        state.update(block)
    return state.hexdigest()


def files_in(folder: Path) -> Iterable[Path]:
    """Yield the files below a folder, sorted; what Python compiles from them is left out."""
    return (
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    )


def digests_in(folder: Path) -> dict[str, str]:
    """Return path below ``folder``, with ``/``, → SHA-256 of the file's bytes."""
    found = {}
    for path in files_in(folder):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = sha256_of(file)
    return found


def whole(digests: Mapping[str, str]) -> str:
    """Return one SHA-256 over names and digests, in hexadecimal: what a run's record holds."""
    return digest(dict(digests))
