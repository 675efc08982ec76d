"""Verdicts that were given in this process, so that the same rows are not judged again.

For silos that are made anew for every run of a notebook: their rows are checked once. A verdict is
kept under the digest of a `silos.rows.rows_key.RowsKey`, which holds the content of the rows, the
contract, the mapping, the consents and, where it counts, the day; so it holds for those only. No
value of a row is kept.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

from consilo.contracts.report import CheckReport

Given = tuple[CheckReport, list[dict[str, Any]] | None]
"""A report and, for a table that was checked in blocks, how each rule was judged."""


class Verdicts:
    """The newest verdicts of a process.

    Args:
        most: how many are kept; the one that was not asked for the longest goes.
    """

    def __init__(self, most: int = 128) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._given: OrderedDict[str, Given] = OrderedDict()

    def of(self, key: str) -> Given | None:
        """Return what was said of the rows of this key; None where nothing was."""
        with self._lock:
            if key in self._given:
                self._given.move_to_end(key)
            return self._given.get(key)

    def add(self, key: str, given: Given) -> None:
        """Keep what was said of the rows of this key."""
        with self._lock:
            self._given[key] = given
            self._given.move_to_end(key)
            while len(self._given) > self._most:
                self._given.popitem(last=False)
