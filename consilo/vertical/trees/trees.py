"""Gradient-boosted trees over binned columns: one level of all nodes, as scikit-learn grows it.

Friedman 2001 with second-order leaf values; histograms as in LightGBM. A split is worth
``GL^2 / (HL + l2) + GR^2 / (HR + l2) - G^2 / (H + l2)``, a leaf ``-G / (H + l2)``, where G and H
sum the rows' gradients and curvatures. Trees grow level by level to a depth, which gives the trees
of `sklearn.ensemble.HistGradientBoostingClassifier` with ``max_leaf_nodes=None``.

Own code, because the libraries do not fit: scikit-learn's grower wants all columns in one place,
and XGBoost's vertical mode brings a network of its own beside the relay.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_LEAST_CURVATURE = 1e-3


@dataclass(frozen=True)
class Growth:
    """How trees grow.

    Args:
        l2: added to a node's curvature.
        min_rows: in each child of a split.
    """

    l2: float
    min_rows: int


def edges_of(features: Array, max_bins: int) -> tuple[Array, ...]:
    """Return each column's upper bin edges, float64, ascending: by value, else by quantile.

    Args:
        features: [rows, columns], no NaN.
        max_bins: 2 to 255.
    """
    by_column = []
    for column in features.T:
        values = np.unique(column)
        if len(values) <= max_bins:
            edges = (values[:-1].astype(np.float64) + values[1:]) / 2
        else:
            shares = np.linspace(0, 100, max_bins + 1)[1:-1]
            edges = np.unique(np.percentile(column, shares, method="averaged_inverted_cdf"))
        by_column.append(edges.astype(np.float64))
    return tuple(by_column)


def coded(features: Array, edges: tuple[Array, ...]) -> Array:
    """Return bin numbers, uint8, [rows, columns]; a value is in bin b or below iff <= edge b."""
    codes = np.empty(features.shape, np.uint8)
    for place, column in enumerate(features.T):
        codes[:, place] = np.searchsorted(edges[place], column, side="left")
    return codes


@dataclass(frozen=True)
class Splits:
    """Each node's best split over some columns.

    Args:
        gains: float64, [nodes]; 0 where no split is worth anything.
        columns: int64, [nodes].
        bins: int64, [nodes]; rows up to this bin go left.
    """

    gains: Array
    columns: Array
    bins: Array

    def goes_left(self, codes: Array, nodes: Array) -> Array:
        """Return which rows go left, bool, [rows]; False for rows in no node."""
        place = np.maximum(nodes, 0).astype(np.int64)
        own = codes[np.arange(len(codes)), self.columns[place]]
        return np.asarray((own <= self.bins[place]) & (nodes >= 0))

    def thresholds(self, edges: tuple[Array, ...]) -> Array:
        """Return the value up to which rows go left, float64, [nodes]; 0 where nothing is split."""
        values = np.zeros(len(self.gains))
        for node in np.flatnonzero(self.gains > 0):
            values[node] = edges[self.columns[node]][self.bins[node]]
        return values


def best_splits(
    codes: Array,
    gradients: Array,
    curvatures: Array,
    nodes: Array,
    *,
    num_nodes: int,
    growth: Growth,
) -> Splits:
    """Return each node's best split.

    Args:
        codes: uint8, [rows, columns].
        gradients: of the loss by the score, float64, [rows]; NaN for a row left out.
        curvatures: float64, [rows].
        nodes: of each row, from 0; -1 for a row whose node grows no more.
        num_nodes: how many there are.
        growth: how trees grow.
    """
    used = np.flatnonzero(np.isfinite(gradients) & (nodes >= 0))
    base = nodes[used].astype(np.int64) * 256
    slope, curve, table = gradients[used], curvatures[used], (num_nodes, 256)
    best = Splits(np.zeros(num_nodes), np.zeros(num_nodes, np.int64), np.zeros(num_nodes, np.int64))
    every = np.arange(num_nodes)
    for column in range(codes.shape[1]):
        keys, size = base + codes[used, column], num_nodes * 256
        sums = [
            np.cumsum(np.bincount(keys, weights, size).reshape(table), axis=1)
            for weights in (slope, curve, None)
        ]
        (g, g_all), (h, h_all), (n, n_all) = ((each, each[:, -1:]) for each in sums)
        fits = (n >= growth.min_rows) & (n_all - n >= growth.min_rows)
        whole = [np.broadcast_to(each, table)[fits] for each in (g_all, h_all)]
        gain = np.zeros(table)
        gain[fits] = gains_of(g[fits], h[fits], *whole, growth=growth)
        at = gain.argmax(axis=1)
        better = gain[every, at] > best.gains
        best.gains[better] = gain[every, at][better]
        best.columns[better], best.bins[better] = column, at[better]
    return best


def gains_of(g: Array, h: Array, g_all: Array, h_all: Array, *, growth: Growth) -> Array:
    """Return what splits are worth; 0 for one that leaves too little curvature on a side.

    Args:
        g: sums of gradients on the left, [splits].
        h: sums of curvatures on the left.
        g_all: sums of gradients in the node.
        h_all: sums of curvatures in the node.
        growth: how trees grow.
    """
    fits = (h >= _LEAST_CURVATURE) & (h_all - h >= _LEAST_CURVATURE)
    sides = [a**2 / np.where(fits, b + growth.l2, 1) for a, b in ((g, h), (g_all - g, h_all - h))]
    whole = g_all**2 / np.maximum(h_all + growth.l2, 1e-300)
    return np.where(fits, sides[0] + sides[1] - whole, 0.0)


def leaf_values(
    gradients: Array, curvatures: Array, leaves: Array, *, num_leaves: int, growth: Growth
) -> Array:
    """Return each leaf's value, float64, [leaves]; 0 for one without rows to learn from."""
    used = np.isfinite(gradients)
    slope = np.bincount(leaves[used], gradients[used], num_leaves)
    curve = np.bincount(leaves[used], curvatures[used], num_leaves)
    return np.where(curve > 0, -slope / np.maximum(curve + growth.l2, 1e-300), 0.0)
