"""What a fit is given and what it reports; no torch in here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.errors import JobInvalid

Array: TypeAlias = npt.NDArray[Any]

_MAX_LR = 3e38


@dataclass(frozen=True)
class Arrays:
    """Features and targets of some rows; both may be memory maps and are never written.

    Args:
        features: (n, d) or (n, ...) float32.
        targets: (n,) class indices or values, or (n, m) values.
    """

    features: Array
    targets: Array

    def __post_init__(self) -> None:
        if self.features.dtype != np.float32 or self.features.ndim < 2:
            raise ValueError(
                f"features must be float32 of shape (n, d), found {self.features.dtype}"
                f" {self.features.shape}"
            )
        if len(self.features) != len(self.targets):
            raise ValueError(f"{len(self.features)} rows but {len(self.targets)} targets")

    def __len__(self) -> int:
        return len(self.features)


@dataclass(frozen=True)
class FitPlan:
    """How one silo trains in one round.

    Args:
        batch_size: rows of a step; under differential privacy, the expected number.
        steps: optimiser steps; exactly one of steps and epochs is given.
        epochs: passes over the rows.
        optimizer: a name in ``torch.optim`` in any case, or ``module:Class``.
        lr: learning rate.
        momentum: passed on where given.
        weight_decay: passed on where given.
        optimizer_args: further arguments of the optimiser.
    """

    batch_size: int
    steps: int | None = None
    epochs: int | None = None
    optimizer: str = "sgd"
    lr: float = 0.01
    momentum: float | None = None
    weight_decay: float | None = None
    optimizer_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        findings = []
        if self.batch_size < 1:
            findings.append(f"batch_size: must be 1 or more, found {self.batch_size}")
        if (self.steps is None) == (self.epochs is None):
            findings.append("steps, epochs: give exactly one of the two")
        for name, value in (("steps", self.steps), ("epochs", self.epochs)):
            if value is not None and value < 1:
                findings.append(f"{name}: must be 1 or more, found {value}")
        if not 0 <= self.lr <= _MAX_LR:
            findings.append(f"lr: must be 0 or more and fit float32, found {self.lr}")
        if findings:
            raise JobInvalid("local", findings)

    def num_steps(self, num_examples: int) -> int:
        """Return the optimiser steps that the plan means for that many rows."""
        if self.steps is not None:
            return self.steps
        return (self.epochs or 0) * math.ceil(num_examples / self.batch_size)

    def sample_rate(self, num_examples: int) -> float:
        """Return the probability of each row to join a step under Poisson sampling."""
        return min(1.0, self.batch_size / num_examples)


@dataclass(frozen=True)
class FitReport:
    """What a fit did.

    Args:
        num_examples: rows that were trained on.
        steps: optimiser steps taken.
        mean_loss: over the batches; None where a hook keeps it private.
        seconds: wall time.
    """

    num_examples: int
    steps: int
    mean_loss: float | None
    seconds: float
