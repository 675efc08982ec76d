"""What is learned: targets, loss, predictions and metrics of each kind of task.

| kind | raw outputs | targets | loss | predictions |
|---|---|---|---|---|
| binary | (n,), (n, 1) or (n, 2) logits | 0 or 1 | cross-entropy with logits | P(class 1), (n,) |
| multiclass | (n, k) logits | 0 .. k-1 | cross-entropy | class probabilities, (n, k) |
| regression | (n, m) values, or (n,) for one | m values | mean squared error | values |
| custom | anything | (n, m) float32 | the user's | the raw outputs |

A user's loss and metrics win. They are methods of the model, ``loss(outputs, targets)`` and
``metrics(outputs, targets) -> dict``, or functions that the job names by ``module:function``. A
loss returns the mean over the rows it is given. A metric is a pair (numerator, denominator), whose
sums over the silos are the federation's, or one number, of which the silos' mean is told, under a
name that says so. Torch is imported when it is first needed.

A regression's target is standardised where the task was `Task.scaled`: losses, of its kind or of a
user, see what is learnt; figures, metrics of a user and predictions are in the target's own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo import metrics as figures
from consilo.errors import JobInvalid
from consilo.learners.modules import describe, resolve
from consilo.metrics import Tally, TaskKind

if TYPE_CHECKING:
    from torch import Tensor, nn

Array: TypeAlias = npt.NDArray[Any]
Loss: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"

KINDS: tuple[TaskKind, ...] = ("binary", "multiclass", "regression", "custom")


@dataclass(frozen=True)
class Task:
    """One kind of task with its sizes.

    Args:
        kind: which row of the module's table.
        num_outputs: what a model is asked to give for each row.
        num_classes: of a classification task, else 0.
        num_targets: target columns.
        loss: ``module:function`` of a loss that replaces the kind's, or None.
        metrics: ``module:function`` of metrics that replace the kind's, or None.
        search_path: where those modules are looked for first.
        classes: how the classes are called, for the figures of each.
        mean: what is taken off each target before it is learnt; empty where it is learnt as it is.
        deviation: what it is divided by then. Predictions and figures are in the target's units.
    """

    kind: TaskKind
    num_outputs: int
    num_classes: int = 0
    num_targets: int = 1
    loss: str | None = None
    metrics: str | None = None
    search_path: tuple[Path, ...] = ()
    classes: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    deviation: tuple[float, ...] = ()

    @classmethod
    def of(
        cls,
        kind: TaskKind,
        *,
        num_classes: int = 2,
        num_targets: int = 1,
        num_outputs: int | None = None,
        loss: str | None = None,
        metrics: str | None = None,
        search_path: Sequence[Path] = (),
        classes: Sequence[str] = (),
    ) -> Task:
        """Return the task with the number of outputs that its targets ask for.

        Raises:
            JobInvalid: with every fault.
        """
        findings = []
        if kind not in KINDS:
            findings.append(f"unknown task {kind!r}; known: {', '.join(KINDS)}")
        if kind == "binary" and num_classes != 2:
            findings.append(f"a binary task has 2 classes, the target has {num_classes}")
        if kind == "multiclass" and num_classes < 2:
            findings.append(f"a multiclass task needs 2 or more classes, found {num_classes}")
        if kind in ("binary", "multiclass") and num_targets != 1:
            findings.append(f"a {kind} task has one target column, found {num_targets}")
        if findings:
            raise JobInvalid("task", findings)
        asked = {"binary": 1, "multiclass": num_classes, "regression": num_targets, "custom": 1}
        return cls(
            kind=kind,
            num_outputs=num_outputs if num_outputs is not None else asked[kind],
            num_classes=num_classes if kind in ("binary", "multiclass") else 0,
            num_targets=num_targets,
            loss=loss,
            metrics=metrics,
            search_path=tuple(search_path),
            classes=tuple(classes),
        )

    def scaled(self, mean: Array, deviation: Array) -> Task:
        """Return the task that learns ``(target - mean) / deviation``.

        Args:
            mean: (targets,).
            deviation: (targets,), above 0.

        Raises:
            JobInvalid: where they do not fit the targets, or the task is no regression.
        """
        found = [np.asarray(each, np.float64) for each in (mean, deviation)]
        fits = all(each.shape == (self.num_targets,) and np.isfinite(each).all() for each in found)
        if self.kind != "regression" or not fits or not (found[1] > 0).all():
            raise JobInvalid("task", ["what standardises the target does not fit it"])
        return replace(self, mean=tuple(found[0].tolist()), deviation=tuple(found[1].tolist()))

    def standardised(self, targets: Array) -> Array:
        """Return targets as they are learnt, of their shape; classes as they are."""
        if not self.mean:
            return targets
        wide = np.asarray(targets, np.float64)
        flat = wide.reshape(len(wide), self.num_targets)
        return np.asarray((flat - self.mean) / self.deviation).reshape(wide.shape)

    def in_own_units(self, values: Array) -> Array:
        """Return outputs, or targets as they are learnt, in the target's units: float64."""
        return self._in_own_units(values, np.asarray(self.mean))

    def _in_own_units(self, values: Array, mean: Array | float) -> Array:
        if not self.mean:
            return values
        wide = np.asarray(values, np.float64)
        flat = wide.reshape(len(wide), self.num_targets)
        return np.asarray(flat * self.deviation + mean).reshape(wide.shape)

    def encode(self, targets: Array) -> Tensor:
        """Return targets as the loss wants them, a copy: float32, or int64 for classes."""
        import torch

        targets = self.standardised(targets)

        if self.kind == "multiclass":
            return torch.from_numpy(np.array(targets, np.int64).reshape(len(targets)))
        flat = np.array(targets, np.float32)
        if self.kind == "binary" or (self.kind == "regression" and self.num_targets == 1):
            return torch.from_numpy(flat.reshape(len(targets)))
        return torch.from_numpy(flat.reshape(len(targets), self.num_targets))

    def shape_outputs(self, outputs: Tensor) -> Tensor:
        """Return a model's outputs in the one shape that loss and metrics know.

        Binary (n,), multiclass (n, k), regression (n,) or (n, m); custom as they are.

        Raises:
            JobInvalid: where the model's outputs do not fit the task.
        """
        if self.kind == "custom":
            return outputs
        found = tuple(outputs.shape[1:])
        if self.kind == "binary":
            if found in ((), (1,)):
                return outputs.reshape(len(outputs))
            if found == (2,):
                # Softmax over two logits is the sigmoid of their difference.
                return outputs[:, 1] - outputs[:, 0]
            wanted = "(), (1,) or (2,)"
        elif self.kind == "multiclass":
            if found == (self.num_classes,):
                return outputs
            wanted = f"({self.num_classes},)"
        else:
            if self.num_targets == 1 and found in ((), (1,)):
                return outputs.reshape(len(outputs))
            if found == (self.num_targets,):
                return outputs
            wanted = f"({self.num_targets},)"
        raise JobInvalid(
            "model", [f"a {self.kind} task needs outputs of shape {wanted} per row, found {found}"]
        )

    def has_own_loss(self, model: nn.Module) -> bool:
        """Return whether the user's loss is used in place of the kind's."""
        return self.loss is not None or callable(getattr(model, "loss", None))

    def loss_of(self, model: nn.Module) -> Loss:
        """Return the mean loss as a function of shaped outputs and encoded targets.

        Raises:
            JobInvalid: for a custom task without a loss.
        """
        from torch.nn import functional

        own = self._own(model, "loss", self.loss)
        if own is not None:
            return own
        if self.kind == "binary":
            return functional.binary_cross_entropy_with_logits
        if self.kind == "multiclass":
            return functional.cross_entropy
        if self.kind == "regression":
            return functional.mse_loss
        raise JobInvalid(
            "task",
            [
                "a custom task needs a loss: give the model a method loss(outputs, targets), or"
                " name one as 'module:function' under loss"
            ],
        )

    def row_losses(self, model: nn.Module) -> Loss:
        """Return the loss of each row, (n,), as a function of shaped outputs and targets.

        A user's loss is called with one row at a time, so that no row's loss can depend on
        another row: what record-level privacy rests on.
        """
        import torch
        from torch.nn import functional

        own = self._own(model, "loss", self.loss)
        if own is not None:

            def one_by_one(outputs: Tensor, targets: Tensor) -> Tensor:
                rows = [
                    own(outputs[row : row + 1], targets[row : row + 1]).reshape(())
                    for row in range(len(outputs))
                ]
                return torch.stack(rows) if rows else outputs.sum().reshape(1)[:0]

            return one_by_one
        if self.kind == "binary":
            return lambda outputs, targets: functional.binary_cross_entropy_with_logits(
                outputs, targets, reduction="none"
            )
        if self.kind == "multiclass":
            return lambda outputs, targets: functional.cross_entropy(
                outputs, targets, reduction="none"
            )
        if self.kind == "regression":
            return lambda outputs, targets: (
                ((outputs - targets) ** 2).reshape(len(outputs), -1).mean(dim=1)
            )
        return self.loss_of(model)

    def predictions(self, outputs: Array) -> Array:
        """Return what a user of the model sees, from shaped raw outputs; see the module's table."""
        wide = np.asarray(outputs)
        if self.kind == "binary":
            return np.asarray(np.exp(-np.logaddexp(0.0, -wide)), wide.dtype)
        if self.kind == "multiclass":
            if not len(wide):
                return wide
            raised = np.exp(wide - wide.max(axis=1, keepdims=True))
            return np.asarray(raised / raised.sum(axis=1, keepdims=True))
        return self.in_own_units(wide)

    def measure(
        self, model: nn.Module, outputs: Tensor, targets: Tensor, *, curves: bool = True
    ) -> tuple[dict[str, float], Tally]:
        """Return this data's metrics and the tally from which the federation computes its own.

        Undefined metrics (an AUC of one class, anything of no rows) are left out.

        Args:
            model: whose own loss and metrics count, if it has some.
            outputs: shaped raw outputs.
            targets: encoded.
            curves: of several classes, count the scores of each too.
        """
        # Less the mean, which no figure tells: sums of squares of 1e9 ± 1 would keep no variance.
        plain_outputs, plain_targets = (
            self._in_own_units(each.numpy(), 0.0) for each in (outputs, targets)
        )
        sums = figures.tally(self.kind, plain_outputs, plain_targets, curves=curves)
        found = figures.metrics_of(sums, self.classes)
        if self.kind == "binary":
            exact = figures.roc_auc(plain_targets, plain_outputs)
            if math.isfinite(exact):
                found["roc_auc"] = exact
        extra = self._own_metrics(model, outputs, targets)
        if extra:
            plain = {name: _ratio(value) for name, value in extra.items()}
            found |= {name: value for name, value in plain.items() if math.isfinite(value)}
            sums |= figures.own_tally(len(targets), extra)
        return found, sums

    def _own_metrics(
        self, model: nn.Module, outputs: Tensor, targets: Tensor
    ) -> dict[str, figures.Own]:
        if not len(targets):
            return {}
        extra: dict[str, figures.Own] = {}
        if self.has_own_loss(model):
            value = _call("loss", self.loss_of(model), outputs, targets)
            extra["loss"] = as_number(value)
        own = self._own(model, "metrics", self.metrics)
        if own is not None:
            answer = _call("metrics", own, self._told(outputs), self._told(targets))
            if not isinstance(answer, Mapping):
                raise JobInvalid(
                    "metrics", [f"metrics() returned {type(answer).__name__}, expected a dict"]
                )
            try:
                extra |= {str(name): _own_figure(value) for name, value in answer.items()}
            except (TypeError, ValueError):
                raise JobInvalid(
                    "metrics",
                    [
                        "metrics() must return per name one number, or a tuple (numerator, "
                        "denominator) with a denominator of 0 or more"
                    ],
                ) from None
        return extra

    def _told(self, values: Tensor) -> Tensor:
        """Return outputs or encoded targets as a user's metrics see them: in the target's units."""
        import torch

        return torch.from_numpy(self.in_own_units(values.numpy())) if self.mean else values

    def _own(self, model: nn.Module, name: str, where: str | None) -> Callable[..., Any] | None:
        if where is not None:
            found = resolve(where, self.search_path, what=name)
            return found  # type: ignore[no-any-return]
        method = getattr(model, name, None)
        return method if callable(method) else None


def as_number(loss: Any) -> float:
    """Return a loss as a number.

    Raises:
        JobInvalid: where it is none.
    """
    if getattr(loss, "numel", lambda: 0)() != 1:
        raise JobInvalid(
            "loss", ["the loss must be one number that depends on the model's parameters"]
        )
    return float(loss.detach())


def _own_figure(value: Any) -> figures.Own:
    if isinstance(value, tuple | list):
        over, under = value
        if float(under) < 0:
            raise ValueError("a negative denominator")
        return float(over), float(under)
    return float(value)


def _ratio(value: figures.Own) -> float:
    if isinstance(value, tuple):
        return value[0] / value[1] if value[1] > 0 else math.nan
    return value


def _call(what: str, function: Callable[..., Any], outputs: Tensor, targets: Tensor) -> Any:
    try:
        return function(outputs, targets)
    except Exception as cause:
        raise JobInvalid(what, [f"{what}(outputs, targets) raised {describe(cause)}"]) from cause
