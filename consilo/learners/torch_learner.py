"""A PyTorch model and the local computation of one silo, behind one small interface.

>>> import numpy as np
>>> from consilo.learners.tabular import LogisticRegression
>>> from consilo.learners.tasks import Task
>>> learner = TorchLearner(LogisticRegression(2), Task.of("binary"))
>>> data = Arrays(np.eye(2, dtype=np.float32), np.array([0, 1]))
>>> plan = FitPlan(batch_size=2, steps=50, lr=1.0)
>>> report = learner.fit(data, plan, rng=np.random.default_rng(0))
>>> report.steps, learner.evaluate(data)[0]["accuracy"]
(50, 1.0)
"""

from __future__ import annotations

import fnmatch
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from consilo.errors import (
    ConsiloError,
    IncompatibleJob,
    JobInvalid,
    ModelDiverged,
    SchemaDrift,
)
from consilo.learners.modules import describe
from consilo.learners.optimizers import make_optimizer
from consilo.learners.plans import Array, Arrays, FitPlan, FitReport
from consilo.learners.randomness import seeded
from consilo.learners.tasks import Task, as_number
from consilo.learners.threads import computing
from consilo.metrics import Tally
from consilo.wire.params import Params, check_finite

__all__ = [
    "Arrays",
    "FitHook",
    "FitPlan",
    "FitReport",
    "FitSession",
    "Gradient",
    "Indices",
    "ProximalHook",
    "TorchLearner",
    "backward",
    "call_loss",
]

Indices: TypeAlias = npt.NDArray[np.int64]

_EVALUATION_ROWS = 4096


class FitHook:
    """Something that changes how a model is fitted; the default of each method does nothing.

    A hook is made for one fit. ``prepare`` may replace ``session.batches`` and, once, the
    gradient by `FitSession.replace_gradient`. ``before_step`` sees ``parameter.grad`` before the
    optimiser does. ``finish`` always runs, after the last step or after an error.
    """

    def prepare(self, session: FitSession) -> None:
        """Run once, after the optimiser is made and before the first batch."""

    def before_step(self, session: FitSession) -> None:
        """Run before each optimiser step, with the gradients in place."""

    def finish(self, session: FitSession) -> None:
        """Undo what ``prepare`` did to the model."""


@dataclass
class FitSession:
    """One fit in progress: what hooks see and may change.

    Args:
        learner: whose model is fitted.
        model: the plain module, in training mode.
        data: the rows.
        plan: how to train.
        optimizer: over the trainable parameters; new in each fit.
        rng: of this fit; public randomness.
        num_steps: how many batches are taken from ``batches``.
        batches: row indices of each step.
        step: index of the current step, from 0.
    """

    learner: TorchLearner
    model: nn.Module
    data: Arrays
    plan: FitPlan
    optimizer: torch.optim.Optimizer
    rng: np.random.Generator
    num_steps: int
    batches: Iterator[Indices]
    step: int = 0
    gradient: Gradient = field(init=False)
    _gradient_owner: str | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.gradient = _MeanGradient(self)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that training changes, by name."""
        return {name: each for name, each in self.model.named_parameters() if each.requires_grad}

    def replace_gradient(self, owner: str, gradient: Gradient) -> None:
        """Let ``gradient`` fill ``parameter.grad`` from now on; only one hook may."""
        if self._gradient_owner is not None:
            raise IncompatibleJob(f"{owner} and {self._gradient_owner} both define the gradient")
        self._gradient_owner = owner
        self.gradient = gradient

    def batch(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Return copies of the rows: features and encoded targets."""
        features = torch.from_numpy(np.array(self.data.features[indices]))
        return features, self.learner.task.encode(self.data.targets[indices])


Gradient: TypeAlias = Callable[[Indices], "float | None"]
"""Fills ``parameter.grad`` for a batch of rows; returns the mean loss, or None if private."""


class ProximalHook(FitHook):
    """FedProx (Li et al. 2020): adds ``mu / 2 * |w - w0|**2`` to the local objective.

    The gradient ``mu * (w - w0)`` is added exactly, after whatever makes the gradient of the data;
    under differential privacy it is post-processing and costs nothing. ``w0`` is where the
    parameters stand when the fit starts.
    """

    def __init__(self, mu: float) -> None:
        if not (math.isfinite(mu) and mu >= 0):
            raise JobInvalid("local", [f"mu: must be 0 or more, found {mu}"])
        self.mu = mu
        self._anchors: list[tuple[nn.Parameter, Tensor]] = []

    def prepare(self, session: FitSession) -> None:
        """Remember w0."""
        self._anchors = [(each, each.detach().clone()) for each in session.parameters().values()]

    def before_step(self, session: FitSession) -> None:
        """Add the proximal gradient."""
        for parameter, anchor in self._anchors:
            pull = self.mu * (parameter.detach() - anchor)
            parameter.grad = pull if parameter.grad is None else parameter.grad.add_(pull)


class TorchLearner:
    """A model, what it learns, and how one silo computes with it.

    Args:
        model: any module; its first forward argument is a float32 batch of features.
        task: targets, loss and metrics.
        freeze: shell patterns of parameter names that training leaves alone.
        threads: that torch computes with in `fit`, `evaluate` and `predict`, whatever it has
            outside; the number that is found is put back.
        clock: seconds, for `FitReport.seconds`.

    ``trained`` are the parameters that training changes, by their names in the model's state;
    ``buffers`` the numbers beside them that a forward may change, such as a BatchNorm's running
    mean. What passes through an optimiser, a silo's or the server's, is trained parameters only.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        *,
        freeze: Sequence[str] = (),
        threads: int = 1,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.task = task
        self.threads = threads
        self._clock = clock
        names = [name for name, _ in model.named_parameters()]
        unmatched = [each for each in freeze if not fnmatch.filter(names, each)]
        if unmatched:
            raise JobInvalid(
                "model", [f"freeze: no parameter matches {each!r}" for each in unmatched]
            )
        for name, parameter in model.named_parameters():
            if any(fnmatch.fnmatchcase(name, each) for each in freeze):
                parameter.requires_grad_(False)
        trained = {name for name, each in model.named_parameters() if each.requires_grad}
        state = model.state_dict()
        self.trained: tuple[str, ...] = tuple(name for name in state if name in trained)
        self.buffers: tuple[str, ...] = tuple(
            name
            for name, value in state.items()
            if name not in set(names) and value.dtype != torch.bool and not value.is_complex()
        )
        if not trained:
            raise JobInvalid("model", ["every parameter is frozen; nothing is left to train"])

    def parameters(self) -> Params:
        """Return copies of all entries of the model's state, buffers included."""
        return {
            name: value.detach().cpu().numpy().copy()
            for name, value in self.model.state_dict().items()
        }

    def load(self, params: Params) -> None:
        """Set the model's state.

        Args:
            params: every trained parameter; the others may be left out and stay as they are.

        Raises:
            IncompatibleJob: with every difference in names, shapes and dtypes.
        """
        state = self.model.state_dict()
        findings = [f"{name!r} is missing" for name in self.trained if name not in params]
        for name, value in params.items():
            own = state.get(name)
            if own is None:
                findings.append(f"{name!r} is not in the model")
            elif tuple(own.shape) != value.shape:
                findings.append(f"{name!r} has shape {value.shape}, the model {tuple(own.shape)}")
            elif own.numpy().dtype != value.dtype:
                findings.append(f"{name!r} is {value.dtype}, the model {own.numpy().dtype}")
        if findings:
            raise IncompatibleJob(
                "the parameters do not fit the model: "
                + "; ".join(findings)
                + ". Do coordinator and silo build the same model?"
            )
        with torch.no_grad():
            for name, value in params.items():
                state[name].copy_(torch.from_numpy(np.array(value)))

    def fit(
        self,
        data: Arrays,
        plan: FitPlan,
        *,
        rng: np.random.Generator,
        hooks: Sequence[FitHook] = (),
    ) -> FitReport:
        """Train the model in place.

        The same parameters, data, plan, hooks and state of ``rng`` give the same bytes; global
        generators are left as they were.

        Raises:
            ModelDiverged: where a loss or a parameter is NaN or infinite.
            SchemaDrift: where there are no rows.
            JobInvalid: where the optimiser or the model's own code fails.
        """
        if len(data) == 0:
            raise SchemaDrift("there are no training rows; check the silo's data and its contract")
        start = self._clock()
        was_training = self.model.training
        self.model.train()
        session = FitSession(
            learner=self,
            model=self.model,
            data=data,
            plan=plan,
            optimizer=make_optimizer(plan, self.model, self.task.search_path),
            rng=rng,
            num_steps=plan.num_steps(len(data)),
            batches=_shuffled(len(data), plan.batch_size, rng),
        )
        begun: list[FitHook] = []
        try:
            with computing(self.threads), seeded(int(rng.integers(2**63))):
                for hook in hooks:
                    begun.append(hook)
                    hook.prepare(session)
                losses = _run(session, hooks)
        finally:
            for hook in reversed(begun):
                hook.finish(session)
            session.optimizer.zero_grad(set_to_none=True)
            self.model.train(was_training)
        check_finite(self.parameters(), where="after local training")
        return FitReport(
            num_examples=len(data),
            steps=session.num_steps,
            mean_loss=None if None in losses else math.fsum(losses) / max(len(losses), 1),  # type: ignore[arg-type]
            seconds=self._clock() - start,
        )

    def evaluate(self, data: Arrays, *, curves: bool = True) -> tuple[dict[str, float], Tally]:
        """Return metrics of these rows, and the tally that merges with other silos' tallies.

        Args:
            data: the rows.
            curves: of several classes, count the scores of each too.

        Raises:
            ModelDiverged: where an output is NaN or infinite.
        """
        with computing(self.threads):
            outputs = self._outputs(data.features)
            targets = self.task.encode(data.targets)
            return self.task.measure(self.model, outputs, targets, curves=curves)

    def predict(self, features: Array) -> Array:
        """Return predictions; see the table in `consilo.learners.tasks`."""
        with computing(self.threads):
            return self.task.predictions(self._outputs(features).numpy())

    def forward(self, model: Callable[[Tensor], Any], features: Tensor) -> Tensor:
        """Return shaped outputs of ``model``, the learner's own or a wrapper of it."""
        try:
            outputs = model(features)
        except ConsiloError:
            raise
        except Exception as cause:
            shape = tuple(features.shape)
            raise JobInvalid(
                "model", [f"forward on features of shape {shape} raised {describe(cause)}"]
            ) from cause
        if not isinstance(outputs, Tensor) or outputs.ndim == 0 or len(outputs) != len(features):
            raise JobInvalid(
                "model", ["forward must return one tensor with one row of outputs per input row"]
            )
        return self.task.shape_outputs(outputs)

    def _outputs(self, features: Array) -> Tensor:
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                parts = [
                    self.forward(self.model, torch.from_numpy(np.array(part, np.float32)))
                    for part in _chunks(features)
                ]
        finally:
            self.model.train(was_training)
        outputs = torch.cat(parts)
        if not bool(torch.isfinite(outputs).all()):
            raise ModelDiverged(
                "the model's outputs hold NaN or infinity; lower the learning rate, or check the"
                " model's forward"
            )
        return outputs


class _MeanGradient:
    """The gradient of the mean loss over the batch."""

    def __init__(self, session: FitSession) -> None:
        self._session = session
        self._loss = session.learner.task.loss_of(session.model)

    def __call__(self, indices: Indices) -> float:
        features, targets = self._session.batch(indices)
        outputs = self._session.learner.forward(self._session.model, features)
        loss = call_loss(self._loss, outputs, targets)
        value = as_number(loss)
        _check_loss(value, step=self._session.step)
        backward(loss)
        return value


def call_loss(loss: Callable[[Tensor, Tensor], Tensor], outputs: Tensor, targets: Tensor) -> Tensor:
    """Return ``loss(outputs, targets)``; an error in the user's code becomes JobInvalid."""
    try:
        value = loss(outputs, targets)
    except Exception as cause:
        raise JobInvalid("loss", [f"loss(outputs, targets) raised {describe(cause)}"]) from cause
    if not isinstance(value, Tensor):
        raise JobInvalid("loss", [f"loss returned {type(value).__name__}, expected a tensor"])
    return value


def _check_loss(value: float, *, step: int) -> None:
    """Check that a loss is finite.

    Raises:
        ModelDiverged: naming the step.
    """
    if not math.isfinite(value):
        raise ModelDiverged(
            f"the loss is NaN or infinite at local step {step}; lower the learning rate, or check"
            " the model's forward and loss"
        )


def backward(loss: Tensor) -> None:
    """Run autograd; a loss that no parameter reaches becomes JobInvalid."""
    if loss.numel() != 1 or not loss.requires_grad:
        raise JobInvalid(
            "loss", ["the loss must be one number that depends on the model's parameters"]
        )
    loss.backward()  # type: ignore[no-untyped-call]


def _run(session: FitSession, hooks: Sequence[FitHook]) -> list[float | None]:
    losses: list[float | None] = []
    for step in range(session.num_steps):
        session.step = step
        session.optimizer.zero_grad(set_to_none=True)
        losses.append(session.gradient(next(session.batches)))
        for hook in hooks:
            hook.before_step(session)
        try:
            session.optimizer.step()
        except (RuntimeError, TypeError) as cause:
            raise JobInvalid(
                "local", [f"optimizer {session.plan.optimizer!r} raised {describe(cause)}"]
            ) from cause
    return losses


def _shuffled(num_rows: int, batch_size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Yield batches of one shuffled pass after another; the last of a pass may be smaller."""
    while True:
        order = rng.permutation(num_rows)
        for start in range(0, num_rows, batch_size):
            yield order[start : start + batch_size]


def _chunks(features: Array) -> Iterator[Array]:
    for start in range(0, max(len(features), 1), _EVALUATION_ROWS):
        yield features[start : start + _EVALUATION_ROWS]
