"""A job's own rule: a function of all silos' vectors, or a `Reduce` that folds or takes passes.

>>> import numpy as np
>>> from consilo.wire.params import Params
>>> def coordinate_median(vectors: list[Params], weights: list[float]) -> Params:
...     stacked = {name: np.stack([each[name] for each in vectors]) for name in vectors[0]}
...     return {name: np.median(values, axis=0) for name, values in stacked.items()}
>>> rule = Gathered("my_rules:coordinate_median", coordinate_median, {})
>>> silos = [{"w": np.array([each], np.float32)} for each in (1.0, 2.0, 90.0)]
>>> rule.combine(silos, [10, 10, 10])
{'w': array([2.], dtype=float32)}
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from consilo.errors import ConsiloError, IncompatibleJob
from consilo.jobs.job import ReduceSpec
from consilo.jobs.quorum import Quorum
from consilo.kernel.steps import Reply, Step, Stream
from consilo.learners.modules import describe, resolve
from consilo.reduce import Gives, Reduce, Reduced
from consilo.reduce.mean import WeightedMean, no_rows
from consilo.wire.params import Params, check_alike

RuleFunction = Callable[..., Params]
"""(one vector per silo, their weights, further arguments by name) → the combined vector."""


class Gathered:
    """A rule that is a function of all silos' vectors; it sees them together, after the last reply.

    Memory: every silo's vector. A silo without rows has no weight, and is left out.

    Args:
        name: its path, for messages.
        function: `RuleFunction`.
        args: its further arguments.
    """

    gives: Gives = "vectors"
    linear = False
    passes = 1

    def __init__(self, name: str, function: RuleFunction, args: Mapping[str, Any]) -> None:
        self.name = name
        self._function = function
        self._args = dict(args)

    def __call__(
        self,
        members: Sequence[str],
        verb: str,
        payload: Mapping[str, Any],
        *,
        vectors: Mapping[str, str | None],
        quorum: Quorum | None,
    ) -> Generator[Step, Any, Reduced]:
        """Ask ``verb`` of ``members``, wait for all of them, and apply the rule to each field.

        Raises:
            RunFailed: where the quorum is not met, or nobody holds a row.
        """
        replies = yield Stream(members, verb, payload, quorum=quorum)
        gathered: dict[str, list[Params]] = {name: [] for name in vectors}
        weights: dict[str, list[float]] = {name: [] for name in vectors}
        others: dict[str, Reply] = {}
        for reply in replies:
            fields = dict(reply.fields)
            for name, weight in vectors.items():
                vector = fields.pop(name)
                amount = 1.0 if weight is None else float(fields[weight])
                if amount:
                    gathered[name].append(vector)
                    weights[name].append(amount)
            others[reply.silo] = Reply(reply.silo, fields, reply.seconds)
        if not all(gathered.values()):
            raise no_rows(verb, members)
        means = {name: self.combine(gathered.pop(name), weights[name]) for name in vectors}
        return Reduced(means, others)

    def combine(self, vectors: Sequence[Params], weights: Sequence[float]) -> Params:
        """Return what the rule makes of vectors, in their dtypes.

        Raises:
            IncompatibleJob: where it raises, or answers something else than a vector like theirs.
        """
        like = vectors[0]
        try:
            made = self._function(list(vectors), list(weights), **self._args)
        except ConsiloError:
            raise
        except Exception as cause:  # the job's own code
            raise IncompatibleJob(f"reduce.rule: '{self.name}' raised {describe(cause)}") from cause
        try:
            if not isinstance(made, Mapping):
                raise IncompatibleJob(f"it returned {type(made).__name__}, expected a dict")
            arrays = {name: np.asarray(value) for name, value in made.items()}
            check_alike(like, arrays)
        except IncompatibleJob as cause:
            raise IncompatibleJob(
                f"reduce.rule: '{self.name}' must return arrays with the names and shapes of one "
                f"silo's vector: {cause}"
            ) from cause
        return {name: arrays[name].astype(value.dtype, copy=False) for name, value in like.items()}


def rule_of(spec: ReduceSpec, search_path: Sequence[Path] = ()) -> Reduce:
    """Return a job's rule.

    Args:
        spec: the job's section; ``rule`` is ``mean``, or a path to a function or a `Reduce`.
        search_path: where the job's own modules lie.

    Raises:
        IncompatibleJob: where there is no such rule, or it does not take the arguments.
    """
    if spec.rule == "mean":
        return WeightedMean()
    rule = resolve(spec.rule, search_path, what="reduce.rule")
    try:
        if not isinstance(rule, type):
            inspect.signature(rule).bind([], [], **spec.args)
            return Gathered(spec.rule, rule, spec.args)
        made = rule(**spec.args)
    except (TypeError, ValueError) as cause:
        raise IncompatibleJob(f"reduce.args: {spec.rule} refuses them: {cause}") from None
    faults = [
        f"{name} is {getattr(made, name, 'missing')!r}, expected {wanted}"
        for name, wanted, is_sound in (
            ("gives", "'sum' or 'vectors'", getattr(made, "gives", None) in ("sum", "vectors")),
            ("linear", "True or False", isinstance(getattr(made, "linear", None), bool)),
            ("passes", "a number from 1", _is_count(getattr(made, "passes", None))),
            ("__call__", "a generator function", inspect.isgeneratorfunction(rule.__call__)),
        )
        if not is_sound
    ]
    if faults:
        raise IncompatibleJob(
            f"reduce.rule: '{spec.rule}' is no consilo.reduce.Reduce: {'; '.join(faults)}"
        )
    return cast(Reduce, made)


def rehearse(rule: Reduce, params: Params, *, num_silos: int) -> None:
    """Apply a gathered rule to made-up vectors with the model's names, each axis cut to two.

    Raises:
        IncompatibleJob: where the rule cannot combine them.
    """
    if isinstance(rule, Gathered):
        rng = np.random.default_rng(0)
        vectors: list[Params] = [
            {
                name: rng.normal(size=[min(each, 2) for each in value.shape]).astype(value.dtype)
                for name, value in params.items()
            }
            for _ in range(num_silos)
        ]
        rule.combine(vectors, [1.0] * num_silos)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
