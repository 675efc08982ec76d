"""A log that strangers cannot fill: of lines that are alike, one a minute and a count."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_WINDOW_S = 60.0
_MAX_KINDS = 256


class OneAMinute(logging.Filter):
    """Lets the first line of a kind pass in each minute; the next one says how many did not.

    Lines are alike that have one level and one text before its values are put in.

    Args:
        clock: seconds, of any origin.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[int, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written; add to it how many were not."""
        kind, now = (record.levelno, str(record.msg)[:200]), self._clock()
        since, left_out = self._seen.get(kind, (now - _WINDOW_S, 0))
        if now - since < _WINDOW_S:
            self._seen[kind] = (since, left_out + 1)
            return False
        if len(self._seen) >= _MAX_KINDS:
            self._seen.clear()
        self._seen[kind] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} (and {left_out} more like it since the last one)"
        return True
