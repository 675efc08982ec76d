"""What a silo says of its columns: what people there have released beforehand, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from consilo.kernel.roles import Role
from consilo.matching.columns.cards import Card


class ReleasedColumns(Protocol):
    """Hands out what was released; no row is read for it."""

    def cards(self) -> Sequence[Card]:
        """Return what the silo has released about its columns."""
        ...

    def histograms(self) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return the noisy histograms of released columns, by the column's key; paid for before."""
        ...


RELEASED: Role[ReleasedColumns] = Role("released")
