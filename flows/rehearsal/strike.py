"""One fault in one run: when it strikes, when its cause ends, when the run goes on after it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from flows.rehearsal.acts import NotPossible, Undo, act, nothing
from flows.rehearsal.faults import Fault
from flows.rehearsal.standing import Standing
from flows.services.launch import following

_PROGRESS = ("standardized", "matched", "round", "evaluated", "ending", "closed")
"""Lines of a record that say that a run got further."""


class Strike:
    """A fault on its way.

    Args:
        fault: which.
        there: the federation.
        silo: whom it strikes, where it strikes a silo.
        last: the round after which training is over, in a run without faults.
        scale: by which its duration is multiplied.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        fault: Fault,
        there: Standing,
        silo: str,
        *,
        last: int,
        scale: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fault, self.silo = fault, silo
        self._there = there
        self._last = last
        self._lasts_s = None if fault.lasts is None else fault.lasts * scale
        self._clock = clock
        self._record: Path | None = None
        self._read = 0
        self._undo: Undo | None = None
        self._struck_at: float | None = None
        self._over_at: float | None = None
        self._opened_at: float | None = None
        self.went_on_after_s: float | None = None
        self.not_possible = ""
        self.had_no_effect = ""

    @property
    def where(self) -> str:
        """What it strikes; of a silo its name."""
        return self.silo if self.fault.part == "silo" else self.fault.part

    @property
    def has_struck(self) -> bool:
        """Whether the fault was played."""
        return self._struck_at is not None

    def begin(self) -> None:
        """Strike, where that is to be before the run."""
        if self.fault.when == "before":
            self._strike()

    def follow(self, record: Path) -> None:
        """Say where the run's record will be."""
        self._record = record

    def look(self) -> None:
        """Strike, or end the cause, where it is time for it."""
        if self._record is None:
            return
        entries, self._read = following(self._record, self._read)
        if entries and self._opened_at is None:
            self._opened_at = self._clock()
        rounds = [e["body"]["round"] for e in entries if e["kind"] == "round"]
        if self._struck_at is None:
            wanted = self._last if self.fault.round is None else self.fault.round - 1
            begun = any(e["kind"] in ("standardized", "matched") for e in entries)
            if any(number >= wanted for number in rounds) or (wanted == 0 and begun):
                self._strike()
            return
        self._note_progress(any(each["kind"] in _PROGRESS for each in entries))
        lasts_s = self._lasts_s
        if lasts_s is not None and self._clock() >= self._struck_at + lasts_s:
            self.end()

    def end(self) -> None:
        """End the cause, if it has not ended."""
        undo, self._undo = self._undo, None
        if undo is not None:
            try:
                undo()
            except NotPossible as why:
                self.had_no_effect = str(why)
            self._over_at = self._clock()

    def _strike(self) -> None:
        self._struck_at = self._clock()
        self._there.say(f"{self.fault.name}: {self.fault.what} {self.where}")
        try:
            undo = act(self.fault, self._there, self.silo)
        except NotPossible as why:
            self.not_possible = str(why)
            return
        if undo is nothing:
            self._over_at = self._struck_at
        else:
            self._undo = undo

    def _note_progress(self, is_further: bool) -> None:
        since = self._struck_at if self._lasts_s is None else self._over_at
        if is_further and since is not None and self.went_on_after_s is None:
            begun = self._opened_at or since  # what a run takes to begin is not the fault's
            self.went_on_after_s = self._clock() - max(since, begun)
