"""What was proposed, voted and decided of models; a chain that has changed is read anew."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consilo.decisions.promotions import Promotions, Proposal, chain_of, models
from consilo.decisions.reviewers import FILE as REVIEWERS
from consilo.decisions.reviewers import Reviewer, Reviewers
from consilo.errors import ConsiloError
from dashboards.reading.records import Mark, mark_of

_AUDIT = "audit.jsonl"
_Marks = tuple[Mark | None, ...]


@dataclass(frozen=True)
class ModelStory:
    """What the chain of one model tells.

    Args:
        name: of the model.
        promotions: the chain; None where it is not as it was written.
        wrong: why so, in words; empty where it is whole.
    """

    name: str
    promotions: Promotions | None
    wrong: str = ""


class Decided:
    """The decisions below a coordinator's directory; usable from several threads.

    Args:
        home: the coordinator's directory.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._lock = threading.Lock()
        self._known: dict[str, tuple[_Marks, ModelStory]] = {}

    def models(self) -> Sequence[ModelStory]:
        """Return every model of which something was proposed, by name."""
        with self._lock:
            found = {name: self._read(name) for name in models(self._home)}
            self._known = found
        return [story for _, story in found.values()]

    def enrolled(self) -> dict[str, Reviewer]:
        """Return who may decide, by name; nobody where that log is not as it was written."""
        try:
            return dict(Reviewers.open(self._home).enrolled)
        except (ConsiloError, OSError):
            return {}

    def of_run(self, run: str) -> Proposal | None:
        """Return the newest proposal of what a run has trained; None where it was not proposed."""
        found = [
            each
            for story in self.models()
            if story.promotions is not None
            for each in story.promotions.proposals
            if each.candidate.run == run
        ]
        return max(found, key=lambda each: each.time, default=None)

    def _read(self, name: str) -> tuple[_Marks, ModelStory]:
        marks = tuple(_mark(self._home / each) for each in (chain_of(name), REVIEWERS, _AUDIT))
        known = self._known.get(name)
        if known is not None and known[0] == marks:
            return known
        try:
            return marks, ModelStory(name, Promotions.open(self._home, name))
        except (ConsiloError, OSError) as cause:
            return marks, ModelStory(name, None, f"{type(cause).__name__}: {cause}")


def _mark(path: Path) -> Mark | None:
    try:
        return mark_of(path)
    except FileNotFoundError:
        return None
