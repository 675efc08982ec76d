"""The figures of merit that left this silo, kept for its own people: ``figures.jsonl``.

The audit log has sizes and hashes alone, and an answer lapses soon. These numbers have left, as the
policy let them: what is kept is just what the coordinator was told, noise included. It is of help
to people and decides nothing, so that nothing waits for the disk.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.kernel.headers import Header
from consilo.record.chain import now_utc

log = logging.getLogger(__name__)

_FILE = "figures.jsonl"
_MOST_BYTES = 4 << 20
_MOST_NAMES = 100


@dataclass(frozen=True)
class Figures:
    """The figures of one answer.

    Args:
        time: when it left, ISO 8601.
        run: the run.
        protocol: who asked.
        verb: what for.
        round: in which round; 0 where it was none.
        metrics: name → figure.
    """

    time: str
    run: str
    protocol: str
    verb: str
    round: int
    metrics: Mapping[str, float]


def note_figures(directory: Path, header: Header, fields: Mapping[str, Any]) -> None:
    """Keep the figures of merit among the fields that leave, where there are some.

    Args:
        directory: the silo's.
        header: what was asked.
        fields: what leaves; the figures are ``metrics``, name → number.
    """
    said = fields.get("metrics")
    if not isinstance(said, Mapping) or not said:
        return
    metrics = {
        str(name): float(value)
        for name, value in list(said.items())[:_MOST_NAMES]
        if isinstance(value, int | float) and math.isfinite(value)
    }
    run = header.run_id
    told = [now_utc(), run, header.protocol, header.verb, header.round, metrics]
    line = json.dumps(told).encode() + b"\n"
    try:
        _append(directory / _FILE, line)
    except OSError as cause:
        log.warning("the figures of %s are not kept for the silo's page: %s", run, cause.strerror)


def _append(path: Path, line: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _MOST_BYTES:
            os.replace(path, path.with_name(f"{_FILE}.1"))
    handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        os.write(handle, line)
    finally:
        os.close(handle)


def own_figures(directory: Path, *, run: str = "", most: int = 2_000) -> list[Figures]:
    """Return the figures that left, the newest first; a line that was cut off is left out.

    Args:
        directory: the silo's.
        run: of this run only; empty for all.
        most: how many.
    """
    found: list[Figures] = []
    for name in (_FILE, f"{_FILE}.1"):
        path = directory / name
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        for line in reversed(lines):
            if len(found) >= most:
                return found
            with contextlib.suppress(ValueError, TypeError):
                time, of, protocol, verb, at, metrics = json.loads(line)
                if not run or of == run:
                    numbers = {str(key): float(each) for key, each in metrics.items()}
                    found.append(Figures(str(time), str(of), protocol, verb, int(at), numbers))
    return found
