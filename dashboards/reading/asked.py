"""A question to a server, whose last answer is kept with its time, so that no page waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Told(Generic[T]):
    """What is known of an answer.

    Args:
        value: the last answer; None where there was none yet.
        at: when it came, in seconds since 1970; 0 where there was none yet.
        error: why the newest question has no answer; empty where it has.
        asked: when that question was put; 0 where none was.
    """

    value: T | None = None
    at: float = 0.0
    error: str = ""
    asked: float = 0.0

    @property
    def is_known(self) -> bool:
        """Whether there is an answer, however old."""
        return self.at > 0


class Asked(Generic[T]):
    """One question; asked again when somebody wants to know and the answer is old.

    Nobody asks while nobody looks, and two who look at the same time share one question.

    Args:
        question: asks; raises `OSError` or what a server's client raises where it is away.
        fresh_s: for how long an answer is not asked for again, in seconds.
        pool: runs questions.
        now: seconds since 1970.
    """

    def __init__(
        self,
        question: Callable[[], T],
        *,
        fresh_s: float,
        pool: ThreadPoolExecutor,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._question = question
        self._fresh_s = fresh_s
        self._pool = pool
        self._now = now
        self._lock = threading.Lock()
        self._told: Told[T] = Told()
        self._under_way: Future[None] | None = None

    @property
    def told(self) -> Told[T]:
        """What is known, without a question."""
        return self._told

    def begin(self) -> Future[None] | None:
        """Put the question if the answer is old; return what is under way, if anything is."""
        with self._lock:
            if self._under_way is not None and not self._under_way.done():
                return self._under_way
            if self._now() - self._told.asked < self._fresh_s:
                return None
            self._under_way = self._pool.submit(self._ask)
            return self._under_way

    def _ask(self) -> None:
        asked = self._now()
        try:
            value = self._question()
        except Exception as cause:  # whatever a client raises: the page says it, and goes on
            self._told = Told(self._told.value, self._told.at, _words(cause), asked)
        else:
            self._told = Told(value, self._now(), "", asked)


def freshen(questions: Sequence[Asked[Any]], *, wait_s: float) -> None:
    """Put every question whose answer is old, side by side, and wait a little for the answers.

    Args:
        questions: which.
        wait_s: for all of them together, in seconds; what comes later is there for the next look.
    """
    under_way = [each for one in questions if (each := one.begin()) is not None]
    if under_way and wait_s > 0:
        wait(under_way, timeout=wait_s)


def _words(cause: BaseException) -> str:
    first = (str(cause).splitlines() or [""])[0][:200]
    return f"{type(cause).__name__}: {first}" if first else type(cause).__name__
