"""A feature silo's splits: those that it offers, and those of the kept model that it won."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from consilo.vertical.blocks import Array


@dataclass(frozen=True)
class WonSplits:
    """The splits that a feature silo keeps, in the order of trees and nodes; they never leave.

    Args:
        nodes: int64, [splits, 2]: tree, and place in it, level by level from the root.
        columns: int64, [splits].
        thresholds: float64, [splits]; rows up to this value go left.
    """

    nodes: Array
    columns: Array
    thresholds: Array

    @classmethod
    def none(cls) -> Self:
        """Return no splits."""
        return cls(np.zeros((0, 2), np.int64), np.zeros(0, np.int64), np.zeros(0))

    def with_level(
        self, tree: int, level: int, columns: Array, thresholds: Array, won: Array
    ) -> WonSplits:
        """Return these and those of a level that were taken.

        Args:
            tree: from 0.
            level: from 0.
            columns: of the offers, [nodes].
            thresholds: of the offers, [nodes].
            won: which were taken, bool, [nodes].
        """
        places = np.flatnonzero(won)
        nodes = np.column_stack([np.full(len(places), tree), 2**level - 1 + places])
        return WonSplits(
            np.concatenate([self.nodes, nodes.astype(np.int64)]),
            np.concatenate([self.columns, columns[places]]),
            np.concatenate([self.thresholds, thresholds[places]]),
        )

    def to_payload(self) -> dict[str, Any]:
        """Return the silo's part of the model, and what is kept between messages."""
        return {"nodes": self.nodes, "columns": self.columns, "thresholds": self.thresholds}

    @classmethod
    def from_payload(cls, value: Mapping[str, Any]) -> Self:
        """Return what `to_payload` wrote."""
        return cls(value["nodes"], value["columns"], value["thresholds"])
