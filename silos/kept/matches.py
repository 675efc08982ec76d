"""Matches on disk: ``matches/HANDLE/`` with ``rows.npy`` and ``match.yaml``, for the owner only."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from consilo.config import Config, parse, read_yaml
from consilo.errors import Refused
from consilo.jobs.match import Match
from consilo.machine.files import make_directory, remove, write_atomic
from consilo.yaml_text import to_yaml


class _Stored(Config):
    handle: str
    partners: tuple[str, ...]
    recipe_hash: str
    contract: str
    dataset: str
    purpose: str
    created: datetime
    expires: datetime
    fingerprint: str
    run: str = ""
    report: dict[str, Any]


def write_match(directory: Path, match: Match) -> Path:
    """Write a match below ``matches/`` of a silo's directory, over one of the same handle.

    The rows are on the disk before the file that makes them count.
    """
    shelf = directory / "matches"
    place = shelf / match.handle
    for each in (shelf, place):
        make_directory(each, mode=0o700)
    remove(place / "match.yaml")
    buffer = io.BytesIO()
    np.save(buffer, match.rows, allow_pickle=False)
    write_atomic(place / "rows.npy", buffer.getvalue(), mode=0o600)
    said = {
        "handle": match.handle,
        "partners": list(match.partners),
        "recipe_hash": match.recipe_hash,
        "contract": match.contract,
        "dataset": match.dataset,
        "purpose": match.purpose,
        "created": match.created.isoformat(),
        "expires": match.expires.isoformat(),
        "fingerprint": match.fingerprint,
        "run": match.run,
        "report": _plain(match.report),
    }
    text = to_yaml(said)
    write_atomic(place / "match.yaml", text.encode(), mode=0o600)
    return place


def read_match(directory: Path, handle: str) -> Match:
    """Return the match that is kept under ``handle``; whether it may be used is not looked at.

    Raises:
        Refused: where there is none.
        ConfigInvalid: where its file is not valid.
    """
    place = directory / "matches" / handle
    if "/" in handle or not (place / "match.yaml").exists():
        raise Refused(f"this silo keeps no match '{handle[:63]}'; match first", code="match")
    path = place / "match.yaml"
    stored = parse(_Stored, read_yaml(path), where=str(path))
    rows = np.load(place / "rows.npy", allow_pickle=False)
    return Match(rows=rows, **dict(stored))


def every_match(directory: Path) -> list[Match]:
    """Return the matches that a silo keeps, the newest first."""
    found = [read_match(directory, file.parent.name) for file in directory.glob("matches/*/*.yaml")]
    return sorted(found, key=lambda match: match.created, reverse=True)


def drop_match(directory: Path, handle: str) -> None:
    """Delete a match; one that is not there is gone already."""
    if handle and "/" not in handle and not handle.startswith("."):
        shutil.rmtree(directory / "matches" / handle, ignore_errors=True)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.item() if isinstance(value, np.generic) else value
