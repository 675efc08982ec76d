"""What takes longer than a page: one thing at a time, in a thread; pages show how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from threading import Lock, Thread
from typing import Any

from consilo.errors import ConsiloError


@dataclass(frozen=True)
class Done:
    """One piece of work.

    Args:
        kind: ``check`` or ``consents``.
        about: what it is about, in words.
        began: when.
        ended: when; None while it is done.
        fault: why it came to nothing; empty else.
        found: what came of it.
    """

    kind: str
    about: str
    began: datetime
    ended: datetime | None = None
    fault: str = ""
    found: Any = None


class Work:
    """The work of one page's process.

    Args:
        now: the clock, in UTC.
    """

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._done: dict[str, Done] = {}
        self._lock = Lock()

    def last(self, kind: str) -> Done | None:
        """Return the newest piece of a kind, also while it is done."""
        return self._done.get(kind)

    def begin(self, kind: str, about: str, work: Callable[[], Any]) -> bool:
        """Do something in a thread; return False where another thing is being done."""
        with self._lock:
            if any(each.ended is None for each in self._done.values()):
                return False
            begun = Done(kind, about, self._now())
            self._done[kind] = begun
        Thread(target=self._do, args=(begun, work), daemon=True, name=f"page-{kind}").start()
        return True

    def _do(self, begun: Done, work: Callable[[], Any]) -> None:
        found, fault = None, ""
        try:
            found = work()
        except ConsiloError as cause:
            fault = str(cause)
        except BaseException as cause:
            # What a library says may quote a row; it is the operator's own, but pages show none.
            fault = f"it broke off with {type(cause).__name__}; the command says more"
            raise
        finally:
            ended = replace(begun, ended=self._now(), fault=fault, found=found)
            with self._lock:
                self._done[begun.kind] = ended
