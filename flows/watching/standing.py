"""How a job's champion stood when the flow ``monitor`` looked last: ``monitored/JOB.json``."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from consilo.machine.files import make_directory, write_atomic

FOLDER = "monitored"


@dataclass(frozen=True)
class Standing:
    """How a champion stands.

    Args:
        model: the registered model, which is called as its job.
        version: of the champion.
        is_behind: whether it has fallen behind.
        told: how it stands, in a sentence.
        run_id: the run that asked the silos.
        at: when.
        figures: by name.
        previous: version of the champion before it that it is worse than, at enough silos; None
            where it is behind something else, or not behind.
        since: when it was first found behind; None where it is not behind.
    """

    model: str
    version: int
    is_behind: bool
    told: str
    run_id: str
    at: datetime
    figures: dict[str, float]
    previous: int | None = None
    since: datetime | None = None

    def save(self, home: Path) -> None:
        """Write it down in a coordinator's directory, in place of what was found before."""
        make_directory(home / FOLDER, mode=0o700)
        since = None if self.since is None else self.since.isoformat()
        value: dict[str, Any] = {**asdict(self), "at": self.at.isoformat(), "since": since}
        write_atomic(home / FOLDER / f"{self.model}.json", json.dumps(value, indent=1).encode())

    @classmethod
    def load(cls, home: Path, model: str) -> Standing | None:
        """Return what was found last; None where nobody looked."""
        path = home / FOLDER / f"{model}.json"
        if not path.is_file():
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
        dates = {key: datetime.fromisoformat(value[key]) for key in ("at", "since") if value[key]}
        return cls(**{**value, **dates})
