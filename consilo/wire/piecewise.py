"""An array that is made piece by piece, so that whoever keeps it need not hold it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Parts:
    """An array as the rows of its pieces, one after the other.

    Args:
        shape: of the whole.
        dtype: of the whole and of every piece.
        pieces: yields them anew each time it is called.

    >>> np.asarray(Parts((3,), np.dtype("i8"), lambda: iter([np.arange(2), np.arange(1)])))
    array([0, 1, 0])
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Callable[[], Iterator[np.ndarray[Any, Any]]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        """Return the whole array, for whoever wants to hold it after all."""
        whole = np.empty(self.shape, self.dtype)
        at = 0
        for piece in self.pieces():
            whole[at : at + len(piece)] = piece
            at += len(piece)
        return whole if dtype is None else whole.astype(dtype)
