"""What people in a silo have released about its columns, as the silo hands it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from consilo.matching.columns.cards import Card
from silos.kept.histograms import kept_histograms
from silos.kept.metadata import shared_cards


class Released:
    """The role `consilo.matching.columns.roles.ReleasedColumns`.

    Args:
        directory: the silo's.
        statistics_leave: whether the policy lets statistics leave; histograms are such.
    """

    def __init__(self, directory: Path, *, statistics_leave: bool) -> None:
        self._directory = directory
        self._statistics_leave = statistics_leave

    def cards(self) -> Sequence[Card]:
        """Return what people here have released about columns."""
        return shared_cards(self._directory)

    def histograms(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return the noisy histograms of released columns, paid for when they were made."""
        return kept_histograms(self._directory) if self._statistics_leave else {}
