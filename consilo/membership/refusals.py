"""Refusals at the door, written to the audit chain without letting a bad caller fill the disk.

The first refusal of a kind is written at once, in a thread of its own; the same one again within a
minute is only counted, and the count is written when the minute is over.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from consilo.errors import RecordTampered
from consilo.record.chain import Chain

_WINDOW_S = 60.0
_MAX_KINDS = 256


class Refusals:
    """Writes refusals down.

    Args:
        audit: the coordinator's chain.
        clock: seconds.
    """

    def __init__(self, audit: Chain, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._seen: dict[tuple[str, ...], tuple[float, int]] = {}
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="refusals")

    def note(self, *, where: str, reason: str, peer: str, silo: str = "") -> None:
        """Note a refusal; returns at once.

        Args:
            where: which call.
            reason: the sentence that the caller got.
            peer: the caller's address.
            silo: who it said to be, if that was a possible name.
        """
        key = (where, reason, peer, silo)
        if key not in self._seen and len(self._seen) >= _MAX_KINDS:
            key = (where, "many different refusals", "", "")
        if key in self._seen:
            since, count = self._seen[key]
            self._seen[key] = (since, count + 1)
        else:
            self._seen[key] = (self._clock(), 0)
            self._write(key)

    def flush(self, *, all_of_it: bool = False) -> None:
        """Write down the counts of those whose minute is over."""
        now = self._clock()
        for key, (since, count) in list(self._seen.items()):
            if all_of_it or now - since > _WINDOW_S:
                del self._seen[key]
                if count:
                    self._write(key, again=count)

    def close(self) -> None:
        """Write down what is left."""
        self.flush(all_of_it=True)
        self._writer.shutdown()

    def _write(self, key: tuple[str, ...], **more: Any) -> None:
        where, reason, peer, silo = key
        said = {"where": where, "reason": reason, "peer": peer, "silo": silo, **more}

        def append() -> None:
            # A chain that is broken is found by its verification; the door stays shut meanwhile.
            with contextlib.suppress(OSError, RecordTampered):
                self._audit.append("refused", **said)

        self._writer.submit(append)
