"""Cross-validate gradient-boosted trees over the columns of several silos, as pooled ones.

The trees are those of the pooled table with the same bins. This version judges them; it keeps no
forest for later scoring.

Two asks per level of a tree. The label silo seals gradients (at a tree's root) and each row's node;
a feature silo finds the best split of each node among its own columns and seals what it is worth
and which rows would go left; the label silo takes the best of all silos. All folds of the
cross-validation grow together. Who learns what:

- **Label silo**: for each node, one bit per row and silo (the best split there), without the column
  or the threshold (class ``embedding``).
- **Feature silos**: the gradients, from which the labels can be read off, and which rows share a
  node (class ``label``).
- **Coordinator**: metrics, numbers of trees, padded sizes of envelopes.

Histograms never leave the silo that made them. Sums that stay hidden from the feature silo itself
(encrypted gradients) are not in this version: ``histograms: secure`` is refused.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field

from consilo import seeds
from consilo.config import parse
from consilo.errors import IncompatibleJob, JobInvalid
from consilo.job import Job
from consilo.protocol import Disclosure, Protocol, numbers, verb
from consilo.sealed import Envelope, Mailbox
from consilo.silo import Message, SiloView
from consilo.steps import Answers, Publish, Step
from consilo.vertical import turns
from consilo.vertical.blocks import Array, Block, Holders, block_of, folds_of
from consilo.vertical.linear import Kind, curvatures, figures_of, residuals
from consilo.vertical.trees import Growth, Splits, best_splits, binned, leaf_values

_NODES, _SPLITS = "nodes", "splits"


class TreeSettings(Holders):
    """``protocol.args`` of vertical_trees; ``protocol.rounds`` is the number of trees."""

    depth: int = Field(4, ge=1, le=6, description="splits from root to leaf at most")
    learning_rate: float = Field(0.1, gt=0)
    l2: float = Field(0.0, ge=0)
    min_rows: int = Field(20, ge=1, description="in each child of a split")
    max_bins: int = Field(64, ge=2, le=255)
    folds: int = Field(5, ge=2, le=20, description="of the cross-validation")
    histograms: Literal["plain", "secure"] = "plain"

    @property
    def growth(self) -> Growth:
        """How trees grow."""
        return Growth(self.l2, self.min_rows)


@dataclass(frozen=True)
class Boosted:
    """What the coordinator learns of vertical trees.

    Args:
        metrics: ``joined/roc_auc``, ``label_only/roc_auc``, ``shuffled/roc_auc``, …: means over the
            folds' held-out rows, as `consilo.protocols.vertical_linear.Fitted` has them.
        trees: how many.
    """

    metrics: Mapping[str, float]
    trees: int


class VerticalTrees(Protocol):
    """Boosts trees over the columns of several silos, for each fold of a cross-validation.

    Args:
        job: ``task`` is binary or regression; ``protocol.rounds`` is the number of trees.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        where = f"{job.name}, protocol.args"
        self.settings = parse(TreeSettings, job.protocol.args, where=where, error=JobInvalid)
        if job.task not in ("binary", "regression"):
            raise IncompatibleJob("vertical_trees: task must be binary or regression")
        if job.privacy is not None:
            raise IncompatibleJob(
                "vertical_trees adds no noise; take vertical_split for a job with a privacy section"
            )
        if self.settings.histograms == "secure":
            raise IncompatibleJob(
                "protocol.args.histograms: this version has no sums over encrypted gradients; set "
                "'plain', where the silos' policies let labels go to the feature silos"
            )

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with a job's settings."""
        return cls(job)

    @property
    def kind(self) -> Kind:
        """Which loss."""
        return "binary" if self.job.task == "binary" else "regression"

    def coordinate(self, fed: Any, state: None) -> Generator[Step, Any, Boosted]:
        """Grow the trees level by level; return the figures."""
        holders, everybody = self.settings, self.settings.members
        label, others = holders.label_silo, holders.feature_silos
        inbox = yield from turns.introduced(everybody)
        told: Answers = yield turns.asked(
            (label,), everybody, "start", {}, {label: {"introductions": inbox[label]}}
        )
        levels = self.job.protocol.rounds * self.settings.depth
        for step in range(1, levels + 1):
            own = {
                name: {
                    "introductions": {label: inbox[name][label]},
                    "envelope": turns.letter(told.replies[label], name),
                }
                for name in others
            }
            found: Answers = yield turns.asked(others, everybody, "split", {"step": step}, own)
            letters = {n: turns.letter(reply, label) for n, reply in found.replies.items()}
            told = yield turns.asked(
                (label,),
                everybody,
                "grow",
                {"step": step},
                {label: {"envelopes": letters}},
            )
            if step % self.settings.depth == 0:
                yield Publish("vertical_tree", {"trees": step // self.settings.depth})
        judged: Answers = yield turns.asked((label,), everybody, "judge", {"step": levels})
        yield turns.asked(everybody, everybody, "close", {})
        return Boosted(dict(judged.replies[label].fields["metrics"]), self.job.protocol.rounds)

    @verb("introduce", replies=turns.INTRODUCTIONS)
    def introduce(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's public key for the others."""
        return {"envelopes": Mailbox(silo).introduce(self.settings.members)}

    @verb("start", replies={"envelopes": turns.RESIDUALS})
    def start(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: seal the first tree's gradients."""
        Mailbox(silo).meet(message.payload["introductions"], self.settings.members)
        block = block_of(silo, self.settings)
        forest = _Forest.begin(self, block)
        turns.keep(silo, "forest", 0, forest.to_payload())
        return {"envelopes": self._letters(silo, block, forest, 0)}

    @verb("split", replies={"envelopes": turns.SCORES})
    def split(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: seal the worth of the best own split of each node, and who goes left."""
        label, step = self.settings.label_silo, int(message.payload["step"])
        Mailbox(silo).meet(message.payload["introductions"], (label,))
        block = block_of(silo, self.settings)
        post = turns.Post(silo, block.mark)
        told = post.open(label, _NODES, message.payload["envelope"])
        tree, level = divmod(step - 1, self.settings.depth)
        turns.require_shape(label, "nodes", told["nodes"], (None, len(block)))
        if level == 0:
            turns.require_shape(label, "gradients", told["gradients"], told["nodes"].shape)
            turns.keep(silo, "gradients", tree, {"gradients": told["gradients"]})
        gradients = turns.kept(silo, "gradients", tree)["gradients"]
        codes = binned(block.features, self.settings.max_bins)
        gains, lefts = [], []
        for slope, nodes in zip(gradients, told["nodes"], strict=True):
            found = best_splits(
                codes,
                slope,
                curvatures(self.kind, slope),
                nodes,
                num_nodes=2**level,
                growth=self.settings.growth,
            )
            gains.append(found.gains)
            lefts.append(np.packbits(found.goes_left(codes, nodes)))
        content = {"gains": np.array(gains), "lefts": np.array(lefts)}
        return {"envelopes": {label: post.seal(label, _SPLITS, content)}}

    @verb("grow", replies={"envelopes": turns.RESIDUALS})
    def grow(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: take each node's best split of all silos; seal the rows' new nodes."""
        step = int(message.payload["step"])
        block = block_of(silo, self.settings)
        post = turns.Post(silo, block.mark)
        forest = _Forest.from_payload(self, block, turns.kept(silo, "forest", step - 1))
        level = (step - 1) % self.settings.depth
        models = 2 * self.settings.folds
        offers: dict[str, Mapping[str, Any]] = {}
        for name in self.settings.feature_silos:
            told = post.open(name, _SPLITS, message.payload["envelopes"][name])
            turns.require_shape(name, "gains", told["gains"], (models, 2**level))
            width = -(-len(block) // 8)
            turns.require_shape(name, "lefts", told["lefts"], (models, width))
            offers[name] = told
        forest = forest.grown(level, offers)
        turns.keep(silo, "forest", step, forest.to_payload())
        return {"envelopes": self._letters(silo, block, forest, step)}

    @verb("judge", replies={"metrics": numbers(Disclosure.METRIC)})
    def judge(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: return the figures of merit on held-out rows."""
        block = block_of(silo, self.settings)
        value = turns.kept(silo, "forest", int(message.payload["step"]))
        return {"metrics": _Forest.from_payload(self, block, value).metrics()}

    @verb("close", replies={})
    def close(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Erase the run's relay keys; a step of its own, since it cannot be taken back."""
        Mailbox(silo).close()
        return {}

    def _letters(
        self, silo: SiloView, block: Block, forest: _Forest, step: int
    ) -> dict[str, Envelope]:
        """Return a letter for each feature silo; gradients go once a tree."""
        post, content = turns.Post(silo, block.mark), {"nodes": forest.outward(forest.nodes)}
        if step % self.settings.depth == 0:
            content["gradients"] = forest.outward(forest.gradients())
        return {name: post.seal(name, _NODES, content) for name in self.settings.feature_silos}


@dataclass(frozen=True)
class _Forest:
    """The label silo's models: the folds, then the folds with shuffled rows, then without others.

    Args:
        protocol: with its settings.
        block: the label silo's columns and labels.
        scores: float64, [models, rows]: of the trees that are done.
        nodes: int8, [models, rows]: in the tree that grows; -1 where a node grows no more.
        leaves: int8, [models, rows]: where a row would end if the tree were done.
    """

    protocol: VerticalTrees
    block: Block
    scores: Array
    nodes: Array
    leaves: Array

    @classmethod
    def begin(cls, protocol: VerticalTrees, block: Block) -> Self:
        """Return models of a constant."""
        shape = (3 * protocol.settings.folds, len(block))
        empty = cls(protocol, block, np.zeros(shape), np.zeros(shape, np.int8), np.zeros(shape))
        scores = np.empty(shape)
        for place in range(shape[0]):
            mean = float(empty._labels[empty._used(place)].mean())
            scores[place] = np.log(mean / (1 - mean)) if protocol.kind == "binary" else mean
        return replace(empty, scores=scores, leaves=np.zeros(shape, np.int8))

    def gradients(self) -> Array:
        """Return the loss's derivative by the score, [models, rows]; NaN for a row left out."""
        found = np.empty_like(self.scores)
        for place, scores in enumerate(self.scores):
            slope = -residuals(self.protocol.kind, scores, self._labels)
            found[place] = np.where(self._used(place), slope, np.nan)
        return found

    def outward(self, values: Array) -> Array:
        """Return what the feature silos get of [models, rows]: in the order of their rows."""
        found = np.empty_like(values[: 2 * self._folds])
        for place in range(len(found)):
            found[place, self._order(place)] = values[place]
        return found

    def grown(self, level: int, offers: Mapping[str, Mapping[str, Any]]) -> _Forest:
        """Return the models one level deeper, or with the tree done.

        Args:
            level: of the nodes, from 0.
            offers: feature silo → ``gains`` and ``lefts`` of the models with others' columns.
        """
        settings, codes = self.protocol.settings, self._codes
        gradients, nodes, leaves = self.gradients(), self.nodes.copy(), self.leaves.copy()
        scores, is_last = self.scores.copy(), level + 1 == settings.depth
        for place, slope in enumerate(gradients):
            curve = curvatures(self.protocol.kind, slope)
            mine: Splits = best_splits(
                codes,
                slope,
                curve,
                nodes[place],
                num_nodes=2**level,
                growth=settings.growth,
            )
            gains, left = mine.gains, mine.goes_left(codes, nodes[place])
            at = np.maximum(nodes[place], 0).astype(np.int64)
            for offer in offers.values() if place < 2 * self._folds else ():
                better = offer["gains"][place] > gains
                theirs = np.unpackbits(offer["lefts"][place], count=len(left)).astype(bool)
                left = np.where(better[at], theirs[self._order(place)], left)
                gains = np.where(better, offer["gains"][place], gains)
            splits = (nodes[place] >= 0) & (gains[at] > 0)
            leaves[place] = 2 * leaves[place] + (splits & ~left)
            nodes[place] = np.where(splits, leaves[place], -1)
            if is_last:
                values = leaf_values(
                    slope,
                    curve,
                    leaves[place].astype(np.int64),
                    num_leaves=2**settings.depth,
                    growth=settings.growth,
                )
                scores[place] += settings.learning_rate * values[leaves[place]]
        if is_last:
            nodes, leaves = np.zeros_like(nodes), np.zeros_like(leaves)
        return replace(self, scores=scores, nodes=nodes, leaves=leaves)

    def metrics(self) -> dict[str, float]:
        """Return each way's figures of merit: means over the folds."""
        found = {}
        for start, way in enumerate(("joined", "shuffled", "label_only")):
            places = range(start * self._folds, (start + 1) * self._folds)
            each_fold = [self._figures(place) for place in places]
            for name in set.intersection(*(set(each) for each in each_fold)):
                found[f"{way}/{name}"] = float(np.mean([each[name] for each in each_fold]))
        return found

    def to_payload(self) -> dict[str, Any]:
        """Return what is kept between messages."""
        return {"scores": self.scores, "nodes": self.nodes, "leaves": self.leaves}

    @classmethod
    def from_payload(cls, protocol: VerticalTrees, block: Block, value: Mapping[str, Any]) -> Self:
        """Return what `to_payload` wrote."""
        return cls(protocol, block, value["scores"], value["nodes"], value["leaves"])

    @property
    def _folds(self) -> int:
        return self.protocol.settings.folds

    @property
    def _codes(self) -> Array:
        return binned(self.block.features, self.protocol.settings.max_bins)

    @property
    def _labels(self) -> Array:
        return np.asarray(self.block.targets, np.float64)

    def _used(self, place: int) -> Array:
        return np.asarray(folds_of(len(self.block), self._folds) != place % self._folds)

    def _order(self, place: int) -> Array:
        """Return the feature silos' row for each row of the label silo."""
        size = len(self.block)
        if place // self._folds != 1:
            return np.arange(size)
        return seeds.generator(self.protocol.job.seed, "shuffled join").permutation(size)

    def _figures(self, place: int) -> dict[str, float]:
        held = ~self._used(place)
        return figures_of(self.protocol.kind, self._labels[held], self.scores[place][held])
