"""The label silo's boosted trees: the model of all rows beside those of the cross-validation.

All of them grow together, so that folds cost no exchange. Only the model of all rows is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

from consilo.errors import Refused
from consilo.kernel import seeds
from consilo.vertical.blocks import Array, Block, folds_of
from consilo.vertical.linear.solve import Kind, curvatures, figures_of, residuals
from consilo.vertical.trees.trees import Growth, best_splits, coded, edges_of, leaf_values

NOBODY, LABEL_SILO = -1, 0
"""Who splits a node; the feature silos follow from 1 on, in the order of their names."""


@dataclass(frozen=True)
class Boosting:
    """How many trees of which kind, and what they are judged on.

    Args:
        kind: which loss.
        trees: how many.
        depth: splits from root to leaf at most.
        learning_rate: what a leaf's value is multiplied by.
        growth: how trees grow.
        max_bins: of a column.
        folds: of the cross-validation.
        judged: how many of them are held out in turn; the others are not.
        silos: the feature silos, sorted.
        seed: of the job.
    """

    kind: Kind
    trees: int
    depth: int
    learning_rate: float
    growth: Growth
    max_bins: int
    folds: int
    judged: int
    silos: tuple[str, ...]
    seed: int

    @property
    def num_shared(self) -> int:
        """How many models have columns of the feature silos."""
        return 1 + 2 * self.judged

    @property
    def num_models(self) -> int:
        """How many models there are."""
        return 1 + 3 * self.judged

    @property
    def num_inner(self) -> int:
        """How many nodes of a tree may be split."""
        return int(2**self.depth - 1)


@dataclass(frozen=True)
class Choice:
    """What splits each node of a level.

    Args:
        owners: int8, [models, nodes]: `NOBODY`, `LABEL_SILO`, or a feature silo's number.
        columns: int64, [models, nodes]; of the label silo's best own split.
        bins: int64, [models, nodes]; rows up to this bin go left.
    """

    owners: Array
    columns: Array
    bins: Array

    def won(self, number: int) -> Array:
        """Return at which nodes a feature silo splits, bool, [models, nodes]."""
        return np.asarray(self.owners == number)

    def to_payload(self) -> dict[str, Any]:
        """Return what is kept between messages."""
        return {"owners": self.owners, "columns": self.columns, "bins": self.bins}


@dataclass(frozen=True)
class TreeModels:
    """All rows, then the folds, then the folds with shuffled rows, then without others' columns.

    Args:
        boosting: how they grow.
        block: the label silo's columns and labels.
        base: what the model of all rows says before its first tree.
        scores: float64, [models, rows]: of the trees that are done.
        nodes: int8, [models, rows]: in the tree that grows; -1 where a node grows no more.
        leaves: int8, [models, rows]: where a row would end if the tree were done.
        kept: the trees of all rows: ``owners`` int8, ``columns`` int64 and ``thresholds`` float64,
            [trees, inner nodes], of the label silo's own splits; ``values`` float64, [trees,
            leaves], multiplied by the learning rate.
    """

    boosting: Boosting
    block: Block
    base: float
    scores: Array
    nodes: Array
    leaves: Array
    kept: Mapping[str, Array]

    @classmethod
    def begin(cls, boosting: Boosting, block: Block) -> Self:
        """Return models of a constant.

        Raises:
            Refused: where a model would learn from rows of one class only.
        """
        shape = (boosting.num_models, len(block))
        inner = (boosting.trees, boosting.num_inner)
        kept: dict[str, Array] = {
            "owners": np.full(inner, NOBODY, np.int8),
            "columns": np.zeros(inner, np.int64),
            "thresholds": np.zeros(inner),
            "values": np.zeros((boosting.trees, boosting.num_inner + 1)),
        }
        empty = np.zeros(shape, np.int8)
        models = cls(boosting, block, 0.0, np.zeros(shape), empty, empty, kept)
        scores = np.empty(shape)
        for place in range(shape[0]):
            labels = models._labels[models._used(place)]
            mean = float(labels.mean()) if len(labels) else 0.0
            if boosting.kind == "binary" and not 0 < mean < 1:
                raise Refused(
                    "vertical_trees: rows to learn from have one class only, of all matched rows "
                    "or of those outside a fold; match more rows or set fewer folds",
                    code="labels",
                )
            scores[place] = np.log(mean / (1 - mean)) if boosting.kind == "binary" else mean
        return replace(models, base=float(scores[0, 0]), scores=scores)

    def gradients(self) -> Array:
        """Return the loss's derivative by the score, [models, rows]; NaN for a row left out."""
        slopes = np.empty_like(self.scores)
        for place, scores in enumerate(self.scores):
            slope = -residuals(self.boosting.kind, scores, self._labels)
            slopes[place] = np.where(self._used(place), slope, np.nan)
        return slopes

    def parts(self) -> Array:
        """Return which rows are not held out, labelled or not, bool, [models, rows]."""
        folds, judged = folds_of(len(self.block), self.boosting.folds), self.boosting.judged
        parts = np.ones(self.scores.shape, bool)
        for place in range(1, len(parts)):
            parts[place] = folds != (place - 1) % judged
        return parts

    def outward(self, values: Array) -> Array:
        """Return what the feature silos get of [models, rows]: in the order of their rows."""
        ordered = np.empty_like(values[: self.boosting.num_shared])
        for place in range(len(ordered)):
            ordered[place, self._order(place)] = values[place]
        return ordered

    def chosen(self, level: int, gains: Mapping[str, Array]) -> Choice:
        """Return what splits the nodes of a level best.

        Args:
            level: of the nodes, from 0.
            gains: feature silo → what its best split is worth, float64, [shared models, nodes].
        """
        shape, shared = (self.boosting.num_models, 2**level), self.boosting.num_shared
        best, codes = np.zeros(shape), self._codes
        columns, bins = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        for place, slope in enumerate(self.gradients()):
            mine = best_splits(
                codes,
                slope,
                curvatures(self.boosting.kind, slope),
                self.nodes[place],
                num_nodes=2**level,
                growth=self.boosting.growth,
            )
            best[place], columns[place], bins[place] = mine.gains, mine.columns, mine.bins
        owners = np.where(best > 0, LABEL_SILO, NOBODY).astype(np.int8)
        for number, name in enumerate(self.boosting.silos, start=1):
            better = gains[name] > best[:shared]
            owners[:shared][better] = number
            best[:shared][better] = gains[name][better]
        return Choice(owners, columns, bins)

    def divided(
        self, tree: int, level: int, choice: Choice, lefts: Mapping[str, Array]
    ) -> TreeModels:
        """Return the models one level deeper, or with the tree done.

        Args:
            tree: which grows, from 0.
            level: of the nodes, from 0.
            choice: what splits them.
            lefts: feature silo → which of its rows go left where it splits, uint8, [shared models,
                rows in bits].
        """
        codes, boosting = self._codes, self.boosting
        nodes, leaves, size = self.nodes.copy(), self.leaves.copy(), len(self.block)
        every = np.arange(size)
        for place in range(boosting.num_models):
            at = np.maximum(nodes[place], 0).astype(np.int64)
            owners = choice.owners[place][at]
            left = codes[every, choice.columns[place][at]] <= choice.bins[place][at]
            if place < boosting.num_shared:
                for number, name in enumerate(boosting.silos, start=1):
                    theirs = np.unpackbits(lefts[name][place], count=size).astype(bool)
                    left = np.where(owners == number, theirs[self._order(place)], left)
            splits = (nodes[place] >= 0) & (owners != NOBODY)
            leaves[place] = 2 * leaves[place] + (splits & ~left)
            nodes[place] = np.where(splits, leaves[place], -1)
        grown = replace(self, nodes=nodes, leaves=leaves, kept=self._noted(tree, level, choice))
        return grown if level + 1 < boosting.depth else grown._with_tree(tree)

    def metrics(self) -> dict[str, float]:
        """Return each way's figures of merit: means over the folds that were held out."""
        means, judged = {}, self.boosting.judged
        for number, way in enumerate(("joined", "shuffled", "label_only")):
            places = range(1 + number * judged, 1 + (number + 1) * judged)
            each_fold = [self._figures(place) for place in places if self._held(place).any()]
            if not each_fold:
                continue
            for name in set.intersection(*(set(each) for each in each_fold)):
                means[f"{way}/{name}"] = float(np.mean([each[name] for each in each_fold]))
        return means

    def part(self) -> dict[str, Any]:
        """Return what the label silo keeps of the model of all rows."""
        return {"base": self.base, **self.kept}

    def to_payload(self) -> dict[str, Any]:
        """Return what is kept between messages."""
        return {
            "base": self.base,
            "scores": self.scores,
            "nodes": self.nodes,
            "leaves": self.leaves,
            "kept": dict(self.kept),
        }

    @classmethod
    def from_payload(cls, boosting: Boosting, block: Block, value: Mapping[str, Any]) -> Self:
        """Return what `to_payload` wrote."""
        return cls(boosting=boosting, block=block, **value)

    def _noted(self, tree: int, level: int, choice: Choice) -> dict[str, Array]:
        """Return the kept trees with the splits of a level; nothing else of others is known."""
        kept = {name: np.array(each) for name, each in self.kept.items()}
        here = slice(2**level - 1, 2 ** (level + 1) - 1)
        kept["owners"][tree, here] = choice.owners[0]
        edges = edges_of(self.block.features, self.boosting.max_bins)
        for node in np.flatnonzero(choice.owners[0] == LABEL_SILO):
            column, place = choice.columns[0, node], here.start + node
            kept["columns"][tree, place] = column
            kept["thresholds"][tree, place] = edges[column][choice.bins[0, node]]
        return kept

    def _with_tree(self, tree: int) -> TreeModels:
        scores, kept = self.scores.copy(), {name: np.array(v) for name, v in self.kept.items()}
        for place, slope in enumerate(self.gradients()):
            values = self.boosting.learning_rate * leaf_values(
                slope,
                curvatures(self.boosting.kind, slope),
                self.leaves[place].astype(np.int64),
                num_leaves=2**self.boosting.depth,
                growth=self.boosting.growth,
            )
            scores[place] += values[self.leaves[place]]
            if place == 0:
                kept["values"][tree] = values
        empty = np.zeros_like(self.nodes)
        return replace(self, scores=scores, nodes=empty, leaves=empty, kept=kept)

    @property
    def _codes(self) -> Array:
        features = self.block.features
        return coded(features, edges_of(features, self.boosting.max_bins))

    @property
    def _labels(self) -> Array:
        return np.asarray(self.block.targets, np.float64)

    def _used(self, place: int) -> Array:
        return np.asarray(self.parts()[place] & self.block.labelled)

    def _held(self, place: int) -> Array:
        return np.asarray(~self.parts()[place] & self.block.labelled)

    def _order(self, place: int) -> Array:
        """Return the feature silos' row for each row of the label silo."""
        size, judged = len(self.block), self.boosting.judged
        if not judged < place <= 2 * judged:
            return np.arange(size)
        return seeds.generator(self.boosting.seed, "shuffled join").permutation(size)

    def _figures(self, place: int) -> dict[str, float]:
        held = self._held(place)
        return figures_of(self.boosting.kind, self._labels[held], self.scores[place][held])
