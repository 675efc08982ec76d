"""What one card is about: a version of a model, with all that is drawn on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from consilo.cards.told import Told


@dataclass(frozen=True)
class Subject:
    """A version of a model.

    Args:
        name: the model's.
        version: counted by the registry; empty of one that was never registered.
        told: the record of the run that made it.
        contract: what its columns mean; None where it is not known.
        files: the model's own files, path → SHA-256.
        decision: what was decided about the version, in plain JSON values; None before.
    """

    name: str
    version: str
    told: Told
    contract: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    decision: Mapping[str, Any] | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name}, version {self.version}" if self.version else self.name

    @property
    def columns(self) -> list[Mapping[str, Any]]:
        """The contract's columns, in its order."""
        found = (self.contract or {}).get("columns") or []
        return list(found.values()) if isinstance(found, Mapping) else list(found)

    @property
    def targets(self) -> list[str]:
        """Names of the columns that it learnt to predict."""
        return [str(each["name"]) for each in self.columns if each.get("role") == "target"]

    @property
    def features(self) -> list[str]:
        """Names of the columns that it sees."""
        return [
            str(each["name"])
            for each in self.columns
            if (each.get("role") or "feature") == "feature"
        ]
