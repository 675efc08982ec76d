"""Questions that are under way while a protocol goes on: one thread each, one a silo at most."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class UnderWay(Generic[T]):
    """What silos are computing, and what came back and was not taken yet."""

    def __init__(self) -> None:
        self._out: set[str] = set()
        self._came: queue.SimpleQueue[tuple[str, T | BaseException]] = queue.SimpleQueue()

    def __contains__(self, silo: str) -> bool:
        return silo in self._out

    def begin(self, silo: str, ask: Callable[[], T]) -> None:
        """Ask a silo in a thread of its own, which ends with the answer, or with the transport."""
        self._out.add(silo)

        def work() -> None:
            try:
                self._came.put((silo, ask()))
            except BaseException as cause:  # it is raised where it is waited for
                self._came.put((silo, cause))

        threading.Thread(target=work, name=f"ask-{silo}", daemon=True).start()

    def take(self, seconds: float | None) -> T | None:
        """Return the next answer; None where nothing is under way, or came within ``seconds``.

        Raises whatever asking raised.
        """
        if not self._out:
            return None
        try:
            silo, found = self._came.get(timeout=None if seconds is None else max(0.0, seconds))
        except queue.Empty:
            return None
        self._out.discard(silo)
        if isinstance(found, BaseException):
            raise found
        return found
