"""A log that strangers cannot fill: of lines that are alike, one a minute and a count."""

from __future__ import annotations

import hashlib
import logging
import mmap
import struct
import time
from collections.abc import Callable

_WINDOW_S = 60.0
_KIND = struct.Struct("=16sdq")
"""Digest of a kind, time of its last line, lines left out since."""
_MAX_KINDS = 4096


class OneAMinute(logging.Filter):
    """Lets the first line of a kind pass in each minute; the next one says how many did not.

    Lines are alike that have one level and one text before its values are put in. Processes that
    are forked after this was made count together; where two write at once, a line more may pass.

    Args:
        clock: seconds, of any origin that those processes have in common.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen = mmap.mmap(-1, _MAX_KINDS * _KIND.size)  # shared with what is forked

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line is written; add to it how many were not."""
        said = f"{record.levelno} {str(record.msg)[:200]}".encode(errors="replace")
        kind, now = hashlib.sha256(said).digest()[:16], self._clock()
        # A place has one kind: another one that falls on it takes it.
        at = int.from_bytes(kind[:4], "big") % _MAX_KINDS * _KIND.size
        known, since, left_out = _KIND.unpack_from(self._seen, at)
        if known != kind:
            since, left_out = now - _WINDOW_S, 0
        if now - since < _WINDOW_S:
            _KIND.pack_into(self._seen, at, kind, since, left_out + 1)
            return False
        _KIND.pack_into(self._seen, at, kind, now, 0)
        if left_out:
            record.msg = f"{record.msg} (and {left_out} more like it since the last one)"
        return True
