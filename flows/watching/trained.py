"""When a job was last trained, by the coordinator's own records, whether or not MLflow is up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

_CLOSED, _MODEL = "closed", "model"
_GOOD = ("complete", "degraded")


@dataclass(frozen=True)
class Training:
    """A run that left a version of a model.

    Args:
        run_id: the run.
        ended: when it did.
        version: of the registered model.
    """

    run_id: str
    ended: datetime
    version: int


def last_training(home: Path, job: str) -> Training | None:
    """Return the newest run of a job that registered a model; None where there is none.

    Args:
        home: the coordinator's directory.
        job: its name.
    """
    found: Training | None = None
    for record in home.glob(f"runs/{job}-*/record.jsonl"):
        if record.parent.name.rsplit("-", 2)[0] != job:
            continue  # another job, whose name begins alike, or a question
        training = training_of(record)
        if training is not None and (found is None or training.ended > found.ended):
            found = training
    return found


def training_of(record: Path) -> Training | None:
    """Return what a record's last two lines say; None where it left no version of a model."""
    lines = record.read_bytes().rsplit(b"\n", 3)[-3:-1]
    try:
        model, closed = (json.loads(line) for line in lines)
    except ValueError:  # two lines are not there, or not whole
        return None
    version = _version(model)
    if version is None or closed.get("kind") != _CLOSED:
        return None
    if closed["body"].get("status") not in _GOOD:
        return None
    return Training(record.parent.name, datetime.fromisoformat(closed["time"]), version)


def _version(entry: Mapping[str, Any]) -> int | None:
    if entry.get("kind") != _MODEL:
        return None
    model = entry["body"].get("model") or {}
    return int(model["version"]) if model.get("version") else None
