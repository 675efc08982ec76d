"""What was found that nobody owned, and what became of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Kind = Literal["run", "flow run", "MLflow run", "pause", "owner", "alias", "decision", "decisions"]


@dataclass(frozen=True)
class Finding:
    """One thing that nobody owned.

    Args:
        kind: what it is.
        name: which one.
        what: what is the matter with it.
        done: what was done about it; empty where nothing was.
        todo: what a person should do; empty where it is settled.
    """

    kind: Kind
    name: str
    what: str
    done: str = ""
    todo: str = ""

    def __str__(self) -> str:
        told = f"{self.kind} {self.name} {self.what}"
        told += f"; {self.done}" if self.done else ""
        return told + (f": {self.todo}" if self.todo else "")

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)
