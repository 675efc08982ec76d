"""A run that has lost its quorum waits for its silos, where the job says so, and then goes on.

What is waited for is a whole stage, done again from its last checkpoint: silos that had answered
answer the same bytes and pay nothing twice. Nobody is asked anything while too few are connected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from consilo.errors import QuorumLost, RunFailed
from consilo.record.chain import in_utc

WAITING, WENT_ON = "waiting", "went_on"
"""Kinds of lines of a run record: a run waits from the one to the other."""
LOOK_S = 1.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class Waiting:
    """A run waits, or has just ceased to.

    Args:
        reason: why, in a line.
        missing: silo → why it gave no answer.
        until: when it gives up, in UTC.
        for_s: how long that was from the beginning, in seconds.
        waited_s: how long it has waited, where it goes on; None where it begins to wait.
    """

    reason: str
    missing: Mapping[str, str]
    until: str
    for_s: float
    waited_s: float | None = None

    @property
    def told(self) -> str:
        """The event as people read it."""
        if self.waited_s is not None:
            return f"the silos are back after {_span(self.waited_s)}; the run goes on"
        away = ", ".join(self.missing) or "silos"
        return f"waiting for {away} until {self.until}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return what the record's line says."""
        if self.waited_s is not None:
            return {"waited_s": round(self.waited_s, 1)}
        return {
            "reason": self.reason,
            "missing": dict(self.missing),
            "until": self.until,
            "for_s": self.for_s,
        }


class Patience:
    """Does stages of a run, each again when silos are back that it needs.

    Args:
        for_s: how long silos are waited for, in seconds; None fails at once.
        online: who is connected.
        tell: hears of every `Waiting`.
        clock: seconds, monotonic.
        sleep: waits.
        now: seconds since 1970.
    """

    def __init__(
        self,
        for_s: float | None,
        *,
        online: Callable[[], Sequence[str]],
        tell: Callable[[Waiting], None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.for_s = for_s
        self._online = online
        self._tell = tell
        self._clock = clock
        self._sleep = sleep
        self._now = now
        self._began: float | None = None
        self._end = 0.0

    def go_on(self, entries: Sequence[Mapping[str, Any]]) -> None:
        """Take up where the run's process died while it waited: for what is left of the time.

        Args:
            entries: of the run's record.
        """
        told = [each for each in entries if each["kind"] in (WAITING, WENT_ON)]
        if self.for_s is None or not told or told[-1]["kind"] == WENT_ON:
            return
        until = datetime.fromisoformat(told[-1]["body"]["until"]).timestamp()
        left = min(max(until - self._now(), 0.0), self.for_s)
        self._began = self._clock() - (self.for_s - left)
        self._end = self._clock() + left

    def hold(self, stage: Callable[[], T], again: Callable[[], None] = lambda: None) -> T:
        """Return what a stage returns; where silos lack that may come back, wait and repeat it.

        Args:
            stage: done from its last checkpoint.
            again: called before each repeat.

        Raises:
            RunFailed: of the stage, where waiting would not help.
            QuorumLost: where the time is over.
        """
        pause = _FIRST_PAUSE_S
        is_told = False
        while True:
            try:
                made = stage()
            except RunFailed as lost:
                if self.for_s is None or lost.awaits is None:
                    raise
                if self._began is None:
                    self._began = self._clock()
                    self._end = self._began + self.for_s
                if not is_told and self._clock() < self._end:
                    self._tell(self._event(lost))
                    is_told = True
                self._wait(lost, pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
                again()
                continue
            if self._began is not None:
                waited = self._clock() - self._began
                self._began = None
                self._tell(Waiting("", {}, "", self.for_s or 0.0, waited))
            return made

    def _wait(self, lost: RunFailed, pause: float) -> None:
        """Return after a pause, as soon as those are connected with whom the run can go on."""
        enough = lost.awaits
        tried = self._clock()
        while enough is not None:
            left = self._end - self._clock()
            if left <= 0:
                raise QuorumLost(
                    f"waited {_span(self.for_s or 0.0)} (quorum.for), and too few silos came back: "
                    f"{lost}",
                    missing=lost.missing,
                ) from lost
            here = self._online()  # at each look: it also raises where the run shall stop
            if self._clock() - tried >= pause and enough(here):
                return
            self._sleep(min(LOOK_S, left))

    def _event(self, lost: RunFailed) -> Waiting:
        reason = str(lost).partition("\n")[0]
        until = in_utc(self._now() + self._end - self._clock())
        return Waiting(reason, lost.missing, until, self.for_s or 0.0)


def _span(seconds: float) -> str:
    """Return a time as people say it.

    >>> _span(7200.0), _span(95.0), _span(12.3)
    ('2 h', '1 min 35 s', '12 s')
    """
    whole = round(seconds)
    parts = [(whole // 3600, "h"), (whole % 3600 // 60, "min"), (whole % 60, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n) or "0 s"
