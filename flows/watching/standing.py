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
    """

    model: str
    version: int
    is_behind: bool
    told: str
    run_id: str
    at: datetime
    figures: dict[str, float]

    def save(self, home: Path) -> None:
        """Write it down in a coordinator's directory, in place of what was found before."""
        make_directory(home / FOLDER, mode=0o700)
        value: dict[str, Any] = {**asdict(self), "at": self.at.isoformat()}
        write_atomic(home / FOLDER / f"{self.model}.json", json.dumps(value, indent=1).encode())

    @classmethod
    def load(cls, home: Path, model: str) -> Standing | None:
        """Return what was found last; None where nobody looked."""
        path = home / FOLDER / f"{model}.json"
        if not path.is_file():
            return None
        value = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**value, "at": datetime.fromisoformat(value["at"])})
