"""Parts of vertical models, and what they say of rows; on disk, for the owner only.

`models/RUN/` holds a part: `part.bin`, and `part.yaml` for people. `scores/RUN.csv` holds what a
model says of the rows of a match, in the silo with the labels.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.config import read_yaml
from consilo.errors import Refused
from consilo.machine.files import make_directory, write_atomic
from consilo.record.chain import Chain
from consilo.yaml_text import to_yaml

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

_RUN = re.compile(r"[A-Za-z0-9][\w.-]{0,199}")


class ModelParts:
    """The role `consilo.vertical.roles.ModelParts`: parts and scores of one silo.

    Args:
        directory: the silo's.
        audit: its audit log, in which both are noted.
    """

    def __init__(self, directory: Path, audit: Chain) -> None:
        self._directory = directory
        self._audit = audit

    def keep_part(self, model: str, content: bytes, about: Mapping[str, Any]) -> None:
        """Keep this silo's part of a vertical model; it never leaves."""
        self._audit.append("part", run=model, reference=hashlib.sha256(content).hexdigest())
        write_part(self._directory, model, content, about)

    def part(self, model: str) -> bytes:
        """Return this silo's part of a model; raise `Refused` where there is none."""
        return read_part(self._directory, model)

    def keep_scores(self, run_id: str, rows: pd.DataFrame) -> None:
        """Write what a model says of rows to ``scores/``, for people here; it never leaves."""
        self._audit.append("scored", run=run_id, rows=len(rows))
        place = write_scores(self._directory, run_id, rows)
        log.info("%d rows scored: %s", len(rows), place)


def write_part(directory: Path, model: str, content: bytes, about: Mapping[str, Any]) -> Path:
    """Write a part below ``models/`` of a silo's directory; the same part again changes nothing."""
    place = _place(directory, model)
    make_directory(place.parent, mode=0o700)
    make_directory(place, mode=0o700)
    write_atomic(place / "part.bin", content, mode=0o600)
    text = to_yaml(dict(about))
    write_atomic(place / "part.yaml", text.encode(), mode=0o600)
    return place


def read_part(directory: Path, model: str) -> bytes:
    """Return the part that `write_part` wrote.

    Raises:
        Refused: where there is none.
    """
    try:
        return (_place(directory, model) / "part.bin").read_bytes()
    except FileNotFoundError:
        raise Refused(f"this silo keeps no part of the model '{model}'", code="model") from None


def every_part(directory: Path) -> list[dict[str, Any]]:
    """Return what people see of each part, the newest first."""
    files = sorted(
        directory.glob("models/*/part.yaml"), key=lambda file: file.stat().st_mtime_ns, reverse=True
    )
    return [read_yaml(file) for file in files]


def drop_part(directory: Path, model: str) -> None:
    """Delete a part: no row is scored with this model any more.

    Raises:
        Refused: where there is none.
    """
    place = _place(directory, model)
    if not place.exists():
        raise Refused(f"this silo keeps no part of the model '{model}'", code="model")
    shutil.rmtree(place)


def write_scores(directory: Path, run_id: str, rows: pd.DataFrame) -> Path:
    """Write what a model says of rows to ``scores/RUN.csv``."""
    place = directory / "scores" / f"{_checked(run_id)}.csv"
    make_directory(place.parent, mode=0o700)
    write_atomic(place, rows.to_csv(index=False).encode(), mode=0o600)
    return place


def _place(directory: Path, model: str) -> Path:
    return directory / "models" / _checked(model)


def _checked(run_id: str) -> str:
    if not _RUN.fullmatch(run_id):
        raise Refused("that is no run's id", code="model")
    return run_id
