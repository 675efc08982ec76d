"""The order in which answers came where rounds do not wait for all, kept in another run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_MOST_S = 300.0
"""For so long an answer waits for its turn: for others to be computed."""
_LOOK_S = 0.005


@dataclass(frozen=True)
class Round:
    """What came in one round.

    Args:
        answers: silo and the round that it was asked in, in the order of arrival; those that came
            too late to be used are before the last that was used.
        failed: who was to answer, and did not.
        late: whose answers were still to come when the round ended.
    """

    answers: tuple[tuple[str, int], ...]
    failed: frozenset[str]
    late: frozenset[str]

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Round:
        """Return what a line ``round`` of a run record says."""
        number = int(told["round"])
        stale = [(n, number - int(each["late"])) for n, each in told.get("stale", {}).items()]
        used = [(str(name), int(asked)) for name, asked in told["arrivals"]]
        came = (*sorted(stale), *used)
        names = {name for name, _ in came}
        return cls(came, frozenset(told["faults"]) - names, frozenset(told.get("late", ())))

    @property
    def asked(self) -> frozenset[str]:
        """Who was asked in it or before, and had not answered when it began."""
        return frozenset(name for name, _ in self.answers) | self.late


class Order:
    """Lets answers out one after the other, each in its round and when it is its turn.

    Args:
        rounds: number → what came in it.
        now: the round that is under way.
    """

    def __init__(self, rounds: Mapping[int, Round], now: Callable[[], int]) -> None:
        self._rounds = dict(rounds)
        self._now = now
        self._turns = [
            (number, name, asked)
            for number, each in sorted(rounds.items())
            for name, asked in each.answers
        ]
        self._next = 0
        self._last: threading.Thread | None = None

    @property
    def here(self) -> frozenset[str] | None:
        """Who can be asked in the round that is under way; None where that has no order."""
        found = self._rounds.get(self._now())
        return None if found is None else found.asked

    @contextmanager
    def turn(self, silo: str, asked: int) -> Iterator[bool]:
        """Hold the turn of one answer for the block; yield whether it is one that came.

        To be called in a thread of its own, which hands the answer on and ends.

        Args:
            silo: whose answer.
            asked: the round of its question.

        Raises:
            TimeoutError: where it is not its turn within five minutes.
        """
        places = [at for at, (_, *each) in enumerate(self._turns) if each == [silo, asked]]
        if not places:
            yield False
            return
        (place,) = places
        number, deadline = self._turns[place][0], time.monotonic() + _MOST_S
        while self._next != place or self._now() < number:
            if time.monotonic() > deadline:
                raise TimeoutError(f"the answer of {silo} to round {asked} never has its turn")
            time.sleep(_LOOK_S)
        if self._last is not None:
            self._last.join(_MOST_S)  # now the answer before has been handed on
        yield True
        self._last, self._next = threading.current_thread(), place + 1
