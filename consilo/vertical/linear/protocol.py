"""Vertical logistic and linear regression: equal to the pooled solution, few exchanges.

The label silo and the feature silos take turns (`consilo.vertical.linear.solve` has the
mathematics); everything between them is sealed, the coordinator learns sizes, how many score
columns there are, and the figures of merit. Who learns what:

- **Label silo**: each feature silo's score columns ``X_k q``, one number per matched row and
  direction. After as many directions as the silo has columns, they are its standardised columns up
  to a rotation that it keeps to itself (class ``embedding``). ``args.max_scores`` stops earlier, at
  the price of a model that is only nearly the pooled one.
- **Feature silos**: the residuals of every fold, from which the labels of the matched rows can be
  read off, and which rows have none (class ``label``), and their own part of the model.
- **Coordinator**: metrics, the numbers of score columns, the padded sizes of envelopes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import Field

from consilo.config import parse
from consilo.errors import IncompatibleJob, JobInvalid, PartnerRejected
from consilo.jobs.holders import Holders
from consilo.jobs.model_job import ModelJob
from consilo.kernel import seeds
from consilo.kernel.steps import Answers, Step
from consilo.kernel.verbs import Disclosure, count, envelopes, numbers, verb
from consilo.kernel.view import Message, SiloView
from consilo.vertical import turns
from consilo.vertical.blocks import Array, Block, block_of, folds_of, num_inputs
from consilo.vertical.linear.solve import Kind, directions, figures_of, residuals, solve
from consilo.vertical.training import REFERENCE, VERTICAL, Turn, VerticalTraining, references

_RESIDUALS, _SCORES, _PART = "residuals", "scores", "part"
_SLACK = 1.01
"""Columns are kept in single precision."""


class LinearSettings(Holders):
    """``protocol.args`` of vertical_linear."""

    c: float = Field(1.0, gt=0, description="weight of the loss, scikit-learn's C")
    folds: int = Field(5, ge=2, le=20, description="of the cross-validation")
    tolerance: float = Field(1e-6, gt=0, description="largest step of a coefficient at the end")
    max_scores: int | None = Field(
        None, ge=1, description="score columns that a feature silo gives away at most"
    )


class VerticalLinear(VerticalTraining):
    """Logistic or linear regression over the columns of several silos.

    A round is one turn of the feature silos. The metrics ``joined/roc_auc``, ``label_only/roc_auc``
    and ``shuffled/roc_auc``, … are means over the folds' held-out rows: with the columns of all
    silos, with the label silo's, and with the others' rows in a wrong order. The fact
    ``converged`` is 1 where the model is the pooled one, to the tolerance; ``scores/SILO`` is how
    many score columns left a feature silo.

    Args:
        job: ``task`` is binary or regression; ``protocol.args`` are those of `LinearSettings`;
            ``protocol.rounds`` limits the exchanges.
    """

    runs_job_code = False
    reads = (*VERTICAL, "protocol.args")
    label_verbs: ClassVar[tuple[str, ...]] = ("start", "combine", "judge")
    feature_verbs: ClassVar[tuple[str, ...]] = ("directions", "keep_part")
    settings: LinearSettings

    def __init__(self, job: ModelJob) -> None:
        super().__init__(job)
        where = f"{job.name}, protocol.args"
        self.settings = parse(LinearSettings, job.protocol.args, where=where, error=JobInvalid)
        if job.privacy is not None:
            raise IncompatibleJob(
                "vertical_linear is exact and adds no noise; take vertical_split for a job with a "
                "privacy section"
            )

    @property
    def kind(self) -> Kind:
        """Which loss."""
        return "binary" if self.job.task == "binary" else "regression"

    def begin(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Let the label silo fit its own columns, and carry its residuals down."""
        label = self.settings.label_silo
        told: Answers = yield turns.asked((label,), self.settings.members, "start", {})
        return replace(state, letters=turns.sent(told, *self.settings.feature_silos))

    def train_round(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Carry score columns up and, unless nothing new came, residuals down."""
        label, others, everybody = self.settings.parties
        step = {"step": state.round + 1}
        own = {name: state.to(name) for name in others}
        answers: Answers = yield turns.asked(others, everybody, "directions", step, own)
        new = {name: int(reply.fields["scores"]) for name, reply in answers.replies.items()}
        still_open = sum(int(reply.fields["open"]) for reply in answers.replies.values())
        facts = {f"scores/{n}": state.facts.get(f"scores/{n}", 0) + new[n] for n in others}
        facts["converged"] = float(still_open == 0)
        is_last = not any(new.values()) or step["step"] == self.job.protocol.rounds
        state = replace(state, letters=turns.sent(answers, label), facts=facts, is_trained=is_last)
        if is_last:
            return state
        told = yield turns.asked((label,), everybody, "combine", step, {label: state.to(label)})
        return replace(state, letters=turns.sent(told, *others))

    def finish(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Let the label silo judge, and every silo keep its part."""
        label, others, everybody = self.settings.parties
        step = {"step": state.round}
        done = yield turns.asked((label,), everybody, "judge", step, {label: state.to(label)})
        letters = turns.sent(done, *others)
        kept = yield turns.asked(
            others, everybody, "keep_part", step, {n: {"envelopes": letters[n]} for n in others}
        )
        return replace(
            state,
            letters={},
            metrics=dict(done.replies[label].fields.get("metrics", {})),
            references=references(done) | references(kept),
        )

    @verb("start", replies={"envelopes": turns.RESIDUALS})
    def start(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: fit the own columns alone, seal the residuals for the feature silos."""
        block = block_of(silo, self.settings)
        fits = _Fits.begin(self, block)
        turns.keep(silo, "fits", 0, fits.to_payload())
        return {"envelopes": self._residuals(silo, block, fits)}

    @verb("directions", replies={"envelopes": turns.SCORES, "scores": count(), "open": count()})
    def directions(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: seal score columns in new directions for the label silo."""
        label, step = self.settings.label_silo, int(message.payload["step"])
        block = block_of(silo, self.settings)
        post = turns.Post(silo, block.mark)
        told = post.open(label, _RESIDUALS, message.payload["envelopes"][label])
        width = block.features.shape[1]
        basis = np.zeros((width, 0)) if step == 1 else turns.kept(silo, "basis", step - 1)["basis"]
        models = 1 + 2 * self.settings.folds
        turns.require_shape(label, "residuals", told["residuals"], (models, len(block)))
        turns.require_shape(label, "coordinates", told["coordinates"], (models, basis.shape[1]))
        turns.require_finite(label, "coordinates", told["coordinates"])
        features = np.asarray(block.features, np.float64)
        extended = directions(
            self.kind,
            features,
            told["residuals"],
            told["coordinates"],
            basis,
            c=self.settings.c,
            tolerance=self.settings.tolerance,
            limit=self.settings.max_scores or width,
        )
        turns.keep(silo, "basis", step, {"basis": extended.basis})
        new = extended.basis[:, basis.shape[1] :]
        sealed = post.seal(label, _SCORES, {"scores": features @ new})
        still_open = int(np.sum(extended.steps >= self.settings.tolerance))
        return {"envelopes": {label: sealed}, "scores": extended.num_new, "open": still_open}

    @verb("combine", replies={"envelopes": turns.RESIDUALS})
    def combine(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: minimise over all score columns so far, seal the new residuals."""
        block, fits = self._combined(silo, message)
        turns.keep(silo, "fits", int(message.payload["step"]), fits.to_payload())
        return {"envelopes": self._residuals(silo, block, fits)}

    @verb(
        "judge",
        replies={
            "envelopes": envelopes(Disclosure.UPDATE),
            "metrics": numbers(Disclosure.METRIC, optional=True, held_out=True),
            **REFERENCE,
        },
    )
    def judge(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: seal each feature silo's part of the model, report on held-out rows."""
        block, fits = self._combined(silo, message)
        post = turns.Post(silo, block.mark)
        sealed = {
            name: post.seal(name, _PART, {"coordinates": fits.coordinates(name)[0]})
            for name in self.settings.feature_silos
        }
        width = block.features.shape[1]
        whole = fits.coefficients[0]
        mine = {"weights": whole[:width], "intercept": float(whole[-1])}
        kept = self.keep_part(silo, block, mine)
        return {"envelopes": sealed, "metrics": fits.metrics(), **kept}

    @verb("keep_part", replies=REFERENCE)
    def keep_own_part(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: keep the own part of the model; it never leaves."""
        block = block_of(silo, self.settings)
        basis = turns.kept(silo, "basis", int(message.payload["step"]))["basis"]
        label = self.settings.label_silo
        letter = message.payload["envelopes"][label]
        told = turns.Post(silo, block.mark).open(label, _PART, letter)
        turns.require_shape(label, "coordinates", told["coordinates"], (basis.shape[1],))
        turns.require_finite(label, "coordinates", told["coordinates"])
        return self.keep_part(silo, block, {"weights": basis @ told["coordinates"]})

    def _residuals(self, silo: SiloView, block: Block, fits: _Fits) -> dict[str, Any]:
        post, left = turns.Post(silo, block.mark), fits.residuals()
        return {
            name: post.seal(
                name, _RESIDUALS, {"residuals": left, "coordinates": fits.coordinates(name)}
            )
            for name in self.settings.feature_silos
        }

    def _combined(self, silo: SiloView, message: Message) -> tuple[Block, _Fits]:
        step = int(message.payload["step"])
        block = block_of(silo, self.settings)
        post = turns.Post(silo, block.mark)
        fits = _Fits.from_payload(self, block, turns.kept(silo, "fits", step - 1))
        scores: dict[str, Array] = {}
        for name in self.settings.feature_silos:
            told = post.open(name, _SCORES, message.payload["envelopes"][name])
            turns.require_shape(name, "scores", told["scores"], (len(block), None))
            turns.require_finite(name, "scores", told["scores"])
            so_far = fits.scores[name].shape[1] + told["scores"].shape[1]
            most = num_inputs(silo, self.settings, name)
            if so_far > most:
                raise PartnerRejected(
                    f"silo '{name}' sent {so_far} score columns, of {most} that it can have"
                )
            scores[name] = told["scores"]
            if ModelJob.of(silo.job).features.standardize != "none":
                _require_size(name, np.column_stack([fits.scores[name], scores[name]]), most)
        return block, fits.with_scores(scores)


def _require_size(sender: str, scores: Array, width: int) -> None:
    """Raise `PartnerRejected` where score columns are larger than standardised columns make them.

    A number that is standardised over the rows, or carried to [-1, 1], and a 0 or 1 have a mean
    square of 1 at most. So squares of all columns sum to rows times columns at most, and along
    orthonormal directions to no more than that.

    Args:
        sender: whose.
        scores: all of its score columns so far, [rows, score columns].
        width: how many columns it has.
    """
    with np.errstate(over="ignore"):
        found = float(np.sum(scores**2))
    if found > _SLACK * len(scores) * width:
        raise PartnerRejected(
            f"the score columns of silo '{sender}' are larger than {width} standardised columns "
            "can make them"
        )


@dataclass(frozen=True)
class _Fits:
    """The label silo's models: all rows, then the folds, then the folds with shuffled rows.

    Args:
        protocol: with its settings.
        block: the label silo's columns and labels.
        scores: feature silo → float64, [rows, score columns].
        coefficients: float64, [models, own columns + score columns + 1].
        alone: the same of the folds without any score column, [folds, own columns + 1].
    """

    protocol: VerticalLinear
    block: Block
    scores: Mapping[str, Array]
    coefficients: Array
    alone: Array

    @classmethod
    def begin(cls, protocol: VerticalLinear, block: Block) -> Self:
        """Return the models without any score column."""
        empty = {name: np.zeros((len(block), 0)) for name in protocol.settings.feature_silos}
        start = np.zeros((1 + 2 * protocol.settings.folds, block.features.shape[1] + 1))
        fits = cls(protocol, block, empty, start, start[:0])._solved()
        alone = fits.coefficients[1 : 1 + protocol.settings.folds]
        return cls(protocol, block, empty, fits.coefficients, alone)

    def with_scores(self, new: Mapping[str, Array]) -> _Fits:
        """Return the models solved anew, with further score columns."""
        width = self.block.features.shape[1]
        parts, scores = [self.coefficients[:, :width]], {}
        for name, old in self.scores.items():
            scores[name] = np.column_stack([old, new[name]])
            grown = np.zeros((len(self.coefficients), new[name].shape[1]))
            parts += [self.coordinates(name), grown]
        parts.append(self.coefficients[:, -1:])
        return _Fits(
            self.protocol, self.block, scores, np.concatenate(parts, axis=1), self.alone
        )._solved()

    def coordinates(self, name: str) -> Array:
        """Return every model's coefficients of one silo's score columns, [models, columns]."""
        start = self.block.features.shape[1]
        for each, columns in self.scores.items():
            if each == name:
                return self.coefficients[:, start : start + columns.shape[1]]
            start += columns.shape[1]
        raise KeyError(name)

    def residuals(self) -> Array:
        """Return what the feature silos need: [models, their rows], NaN for a row left out.

        For a shuffled model they are in the order of the rows that it was given, so that a feature
        silo needs not know of it.
        """
        by_model = np.empty((len(self.coefficients), len(self.block)))
        for place, own in enumerate(self.coefficients):
            used, order = self._rows(place)
            left = residuals(self.protocol.kind, self._design(order) @ own, self._labels)
            by_model[place, order] = np.where(used, left, np.nan)
        return by_model

    def metrics(self) -> dict[str, float]:
        """Return each way's figures of merit: means over the folds."""
        folds = self.protocol.settings.folds
        own = np.column_stack([self._own, np.ones(len(self.block))])
        by_way: dict[str, list[dict[str, float]]] = {}
        for fold in range(folds):
            held = self._held(fold)
            if not held.any():
                continue
            for way, place in (("joined", 1 + fold), ("shuffled", 1 + folds + fold)):
                _, order = self._rows(place)
                outputs = self._design(order) @ self.coefficients[place]
                by_way.setdefault(way, []).append(self._figures(outputs, held))
            by_way.setdefault("label_only", []).append(self._figures(own @ self.alone[fold], held))
        return {
            f"{way}/{name}": float(np.mean([each[name] for each in each_fold]))
            for way, each_fold in by_way.items()
            for name in set.intersection(*(set(each) for each in each_fold))
        }

    def to_payload(self) -> dict[str, Any]:
        """Return what is kept between messages."""
        scores = dict(self.scores)
        return {"scores": scores, "coefficients": self.coefficients, "alone": self.alone}

    @classmethod
    def from_payload(cls, protocol: VerticalLinear, block: Block, value: Mapping[str, Any]) -> Self:
        """Return what `to_payload` wrote."""
        names = protocol.settings.feature_silos
        scores = {name: value["scores"][name] for name in names}
        return cls(protocol, block, scores, value["coefficients"], value["alone"])

    def _solved(self) -> _Fits:
        c, kind = self.protocol.settings.c, self.protocol.kind
        solved = np.empty_like(self.coefficients)
        for place, start in enumerate(self.coefficients):
            used, order = self._rows(place)
            design = self._design(order)[used]
            solved[place] = solve(kind, design, self._labels[used], c=c, start=start)
        return _Fits(self.protocol, self.block, self.scores, solved, self.alone)

    def _rows(self, place: int) -> tuple[Array, Array]:
        """Return which rows a model learns from, and the order of the feature silos' rows."""
        size, folds = len(self.block), self.protocol.settings.folds
        order = np.arange(size)
        if place == 0:
            return self.block.labelled, order
        if place > folds:
            order = seeds.generator(self.protocol.job.seed, "shuffled join").permutation(size)
        return self.block.labelled & (folds_of(size, folds) != (place - 1) % folds), order

    def _held(self, fold: int) -> Array:
        """Return which rows judge the models that leave a fold out."""
        folds = folds_of(len(self.block), self.protocol.settings.folds)
        return np.asarray(self.block.labelled & (folds == fold))

    def _design(self, order: Array) -> Array:
        others = [columns[order] for columns in self.scores.values()]
        return np.column_stack([self._own, *others, np.ones(len(self.block))])

    @property
    def _own(self) -> Array:
        return np.asarray(self.block.features, np.float64)

    @property
    def _labels(self) -> Array:
        return np.asarray(self.block.targets, np.float64)

    def _figures(self, outputs: Array, rows: Array) -> dict[str, float]:
        return figures_of(self.protocol.kind, self._labels[rows], outputs[rows])
