"""What every horizontal training protocol shares: the state, the round's message, the silo half.

One exchange a round: the message carries the new global parameters; the silo first evaluates them
on its held-out rows, then trains from them, and its reply carries both.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from consilo import metrics as figures
from consilo.errors import Refused
from consilo.horizontal.dataset import Rows
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.learning import learner_apart, learner_of, plan_of, private_fit
from consilo.horizontal.scaling import scaled_rows
from consilo.horizontal.tally import tally
from consilo.jobs.cohort import By
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Checkpoint, Publish, Reply, Step
from consilo.kernel.verbs import Disclosure, FromRows, count, number, numbers, tensors, verb
from consilo.kernel.view import Message, SiloView
from consilo.learners.threads import computing
from consilo.learners.torch_learner import FitHook, TorchLearner
from consilo.reduce import Reduce, Reduced
from consilo.reduce.arriving import Arriving
from consilo.reduce.draw import Draw, Kept, after, begin, draw
from consilo.reduce.drawn_mean import DrawnMean
from consilo.reduce.mean import WeightedMean, finish, fold
from consilo.wire.params import Params, check_finite, num_bytes, select, subtract


@dataclass(frozen=True)
class TrainState:
    """Where training stands after ``round`` rounds; `consilo.wire.payload` round-trips it exactly.

    Args:
        params: the global model's trained parameters.
        rounds: how many there will be.
        round: how many are done.
        server: the server optimiser's state, arrays by name.
        scale: the inputs' global standardisation; None where each silo uses its own.
        buffers: what the global model has beside its parameters, such as a BatchNorm's running
            mean: averaged, never optimised. Empty in a private job, whose buffers do not change.
        target: what standardises a regression's target; None where it is learnt as it is.
        pending: the questions that are under way after ``round`` rounds; empty where a round ends
            with all of its answers.
        cohort: what the next draw depends on, where rounds are asked of silos that are drawn.
    """

    params: Params
    rounds: int
    round: int = 0
    server: Mapping[str, Any] = field(default_factory=dict)
    scale: Scale | None = None
    buffers: Params = field(default_factory=dict)
    target: Scale | None = None
    pending: Mapping[str, Any] = field(default_factory=dict)
    cohort: Kept = field(default_factory=dict)

    def to_payload(self) -> dict[str, Any]:
        """Return the state as values that `consilo.wire.payload.pack` takes."""
        state = {
            "params": self.params,
            "order": list(self.params),
            "rounds": self.rounds,
            "round": self.round,
            "server": dict(self.server),
            "scale": None if self.scale is None else self.scale.to_payload(),
        }
        state |= {"buffers": self.buffers} if self.buffers else {}
        state |= {"pending": dict(self.pending)} if self.pending else {}
        state |= {"cohort": dict(self.cohort)} if self.cohort else {}
        return state if self.target is None else {**state, "target": self.target.to_payload()}

    @classmethod
    def from_payload(cls, value: Mapping[str, Any]) -> Self:
        """Return the state that `to_payload` wrote."""
        return cls(
            params={name: value["params"][name] for name in value["order"]},
            rounds=value["rounds"],
            round=value["round"],
            server=value["server"],
            scale=None if value["scale"] is None else Scale.from_payload(value["scale"]),
            buffers=dict(value.get("buffers", {})),
            target=Scale.from_payload(value["target"]) if "target" in value else None,
            pending=value.get("pending", {}),
            cohort=value.get("cohort", {}),
        )


TRAIN_REPLIES = {
    "delta": tensors(Disclosure.UPDATE, like="params", rows=FromRows.TRAINING),
    "buffers": tensors(Disclosure.UPDATE, like="buffers", rows=FromRows.TRAINING, where_asked=True),
    "num_examples": count(Disclosure.STATISTIC, rows=FromRows.NONE),
    "loss": number(Disclosure.METRIC, optional=True),
    "metrics": numbers(Disclosure.METRIC, optional=True, held_out=True),
    "tally": tally(),
    "epsilon": number(Disclosure.STATISTIC, optional=True, rows=FromRows.NONE),
    "epsilon_bound": number(Disclosure.STATISTIC, optional=True, rows=FromRows.NONE),
}
"""What a silo answers to ``train``; ``delta`` and ``buffers`` are ``server - silo``.

The number of rows is public, or of subjects where the job hides those. A private job's rounds carry
no buffers, and no figures of merit: those of its finished model are paid for once
(`consilo.horizontal.evaluation`).
"""


LATE_ROUNDS = 5
"""With ``quorum.late: next_round``, an answer that is late by more rounds is not used."""

TRAINING = (
    "model*",
    "loss",
    "metrics",
    "outputs",
    "promotion",
    "compare",
    "task",
    "features*",
    "evaluation*",
    "local*",
    "reduce*",
    "protocol.rounds",
    "continues*",
    "cohort",
)
"""What training over silos with the same columns reads of a job, whatever the algorithm."""


class Training(Protocol[TrainState]):
    """Base of the protocols that combine what silos learn; subclasses say what the server does.

    A subclass that needs one vector, the update, defines `step`. One that sends more down overrides
    `request`; one that gets more up lists the fields in `vectors`, declares them with its own verb
    ``train``, and defines `combine`.

    Args:
        job: what is trained, with the protocol's settings.
    """

    vectors: ClassVar[Mapping[str, str | None]] = {"delta": "num_examples"}
    """Reply field → the field that weighs it; None where every silo counts alike."""
    asks_apart = True
    reduces: ClassVar[bool] = True
    """False where the protocol combines the vectors itself, so that no rule of a job applies."""
    cohorts: ClassVar[tuple[By, ...]] = ("uniform", "rows", "availability", "poisson")
    """By which draws of a round's silos `combine` is right; one of your own counts for two only."""
    search_path: tuple[Path, ...] = ()
    """Where the job's own modules lie at the coordinator, who sets it."""

    def __init__(self, job: ModelJob) -> None:
        self.job = job
        self.reduce: Reduce = WeightedMean()

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with a job's settings."""
        return cls(ModelJob.of(job))

    def begin(self, params: Params) -> Mapping[str, Any]:
        """Return the server's state before the first round."""
        return {}

    def request(self, state: TrainState) -> dict[str, Any]:
        """Return what every silo is sent in a round."""
        return request(state)

    def step(self, state: TrainState, mean_delta: Params) -> TrainState:
        """Return the state after a round whose mean pseudo-gradient is ``mean_delta``."""
        raise NotImplementedError

    def combine(self, fed: Federation, state: TrainState, reduced: Reduced) -> TrainState:
        """Return the state after a round, from all that came back."""
        return self.step(state, reduced.means["delta"])

    def hooks(self) -> Sequence[FitHook]:
        """Return what the protocol adds to the silos' training."""
        return ()

    def sends(self, state: TrainState) -> Mapping[str, Mapping[str, Any]]:
        """Return a round's payload: that of ``train``."""
        return {"train": self.request(state)}

    def coordinate(self, fed: Federation, state: TrainState) -> Generator[Step, Any, TrainState]:
        """Combine what the silos learn, round by round."""
        while state.round < state.rounds:
            vectors = dict(self.vectors)
            if state.buffers:
                vectors["buffers"] = vectors.get("delta", "num_examples")
            drawn = draw_of(self.job, state, fed)
            fed.drawn = None if drawn is None else frozenset(drawn.names)
            reduced = yield from self._round(fed, state, vectors, drawn)
            buffers = less(state.buffers, reduced.means["buffers"]) if state.buffers else {}
            with computing(self.job.local.threads):
                state = self.combine(fed, state, reduced)
            kept = state.cohort if drawn is None else self._kept(fed, state, drawn, reduced)
            done = state.round + 1
            state = replace(
                state, buffers=buffers, round=done, pending=reduced.pending, cohort=kept
            )
            check_finite(
                {**state.params, **buffers}, where=f"global model after round {state.round}"
            )
            yield Publish("round", {**report(state, reduced.replies), **reduced.told})
            del reduced, drawn  # its mean is a model
            yield Checkpoint(state)
        return state

    def arriving(self) -> Arriving | None:
        """Return how answers are taken as they come; None where a round waits for its own."""
        late = self.job.quorum.late == "next_round"
        return Arriving(enough=None, max_staleness=LATE_ROUNDS) if late else None

    def _round(
        self,
        fed: Federation,
        state: TrainState,
        vectors: Mapping[str, str | None],
        drawn: Draw | None,
    ) -> Generator[Step, Any, Reduced]:
        """Ask for a round's vectors and combine them."""
        if drawn is not None:
            by_mean = isinstance(self.reduce, WeightedMean)
            rule = DrawnMean(drawn, convex=("buffers",)) if by_mean else self.reduce
            reduced = yield from rule(
                fed.cohort(),
                "train",
                self.request(state),
                vectors=vectors,
                quorum=fed.job.cohort_quorum,
            )
            cohort = {"drawn": list(drawn.names), "of": len(drawn.rows), **reduced.told}
            cohort |= {"done": list(drawn.done)} if drawn.done else {}
            return replace(reduced, told={"cohort": cohort})
        arriving = self.arriving()
        if arriving is None:
            return (
                yield from self.reduce(
                    fed.cohort(),
                    "train",
                    self.request(state),
                    vectors=vectors,
                    quorum=fed.job.cohort_quorum,
                )
            )
        return (
            yield from arriving(
                fed,
                "train",
                self.request(state),
                round=state.round + 1,
                rounds=state.rounds,
                pending=state.pending,
                vectors=vectors,
            )
        )

    def _kept(self, fed: Federation, state: TrainState, drawn: Draw, reduced: Reduced) -> Kept:
        """Return what the next draw depends on."""
        assert self.job.draws is not None
        before = _drawn_before(state, fed)
        return after(self.job.draws, before, drawn, answered=set(reduced.replies), gone=fed.said_no)

    @verb("train", replies=TRAIN_REPLIES)
    def train(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Evaluate the global model on the silo's held-out rows, then train it on the others."""
        return train_locally(silo, message, self.hooks())


def draw_of(job: ModelJob, state: TrainState, fed: Federation) -> Draw | None:
    """Return who is asked in the round after a state; None where a job asks all.

    Args:
        job: with its seed and the section ``cohort``.
        state: where the training stands.
        fed: before the first round: who may take part, and their rows.
    """
    if job.draws is None:
        return None
    return draw(
        job.draws,
        _drawn_before(state, fed),
        round=state.round + 1,
        seed=job.seed,
        always=job.quorum.mandatory,
        least=job.quorum.min_silos,
    )


def _drawn_before(state: TrainState, fed: Federation) -> Kept:
    """Return what draws depend on: who told their rows before the first round is who is drawn."""
    if state.cohort:
        return state.cohort
    return begin({n: fed.num_examples[n] for n in fed.silos if n in fed.num_examples})


def request(state: TrainState) -> dict[str, Any]:
    """Return what a silo needs of a model: parameters, scales of inputs and target, buffers."""
    scale = None if state.scale is None else state.scale.to_payload()
    asked = {"params": state.params, "scale": scale}
    asked |= {"buffers": state.buffers} if state.buffers else {}
    return asked if state.target is None else {**asked, "target": state.target.to_payload()}


def less(buffers: Params, mean_delta: Params) -> Params:
    """Return buffers less their mean delta; whole numbers, as counts of batches, stay whole."""
    whole = [name for name, value in buffers.items() if value.dtype.kind != "f"]
    return subtract(buffers, {**mean_delta, **{name: np.rint(mean_delta[name]) for name in whole}})


def mean_buffers(state: TrainState, replies: Mapping[str, Reply]) -> Params:
    """Return the silos' mean of a model's buffers, weighted by rows; no optimiser sees them.

    `Training` averages them by itself; this is for a `coordinate` of one's own.

    Args:
        state: what the silos were sent.
        replies: silo → its answer to ``train``.
    """
    total, mass = None, 0
    for reply in replies.values() if state.buffers else ():
        total = fold(total, reply.fields["buffers"], reply.fields["num_examples"])
        mass += reply.fields["num_examples"]
    return state.buffers if total is None or not mass else less(state.buffers, finish(total, mass))


def train_locally(
    silo: SiloView, message: Message, hooks: Sequence[FitHook] = ()
) -> dict[str, Any]:
    """Return a round's reply fields: `TRAIN_REPLIES`.

    Args:
        silo: where.
        message: its payload is that of `request`.
        hooks: what the protocol adds to the training.
    """
    learner, rows = loaded(silo, message.payload)
    silo.require_floor(Disclosure.UPDATE, _num_used(silo, rows))
    figures_here: Mapping[str, Any] = {}
    if silo.job.privacy is None:
        figures_here = judged(silo, learner, rows, curves=False)
    buffers = tuple(message.payload.get("buffers", ()))
    if buffers and silo.job.privacy is not None:
        raise Refused("the buffers of a private job's model do not change", code="privacy")
    names = (*message.payload["params"], *buffers)
    before = select(learner.parameters(), names)
    extra: dict[str, float] = {}
    if silo.job.privacy is None:
        plan, rng = plan_of(silo.job), silo.rng("batches")
        fitted = learner.fit(rows.train, plan, rng=rng, hooks=hooks)
    else:
        fitted, spent = private_fit(
            silo,
            learner,
            rows.train,
            fingerprint=rows.fingerprint,
            hooks=hooks,
            subjects=rows.train_subjects,
        )
        extra.update(spent)
    if fitted.mean_loss is not None:
        extra["loss"] = fitted.mean_loss
    moved = subtract(before, select(learner.parameters(), names))
    check_finite(moved, where=f"round {message.round}")
    return {
        "delta": select(moved, tuple(message.payload["params"])),
        **({"buffers": select(moved, buffers)} if buffers else {}),
        "num_examples": rows.num_train,
        **figures_here,
        **extra,
    }


def _num_used(silo: SiloView, rows: Rows) -> int:
    """Return of how many rows, or subjects, an update is made at most: those of the round's steps.

    Where the silo wants privacy any may be in any step, and noise hides which. Where it does not,
    nobody bounds how much noise there is.
    """
    plan = plan_of(silo.job)
    if silo.permitted.wants_privacy or plan.steps is None:
        return rows.num_train
    return min(rows.num_train, plan.steps * plan.batch_size)


def judged(
    silo: SiloView, learner: TorchLearner, rows: Rows, *, curves: bool = True
) -> dict[str, Any]:
    """Return the exact figures of a model on held-out rows: ``metrics`` and ``tally``.

    Empty where the silo's policy keeps them back, or wants them made of more rows than there are.
    """
    wanted = [name for name in ("metrics", "tally") if silo.admits(name)]
    if not wanted or not silo.has_floor(Disclosure.METRIC, len(rows.test)):
        return {}
    measured, sums = learner.evaluate(rows.test, curves=curves)
    found = {"metrics": measured, "tally": as_arrays(sums)}
    return {name: found[name] for name in wanted}


def loaded(silo: SiloView, payload: Mapping[str, Any]) -> tuple[TorchLearner, Rows]:
    """Return the learner with the payload's parameters, and the silo's rows."""
    scale = None if payload["scale"] is None else Scale.from_payload(payload["scale"])
    encoding = Encoding.plan(silo.contract, silo.job)
    target = Scale.from_payload(payload["target"]) if "target" in payload else None
    params = {**payload["params"], **payload.get("buffers", {})}
    learner: TorchLearner
    if silo.apart is not None:
        learner = learner_apart(silo.job, encoding, silo.apart, params, target)
    else:
        learner = learner_of(silo.job, encoding, silo.search_path, target)
        learner.load(params)
    return learner, scaled_rows(silo, encoding, scale)


def as_arrays(tally: Mapping[str, Any]) -> dict[str, Any]:
    """Return a tally with every sum as a float64 array, as it travels."""
    return {name: np.asarray(value, dtype=np.float64) for name, value in tally.items()}


def report(state: TrainState, replies: Mapping[str, Reply]) -> dict[str, Any]:
    """Return what a round's `Publish` says: figures by silo and over all of them.

    Args:
        state: after the round.
        replies: silo → its answer to ``train``; vectors in it are not looked at.
    """
    silos = {
        name: {
            "num_examples": reply.fields["num_examples"],
            "loss": reply.fields.get("loss"),
            "metrics": dict(reply.fields.get("metrics", {})),
            "epsilon": reply.fields.get("epsilon"),
            "epsilon_bound": reply.fields.get("epsilon_bound"),
            "seconds": reply.seconds,
        }
        for name, reply in replies.items()
    }
    sums = figures.merge(reply.fields.get("tally", {}) for reply in replies.values())
    told = [each for each in silos.values() if each["loss"] is not None]
    rows = sum(each["num_examples"] for each in told)
    return {
        "round": state.round,
        "silos": silos,
        "metrics": figures.metrics_of(sums),
        "loss": sum(each["loss"] * each["num_examples"] for each in told) / rows if rows else None,
        "model_bytes": num_bytes(state.params),
    }
