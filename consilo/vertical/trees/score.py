"""Score rows with the parts of vertical_trees: which way a row goes at each node, then the leaves.

A feature silo's part knows its splits by tree and node and says one bit per row for each of them,
in that order; the label silo's part knows whose split each node is and walks the trees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from consilo.vertical.blocks import Array
from consilo.vertical.parts import Part
from consilo.vertical.trees.models import LABEL_SILO, NOBODY
from consilo.vertical.turns import require_shape


class TreeScorer:
    """Scores with the parts of vertical_trees.

    Args:
        part: the silo's.
        search_path: not used; trees are no code.
    """

    def __init__(self, part: Part, search_path: Any = ()) -> None:
        self.part = part

    def outward(self, features: Array) -> Mapping[str, Array]:
        """Return ``lefts``: which rows go left at the silo's splits, uint8, [splits, bits]."""
        content = self.part.content
        values = np.asarray(features, np.float64)[:, content["columns"]]
        return {"lefts": np.packbits((values <= content["thresholds"]).T, axis=1)}

    def outputs(self, features: Array, others: Mapping[str, Mapping[str, Array]]) -> Array:
        """Return the sum of the leaves that each row ends in, float64, [rows]."""
        content, values = self.part.content, np.asarray(features, np.float64)
        size, owners = len(values), np.asarray(content["owners"])
        theirs: dict[int, Array] = {LABEL_SILO: np.zeros((0, 0), np.uint8)}
        names = [name for name in self.part.members if name != self.part.label_silo]
        for number, name in enumerate(names, start=1):
            bits = others.get(name, {}).get("lefts")
            require_shape(name, "lefts", bits, (int(np.sum(owners == number)), -(-size // 8)))
            theirs[number] = np.asarray(bits)
        used, scores = dict.fromkeys(theirs, 0), np.full(size, float(content["base"]))
        for tree, each in enumerate(owners):
            lefts = np.ones((len(each), size), bool)  # a node that is not split goes on to the left
            for node in np.flatnonzero(each != NOBODY):
                number = int(each[node])
                if number == LABEL_SILO:
                    column = content["columns"][tree, node]
                    lefts[node] = values[:, column] <= content["thresholds"][tree, node]
                else:
                    lefts[node] = np.unpackbits(theirs[number][used[number]], count=size)
                    used[number] += 1
            scores += content["values"][tree][_leaves(lefts)]
        return scores


def _leaves(lefts: Array) -> Array:
    """Return the leaf that each row ends in, int64, [rows]; of bool, [inner nodes, rows]."""
    leaf, every = np.zeros(lefts.shape[1], np.int64), np.arange(lefts.shape[1])
    for level in range(int(len(lefts) + 1).bit_length() - 1):
        leaf = 2 * leaf + ~lefts[2**level - 1 + leaf, every]
    return leaf
