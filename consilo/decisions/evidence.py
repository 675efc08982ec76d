"""What held-out rows say of a candidate, exactly; with noise: `consilo.decisions.noisy`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from consilo.decisions.rules import CONSTANT, Evidence, VoteRules
from consilo.metrics.bootstrap import FIGURES, Interval, gain, gap, interval
from consilo.metrics.bootstrap import figure as figure_of
from consilo.metrics.tallies import TaskKind

Array: TypeAlias = npt.NDArray[Any]

_ERRORS = {"ece": "calibration_error", "brier": "brier"}


@dataclass(frozen=True)
class Heard:
    """What models say of the held-out rows.

    Args:
        kind: of the task.
        targets: class indices (rows,), or values in their own units.
        candidate: its outputs: logits, or values in the targets' units.
        others: whom it is compared with → that one's outputs; empty compares it with a constant.
        people: whose each row is; None where each is somebody's own.
        groups: column → rows of each of its groups.
    """

    kind: TaskKind
    targets: Array
    candidate: Array
    others: Mapping[str, Array] = field(default_factory=dict)
    people: Array | None = None
    groups: Mapping[str, Sequence[Array]] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """How many rows there are, or how many people they belong to."""
        return len(self.targets) if self.people is None else len(np.unique(self.people))


def known(metric: str, kind: TaskKind) -> bool:
    """Return whether a metric is one that rows can be drawn anew for."""
    return metric in FIGURES.get(kind, ())


def weigh(
    heard: Heard,
    metric: str,
    rules: VoteRules,
    rng: np.random.Generator,
    *,
    epsilon: float | None = None,
    lacking: Sequence[str] = (),
) -> Evidence:
    """Return what rows say of a candidate.

    Args:
        heard: outputs and targets.
        metric: of the job; where it is not `known`, nothing is compared.
        rules: say what else is judged.
        rng: secret of the silo, the same for the same question: whoever asks twice learns no more.
        epsilon: what the candidate's training cost here.
        lacking: codes of what could not be judged.
    """
    if heard.units < rules.min_rows:
        return Evidence(heard.units, epsilon=epsilon, lacking=tuple(lacking))
    if not known(metric, heard.kind):
        return Evidence(heard.units, epsilon=epsilon, lacking=(*lacking, "metric"))
    others = dict(heard.others)
    if not others and not lacking:
        others = {CONSTANT: constant(heard.kind, heard.targets, like=heard.candidate)}
    settings: dict[str, Any] = {"rng": rng, "people": heard.people, "level": rules.level}
    gains = {
        whom: gain(metric, heard.kind, heard.candidate, each, heard.targets, **settings)
        for whom, each in others.items()
    }
    gaps: dict[str, Interval | None] = {}
    if rules.fairness is not None:
        asked = (rules.fairness.metric, heard.kind, heard.candidate, heard.targets)
        for name, groups in heard.groups.items():
            judged = [rows for rows in groups if len(rows) >= rules.fairness.floor]
            fits = known(rules.fairness.metric, heard.kind)
            gaps[name] = gap(*asked, judged, **settings) if fits else None
    errors: dict[str, Interval | None] = {}
    for name, most in (("ece", rules.max_ece), ("brier", rules.max_brier)):
        if most is not None:
            fits = known(_ERRORS[name], heard.kind)
            errors[name] = None
            if fits:
                of = figure_of(_ERRORS[name], heard.kind, heard.candidate, heard.targets)
                errors[name] = interval(of, len(heard.targets), **settings)
    return Evidence(heard.units, gains, gaps, errors, epsilon, tuple(lacking))


def constant(kind: TaskKind, targets: Array, *, like: Array) -> Array:
    """Return the outputs of the best single answer for everybody: the classes' shares, or the mean.

    Without a champion a candidate has to be no worse than that.

    Args:
        kind: of the task.
        targets: of the rows.
        like: a model's outputs.
    """
    if kind == "regression":
        wide = np.asarray(targets, np.float64)
        return np.asarray(np.broadcast_to(wide.mean(axis=0), np.shape(like)))
    labels = np.asarray(targets).astype(np.int64).reshape(-1)
    size = 2 if kind == "binary" else np.shape(like)[1]
    counts = np.bincount(labels, minlength=size).astype(np.float64) + 0.5
    logs = np.log(counts / counts.sum())
    if kind == "binary":
        return np.full(len(labels), logs[1] - logs[0])
    return np.asarray(np.broadcast_to(logs, (len(labels), size)))
