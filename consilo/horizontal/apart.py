"""Training a model that lies in processes apart, each of which sees the rows of one unit and ends.

Where a private job's model, loss or optimiser is code that the silo did not write, clipping and
noise are of no use in a process whose memory that code can write: it could put one row into what it
returns for another. So none of it runs here. Of each unit a fresh process computes the gradient
(`consilo.horizontal.unit`); clipping, sums, noise and the optimiser's steps are done here, on plain
arrays. Whatever a model answers for a unit was made of that unit and of public parameters, so that
one unit moves the sum by at most ``max_norm * (1 + ARITHMETIC)``, as `consilo.privacy.clipping`
promises of models that are taken apart in this process.

A unit without an answer of the right size in its time adds nothing.

A process a unit takes milliseconds, and a table has many. So a model is asked first what it does
(`consilo.learners.graphs`): where that can be written down, nothing of it runs here either, but
what it wrote down does, row by row, in some 2 ms a step of 64 rows (`benchmarks/dp_modes.py`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from consilo.errors import JobInvalid, ReplyInvalid
from consilo.kernel.roles import Apart
from consilo.learners.graphs import Graph
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import FitSession, Indices, TorchLearner
from consilo.printable import printable
from consilo.privacy.noise import SecretStream
from consilo.wire.params import Params
from consilo.wire.payload import unpack

Floats = np.ndarray[Any, np.dtype[np.float64]]

log = logging.getLogger(__name__)

_MOST_WORDS = 1 << 22


class LearnerApart(TorchLearner):
    """A learner that has the parameters and not the model.

    Args:
        apart: where the model is.
        task: what is learnt.
        params: what of the model's state was sent: every trained parameter.
        inputs: of the model, in a row.
        threads: of the optimiser's steps.
        trains: False where it is judged only, as it is: then it need not bear private training.

    Raises:
        JobInvalid: with the words of the job's own code, which saw made-up rows only.
        ReplyInvalid: where it says what cannot be.
    """

    def __init__(
        self,
        apart: Apart,
        task: Task,
        params: Params,
        *,
        inputs: int,
        threads: int,
        trains: bool = True,
    ) -> None:
        self.apart = apart
        self._inputs = inputs
        apart.load(params)
        order, trained = _described(apart, params, trains=trains)
        ordered = {name: params[name] for name in order}
        super().__init__(_Shell(ordered, trained), task, threads=threads)

    def graph(self) -> Graph | None:
        """Return what the model wrote down of itself; None where it cannot, as the log then says.

        Of its code nothing runs here, and what it wrote was made of public numbers alone.
        """
        try:
            said = unpack(_measured(self.apart, "trace", {}, _MOST_WORDS))
            if said["graph"] is not None:
                made = Graph(said["graph"], self.parameters(), frozenset(self.trained))
                row = torch.from_numpy(made_up(np.zeros((1, self._inputs), np.float32)))
                self.task.shape_outputs(made(row))
                return made
            why = str(said["why"])
        except Exception as cause:
            why = type(cause).__name__
        log.warning(
            "the job's own model computes in a process for each row, which takes some hundred times"
            " as long as a model that can be written down: %s",
            printable(why, most=500),
        )
        return None

    def publish(self) -> None:
        """Let the next processes start with the parameters as they are now."""
        self.apart.load(self.parameters())

    def outputs(self, features: np.ndarray[Any, Any]) -> Floats:
        """Return the model's outputs for each row by itself; NaN where there is none.

        Args:
            features: float32, (rows, inputs).

        Returns:
            Logits (rows,), (rows, classes), or values (rows, targets).
        """
        width = {"multiclass": self.task.num_classes, "regression": self.task.num_targets}
        size = width.get(self.task.kind, 1)
        self.publish()
        _measured(self.apart, "outputs", {"features": made_up(features)}, 8 * size)
        found = np.full((len(features), size), np.nan)
        for place in range(len(features)):
            unit = {"features": np.array(features[place : place + 1])}
            answer = self.apart.ask("outputs", unit, 8 * size)
            if answer is not None and len(answer) == 8 * size:
                found[place] = np.frombuffer(answer, np.float64)
        return found[:, 0] if size == 1 else found


class GradientsApart:
    """Clipped sums of gradients that come from processes apart; a `GradientSource`.

    Args:
        apart: where the model is.
        most_rows: of one unit, as the job says: the time that a process has is measured with them.
    """

    def __init__(self, apart: Apart, most_rows: int = 1) -> None:
        self._apart = apart
        self._most_rows = most_rows
        self._max_norm = 0.0
        self._draws: SecretStream | None = None

    def begin(self, session: FitSession, max_norm: float, draws: SecretStream) -> None:
        """Take what every step needs."""
        self._max_norm, self._draws = max_norm, draws.child("units")

    def sums(self, session: FitSession, units: Sequence[Indices]) -> list[Tensor]:
        """Return the sums over units of the mean of their rows' gradients, clipped."""
        learner, data = session.learner, session.data
        assert isinstance(learner, LearnerApart)
        learner.publish()
        parameters = list(session.parameters().values())
        sizes = [each.numel() * each.element_size() for each in parameters]
        most = self._most_rows
        like = {
            "features": np.repeat(made_up(data.features), most, axis=0),
            "targets": np.zeros((most, *data.targets.shape[1:]), data.targets.dtype),
        }
        _measured(self._apart, "gradient", {**like, "seed": 0}, sum(sizes))
        total = [np.zeros(each.numel()) for each in parameters]
        for rows in units:
            unit = {
                "features": np.array(data.features[rows]),
                "targets": learner.task.standardised(np.array(data.targets[rows])),
                "seed": self._seed(),
            }
            answer = self._apart.ask("gradient", unit, sum(sizes))
            if answer is None or len(answer) != sum(sizes):
                continue
            means = [each / len(rows) for each in _cut(answer, parameters, sizes)]
            _add_clipped(total, means, self._max_norm)
        return [
            torch.from_numpy(each).view_as(parameter)
            for each, parameter in zip(total, parameters, strict=True)
        ]

    def _seed(self) -> int:
        assert self._draws is not None
        return int.from_bytes(self._draws.bytes(8), "big") >> 1


class _Shell(nn.Module):
    """The entries of a model's state, and no layer.

    Args:
        params: by name.
        trained: names of those that training changes; the others are buffers.
    """

    def __init__(self, params: Params, trained: frozenset[str]) -> None:
        super().__init__()
        made = {name: torch.from_numpy(np.array(value)) for name, value in params.items()}
        self._entries = {
            name: nn.Parameter(each) if name in trained else each for name, each in made.items()
        }

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield what is trained."""
        for name, each in self._entries.items():
            if isinstance(each, nn.Parameter):
                yield name, each

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:  # type: ignore[override]
        """Return all entries."""
        return {name: each.detach() for name, each in self._entries.items()}


def made_up(features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return one row of the form of ``features`` that says nothing of any."""
    rng = np.random.default_rng(0)
    return rng.random((1, *features.shape[1:]), dtype=np.float32)


def _described(apart: Apart, params: Params, *, trains: bool) -> tuple[list[str], frozenset[str]]:
    """Return the names of ``params`` in the model's order, and which of them it trains."""
    told = _measured(apart, "describe", {} if trains else {"judged": True}, _MOST_WORDS)
    try:
        said: Mapping[str, Any] = unpack(told)
        fault = str(said["fault"])[:8000]
        trained, order = (list(map(str, said[each])) for each in ("trained", "order"))
    except (ValueError, TypeError, KeyError, RecursionError) as cause:
        raise ReplyInvalid("the job's own model describes itself in no form") from cause
    if fault:
        raise JobInvalid("model", [f"on a made-up row it raised {printable(fault)}"])
    named = frozenset(trained)
    same = len(order) == len(params) and set(order) == set(params)
    floats = all(params[each].dtype.kind == "f" for each in named & set(params))
    if not (named and named <= set(order) and same and floats):
        raise ReplyInvalid("the parameters are not those of the job's own model")
    return order, named


def _measured(apart: Apart, what: str, unit: Mapping[str, Any], most_bytes: int) -> bytes:
    answer = apart.measure(what, unit, most_bytes)
    if answer is None:
        raise JobInvalid("model", [f"its own code gives no {what} for a made-up row"])
    return answer


def _cut(answer: bytes, parameters: list[nn.Parameter], sizes: list[int]) -> Iterator[Floats]:
    start = 0
    for parameter, size in zip(parameters, sizes, strict=True):
        dtype = parameter.detach().numpy().dtype
        part = np.frombuffer(answer[start : start + size], dtype)
        yield part.astype(np.float64)
        start += size


def _add_clipped(total: list[Floats], gradient: list[Floats], max_norm: float) -> None:
    """Add one unit's gradient to the sums, scaled to a norm; nothing where that is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        norm = float(np.sqrt(sum(float(np.dot(each, each)) for each in gradient)))
    if not np.isfinite(norm):
        return
    factor = min(1.0, max_norm / norm) if norm > 0.0 else 1.0
    for sums, each in zip(total, gradient, strict=True):
        np.add(sums, factor * each, out=sums)
