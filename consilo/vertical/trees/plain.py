"""Gradient-boosted trees over the columns of several silos: those of the pooled table.

Two asks per level of a tree. The label silo seals gradients (at a tree's root) and each row's node;
a feature silo finds the best split of each node among its own columns and seals what it is worth
and which rows would go left; the label silo takes the best of all silos and says whose it took. The
model of all rows and those of the cross-validation grow together. Who learns what:

- **Label silo**: for each node, one bit per row and silo (the best split there), without the column
  or the threshold (class ``embedding``).
- **Feature silos**: the gradients, from which the labels can be read off, which rows have none and
  which share a node (class ``label``), and which of their splits were taken.
- **Coordinator**: metrics, numbers of trees, padded sizes of envelopes.

Histograms never leave the silo that made them. With ``histograms: secure`` the feature silos add up
gradients that they cannot read: `consilo.vertical.trees.secure`.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from consilo.config import parse
from consilo.errors import IncompatibleJob, JobInvalid, Refused
from consilo.jobs.holders import Holders
from consilo.jobs.model_job import ModelJob
from consilo.kernel.letters import Envelope
from consilo.kernel.steps import Answers, Step
from consilo.kernel.verbs import Disclosure, numbers, verb
from consilo.kernel.view import Message, SiloView
from consilo.vertical import turns
from consilo.vertical.blocks import Array, Block, block_of
from consilo.vertical.linear.solve import Kind, curvatures
from consilo.vertical.training import REFERENCE, VERTICAL, Turn, VerticalTraining, references
from consilo.vertical.trees.models import Boosting, Choice, TreeModels
from consilo.vertical.trees.splits import WonSplits
from consilo.vertical.trees.trees import Growth, best_splits, coded, edges_of

_NODES, _SPLITS = "nodes", "splits"


class TreeSettings(Holders):
    """``protocol.args`` of vertical_trees; ``protocol.rounds`` is the number of trees."""

    depth: int = Field(4, ge=1, le=6, description="splits from root to leaf at most")
    learning_rate: float = Field(0.1, gt=0)
    l2: float = Field(0.0, ge=0)
    min_rows: int = Field(20, ge=1, description="in each child of a split")
    max_bins: int = Field(64, ge=2, le=255)
    folds: int = Field(5, ge=2, le=20, description="of the cross-validation")
    judged_folds: int | None = Field(
        None,
        ge=1,
        description="how many of the folds are held out in turn, each with three models more; "
        "all of them, or one where histograms are secure",
    )
    histograms: Literal["plain", "secure"] = Field(
        "plain",
        description="secure: feature silos add up encrypted gradients, and cannot read the labels",
    )

    @model_validator(mode="after")
    def _folds_there_are(self) -> Self:
        if self.judged_folds is not None and self.judged_folds > self.folds:
            raise ValueError(
                f"judged_folds: {self.judged_folds} of {self.folds} folds cannot be judged"
            )
        return self


class PlainTrees(VerticalTraining):
    """Boosted trees; a round is a tree.

    The metrics ``joined/roc_auc``, ``label_only/roc_auc`` and ``shuffled/roc_auc``, … are means
    over the folds' held-out rows: with the columns of all silos, with the label silo's, and with
    the others' rows in a wrong order.

    Args:
        job: ``task`` is binary or regression; ``protocol.args`` are those of `TreeSettings`;
            ``protocol.rounds`` is the number of trees.
    """

    reads = (*VERTICAL, "protocol.args")
    label_verbs: ClassVar[tuple[str, ...]] = ("start", "grow", "judge")
    feature_verbs: ClassVar[tuple[str, ...]] = ("split", "keep_part")
    histograms: ClassVar[str] = "plain"
    settings: TreeSettings

    def __init__(self, job: ModelJob) -> None:
        super().__init__(job)
        where = f"{job.name}, protocol.args"
        self.settings = parse(TreeSettings, job.protocol.args, where=where, error=JobInvalid)
        if job.privacy is not None:
            raise IncompatibleJob(
                "vertical_trees adds no noise; take vertical_split for a job with a privacy section"
            )

    @property
    def boosting(self) -> Boosting:
        """How many trees of which kind."""
        settings = self.settings
        all_folds = settings.folds if self.histograms == "plain" else 1
        return Boosting(
            kind=self.kind,
            trees=self.job.protocol.rounds,
            depth=settings.depth,
            learning_rate=settings.learning_rate,
            growth=Growth(settings.l2, settings.min_rows),
            max_bins=settings.max_bins,
            folds=settings.folds,
            judged=settings.judged_folds or all_folds,
            silos=settings.feature_silos,
            seed=self.job.seed,
        )

    @property
    def kind(self) -> Kind:
        """Which loss."""
        return "binary" if self.job.task == "binary" else "regression"

    def begin(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Carry the first tree's gradients to the feature silos."""
        label = self.settings.label_silo
        told: Answers = yield turns.asked((label,), self.settings.members, "start", {})
        return replace(state, letters=turns.sent(told, *self.settings.feature_silos))

    def train_round(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Grow a tree level by level."""
        label, others, everybody = self.settings.parties
        for step in self.steps_of(state.round):
            own = {name: state.to(name) for name in others}
            answers: Answers = yield turns.asked(others, everybody, "split", step, own)
            own = {label: {"envelopes": turns.sent(answers, label)[label]}}
            told = yield turns.asked((label,), everybody, "grow", step, own)
            state = replace(state, letters=turns.sent(told, *others))
        return self.counted(state)

    def finish(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Let the label silo judge, and every silo keep its part."""
        label, others, everybody = self.settings.parties
        step = {"step": state.round * self.settings.depth}
        done: Answers = yield turns.asked((label,), everybody, "judge", step)
        own = {name: state.to(name) for name in others}
        kept: Answers = yield turns.asked(others, everybody, "keep_part", step, own)
        return replace(
            state,
            letters={},
            metrics=dict(done.replies[label].fields.get("metrics", {})),
            references=references(done) | references(kept),
        )

    def steps_of(self, tree: int) -> list[dict[str, int]]:
        """Return the payloads of a tree's levels: a step's number is 1 at the first tree's root."""
        depth = self.settings.depth
        return [{"step": tree * depth + level + 1} for level in range(depth)]

    def place_of(self, step: int) -> tuple[int, int]:
        """Return the tree and the level of a step, both from 0."""
        return divmod(step - 1, self.settings.depth)

    def counted(self, state: Turn) -> Turn:
        """Return the state after another tree."""
        trees = state.round + 1
        is_last = trees == self.job.protocol.rounds
        return replace(state, facts={"trees": float(trees)}, is_trained=is_last)

    def require_kind(self, histograms: str) -> None:
        """Raise `Refused` for a verb that is not this job's."""
        if self.histograms != histograms:
            raise Refused(
                f"the job's histograms are {self.histograms}; this is asked for those that are "
                f"{histograms}",
                code="verb",
            )

    @verb("start", replies={"envelopes": turns.RESIDUALS})
    def start(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: seal the first tree's gradients."""
        self.require_kind("plain")
        block = block_of(silo, self.settings)
        models = TreeModels.begin(self.boosting, block)
        turns.keep(silo, "models", 0, models.to_payload())
        return {"envelopes": self._letters(silo, block, models, 0, {})}

    @verb("split", replies={"envelopes": turns.SCORES})
    def split(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: seal the worth of the best own split of each node, and who goes left."""
        self.require_kind("plain")
        label, step = self.settings.label_silo, int(message.payload["step"])
        tree, level = self.place_of(step)
        block, boosting = block_of(silo, self.settings), self.boosting
        post = turns.Post(silo, block.mark)
        told = post.open(label, _NODES, message.payload["envelopes"][label])
        shape = (boosting.num_shared, len(block))
        turns.require_shape(label, "nodes", told["nodes"], shape)
        if level == 0:
            turns.require_shape(label, "gradients", told["gradients"], shape)
            turns.keep(silo, "gradients", tree, {"gradients": told["gradients"]})
        gradients = turns.kept(silo, "gradients", tree)["gradients"]
        edges = edges_of(block.features, boosting.max_bins)
        codes = coded(block.features, edges)
        every = [
            best_splits(
                codes,
                slope,
                curvatures(self.kind, slope),
                nodes,
                num_nodes=2**level,
                growth=boosting.growth,
            )
            for slope, nodes in zip(gradients, told["nodes"], strict=True)
        ]
        offer = {"columns": every[0].columns, "thresholds": every[0].thresholds(edges)}
        won = self.won_until(silo, step - 1, told)
        turns.keep(silo, "offers", step, {"won": won.to_payload(), **offer})
        lefts = [
            np.packbits(splits.goes_left(codes, nodes))
            for splits, nodes in zip(every, told["nodes"], strict=True)
        ]
        content = {"gains": np.array([splits.gains for splits in every]), "lefts": np.array(lefts)}
        return {"envelopes": {label: post.seal(label, _SPLITS, content)}}

    @verb("grow", replies={"envelopes": turns.RESIDUALS})
    def grow(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: take each node's best split of all silos; seal the rows' new nodes."""
        self.require_kind("plain")
        step = int(message.payload["step"])
        tree, level = self.place_of(step)
        block, boosting = block_of(silo, self.settings), self.boosting
        post = turns.Post(silo, block.mark)
        models = TreeModels.from_payload(boosting, block, turns.kept(silo, "models", step - 1))
        gains: dict[str, Array] = {}
        lefts: dict[str, Array] = {}
        for name in self.settings.feature_silos:
            told = post.open(name, _SPLITS, message.payload["envelopes"][name])
            turns.require_shape(name, "gains", told["gains"], (boosting.num_shared, 2**level))
            width = -(-len(block) // 8)
            turns.require_shape(name, "lefts", told["lefts"], (boosting.num_shared, width))
            gains[name], lefts[name] = told["gains"], told["lefts"]
        choice = models.chosen(level, gains)
        models = models.divided(tree, level, choice, lefts)
        turns.keep(silo, "models", step, models.to_payload())
        return {"envelopes": self._letters(silo, block, models, step, self.taken(choice))}

    @verb(
        "judge",
        replies={"metrics": numbers(Disclosure.METRIC, optional=True, held_out=True), **REFERENCE},
    )
    def judge(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: return the figures of merit on held-out rows; keep the own part."""
        block = block_of(silo, self.settings)
        value = turns.kept(silo, "models", int(message.payload["step"]))
        models = TreeModels.from_payload(self.boosting, block, value)
        return {"metrics": models.metrics(), **self.keep_part(silo, block, models.part())}

    @verb("keep_part", replies=REFERENCE)
    def keep_own_part(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: keep the own splits that were taken; they never leave."""
        block, label = block_of(silo, self.settings), self.settings.label_silo
        told = turns.Post(silo, block.mark).open(label, _NODES, message.payload["envelopes"][label])
        won = self.won_until(silo, int(message.payload["step"]), told)
        return self.keep_part(silo, block, won.to_payload())

    def taken(self, choice: Choice) -> dict[str, dict[str, Any]]:
        """Return what each feature silo is told: which of its splits the kept model took."""
        names = self.settings.feature_silos
        return {name: {"won": choice.won(at)[0]} for at, name in enumerate(names, start=1)}

    def won_until(self, silo: SiloView, step: int, told: Mapping[str, Any]) -> WonSplits:
        """Return a feature silo's splits of the kept model up to a step; the label silo says which.

        Args:
            silo: the feature silo.
            step: the last that was answered; 0 before the first.
            told: what the label silo said after it.
        """
        if step == 0:
            return WonSplits.none()
        tree, level = self.place_of(step)
        before = turns.kept(silo, "offers", step)
        turns.require_shape(self.settings.label_silo, "won", told.get("won"), (2**level,))
        return WonSplits.from_payload(before["won"]).with_level(
            tree, level, before["columns"], before["thresholds"], told["won"]
        )

    def _letters(
        self,
        silo: SiloView,
        block: Block,
        models: TreeModels,
        step: int,
        own: Mapping[str, Mapping[str, Any]],
    ) -> dict[str, Envelope]:
        """Return a letter for each feature silo; gradients go once a tree, and none at the end."""
        post, content = turns.Post(silo, block.mark), {}
        tree, level = self.place_of(step + 1)
        if tree < self.job.protocol.rounds:
            content["nodes"] = models.outward(models.nodes)
            if level == 0:
                content["gradients"] = models.outward(models.gradients())
        return {
            name: post.seal(name, _NODES, content | dict(own.get(name, {})))
            for name in self.settings.feature_silos
        }
