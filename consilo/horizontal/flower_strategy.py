"""Any Flower strategy (message API, ``flwr.serverapp.strategy``) through our kernel.

The strategy's ``configure_train`` chooses who is asked, out of a small in-memory grid that shows it
our cohort; its ``aggregate_train`` gets real Flower messages with the silos' weights. Silos answer
the ordinary ``train`` verb and import nothing of Flower's. Quorum, deadlines, drop-outs, policies
and differential privacy stay ours: a silo that fails is an error message to the strategy.

State: before every round the strategy is built anew and its attributes are put back from the
`TrainState`, so that a resumed run equals an uninterrupted one. Attributes may hold plain values,
arrays, Flower's records of arrays, and lists, tuples and mappings of these; functions and classes
are settings and stay as the constructor made them. A strategy that keeps anything else (an object
of its own, a generator) is refused before the run. What a strategy keeps outside of its attributes,
in a global or a closure, is invisible here and would be lost by a restart.

Differences from ``Strategy.start``: `random` and numpy's global generator are seeded per round from
the job's seed; too few silos are `QuorumLost` at once and not an endless wait; there is no
``configure_evaluate``, because silos evaluate the model they get with every round; the settings in
a message's ``ConfigRecord`` are not sent, the job's section ``local`` says how silos train; a
strategy sees the model's parameters only, its buffers are averaged by rows whatever it does.

Differences between Flower's rules and ours, for those who compare: FedAvg, FedYogi and FedAdagrad
are the same; FedAdam multiplies its rate by sqrt(1 - β2^(t+1)) / (1 - β1^(t+1)) in round t, where
the paper and ours have no such factor (and Kingma and Ba have t, not t + 1).
"""

from __future__ import annotations

import logging
import types
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from consilo.errors import ConsiloError, IncompatibleJob, JobInvalid, QuorumLost
from consilo.horizontal.training import TRAINING, Training, TrainState, mean_buffers, report
from consilo.jobs.causes import AWAY, failure
from consilo.jobs.model_job import ModelJob
from consilo.jobs.quorum import Awaited, Quorum
from consilo.kernel import seeds
from consilo.kernel.federation import Federation
from consilo.kernel.steps import Answers, Ask, Checkpoint, Publish, Step
from consilo.learners.modules import resolve
from consilo.learners.randomness import seeded
from consilo.machine import environment
from consilo.wire.params import Params, add, check_finite, subtract

_POLLS = 3
"""How often a strategy may look for silos in one round; more means that it waits for others."""
_SETTINGS = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType)

_UNSOUND = {
    "DifferentialPrivacy": "its noise comes from a generator that can be predicted and is "
    "calibrated for equal weights, and no silo books what it costs; use the job's section privacy",
    "SecAgg": "its masks come from 32 bits of seed; there is no secure sum in this version",
}
_UNFIT = {
    "FedXgb": "it merges trees, the job's model has parameters",
    "FedProx": "its proximal term belongs into the silos; use protocol fedprox with mu",
}


class FlowerStrategy(Training):
    """Runs ``protocol.strategy`` (``module:Class``) with the constructor's ``protocol.args``."""

    reads = (*TRAINING, "protocol.strategy", "protocol.args")
    needs_vectors = True
    averages_buffers = True
    reduces = False

    def __init__(self, job: ModelJob) -> None:
        super().__init__(job)
        if not job.protocol.strategy:
            raise IncompatibleJob(
                "protocol.strategy: flower needs a strategy's path, such as "
                "flwr.serverapp.strategy:FedMedian"
            )
        self.path = job.protocol.strategy

    def prepare(self) -> None:
        """Refuse at the coordinator what cannot work or is not sound.

        Raises:
            IncompatibleJob: with the reason.
        """
        for names, verdict in ((_UNSOUND, "is not sound"), (_UNFIT, "does not fit")):
            for name, why in names.items():
                if name in self.path.partition(":")[2]:
                    raise IncompatibleJob(f"protocol.strategy: '{self.path}' {verdict}: {why}")
        with _quiet():
            strategy = self._build()
            _state(strategy, strategy)
        if self.job.privacy is not None and hasattr(strategy, "train_loss_key"):
            raise IncompatibleJob(
                f"protocol.strategy: '{self.path}' weighs silos by their training loss, which does "
                "not leave them under differential privacy"
            )

    def coordinate(self, fed: Federation, state: TrainState) -> Generator[Step, Any, TrainState]:
        """Let the strategy choose and combine, round by round."""
        while state.round < state.rounds:
            cohort = fed.cohort()
            number = state.round + 1
            with _quiet(), seeded(seeds.seed32(self.job.seed, "flower", "choose", number)):
                strategy = self._build()
                _restore(strategy, state.server)
                asked = self._configure(strategy, number, state.params, cohort)
            members = tuple(name for name in cohort if name in asked)
            answers: Answers = yield Ask(
                members, "train", self.request(state), quorum=fed.job.cohort_quorum
            )
            with _quiet(), seeded(seeds.seed32(self.job.seed, "flower", "combine", number)):
                params = self._aggregate(strategy, number, state.params, asked, answers)
                server = _state(strategy, self._build())
            buffers = mean_buffers(state, answers.replies)
            state = replace(state, params=params, server=server, round=number, buffers=buffers)
            check_finite({**params, **buffers}, where=f"global model after round {state.round}")
            said = report(state, answers.replies)
            not_asked = [name for name in cohort if name not in asked]
            yield Publish("round", {**said, "not_asked": not_asked})
            yield Checkpoint(state)
        return state

    def _build(self) -> Any:
        from flwr.serverapp.strategy import Strategy

        try:
            kind = resolve(self.path, self.search_path, what="protocol.strategy", of=Strategy)
        except JobInvalid as cause:
            raise IncompatibleJob(
                f"protocol.strategy: {'; '.join(cause.findings)} (strategies of Flower's "
                "older API, flwr.server.strategy, have another interface)"
            ) from None
        try:
            return kind(**self.job.protocol.args)
        except (TypeError, ValueError) as cause:
            raise IncompatibleJob(f"protocol.args: {self.path} refuses them: {cause}") from None

    def _configure(
        self, strategy: Any, number: int, params: Params, cohort: Sequence[str]
    ) -> dict[str, Any]:
        """Return silo → the message that the strategy sends it."""
        from flwr.app import ConfigRecord

        names = {_node_id(name): name for name in cohort}
        if getattr(strategy, "fraction_train", 1.0):
            wanted = [getattr(strategy, f"min_{kind}_nodes", 0) for kind in ("train", "available")]
            if len(cohort) < max(wanted):
                raise _too_few(len(cohort), max(wanted))
        grid = _grid(tuple(names))
        sent: dict[str, Any] = {}
        with self._explained(number):
            messages = list(
                strategy.configure_train(number, _record(params), ConfigRecord({}), grid)
            )
        for message in messages:
            (arrays,) = message.content.array_records.values()
            if any(not np.array_equal(arrays[key].numpy(), value) for key, value in params.items()):
                raise IncompatibleJob(
                    f"protocol.strategy: '{self.path}' sends another model than the global one; "
                    "this version sends one model to all"
                )
            sent[names[message.metadata.dst_node_id]] = message
        return sent

    def _aggregate(
        self,
        strategy: Any,
        number: int,
        params: Params,
        asked: Mapping[str, Any],
        answers: Answers,
    ) -> Params:
        """Return the new global model that the strategy makes of the silos' answers."""
        from flwr.app import Error, Message, MetricRecord, RecordDict

        loss = getattr(strategy, "train_loss_key", "train_loss")
        weight = getattr(strategy, "weighted_by_key", "num-examples")
        all_tell = all(reply.fields.get("loss") is not None for reply in answers.replies.values())
        replies = []
        for name in (*answers.replies, *answers.missing):
            if name in answers.missing:
                error = Error(code=0, reason=answers.missing[name].reason)
                replies.append(Message(error, reply_to=asked[name]))
                continue
            fields = answers.replies[name].fields
            figures = {weight: fields["num_examples"]}
            if all_tell:
                figures[loss] = fields["loss"]
            weights = subtract(params, fields["delta"])
            content = RecordDict({"arrays": _record(weights), "metrics": MetricRecord(figures)})
            replies.append(Message(content, reply_to=asked[name]))
        with self._explained(number):
            arrays, _ = strategy.aggregate_train(number, replies)
        if arrays is None:
            told = f"'{self.path}' made no model of {len(answers.replies)} answers"
            if answers.missing:
                error = failure(f"round {number}", told, answers.missing)
                if all(each.code in AWAY for each in answers.missing.values()):
                    error.awaits = Awaited(Quorum(len(answers.replies) + 1))
                raise error
            raise IncompatibleJob(f"round {number}: {told}; look at what its aggregate_train wants")
        made = {name: arrays[name].numpy() for name in params}
        zeros = {name: np.zeros_like(value) for name, value in params.items()}
        return add(zeros, made)

    @contextmanager
    def _explained(self, number: int) -> Iterator[None]:
        from flwr.serverapp.exception import AggregationError, InconsistentMessageReplies

        try:
            yield
        except (AggregationError, InconsistentMessageReplies) as cause:
            raise IncompatibleJob(f"round {number}: '{self.path}' stopped: {cause}") from cause


def _grid(node_ids: tuple[int, ...]) -> Any:
    """Return the part of a Flower grid that strategies use: who is there, and nothing else."""
    from flwr.serverapp import Grid

    class CohortGrid(Grid):  # type: ignore[misc]
        def __init__(self) -> None:
            self.polls = 0

        def get_node_ids(self) -> list[int]:
            self.polls += 1
            if self.polls > _POLLS:
                raise _too_few(len(node_ids), len(node_ids) + 1)
            return list(node_ids)

        def _closed(self, *args: Any, **kwargs: Any) -> Any:
            raise IncompatibleJob(
                "protocol.strategy: the strategy sends messages by itself; only strategies that "
                "leave this to configure_train can run here"
            )

        run = property(_closed)
        set_run = create_message = push_messages = pull_messages = send_and_receive = _closed

        def get_nodes(self) -> Any:
            self._closed()

    return CohortGrid()


def _too_few(here: int, wanted: int) -> QuorumLost:
    error = QuorumLost(
        f"the strategy waits for more silos than the {here} that are here; lower min_train_nodes "
        "and min_available_nodes in protocol.args"
    )
    error.awaits = Awaited(Quorum(wanted))
    return error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Flower from logging and calling home, and give its messages the identity they want."""
    environment.quieten()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from flwr.supercore.task_identity import TaskIdentity
    log = logging.getLogger("flwr")
    level, identity = log.level, (TaskIdentity._task_id, TaskIdentity._run_id)
    node = TaskIdentity._node_id
    log.setLevel(logging.CRITICAL)
    TaskIdentity._task_id, TaskIdentity._run_id = (each or 1 for each in identity)
    TaskIdentity._node_id = node or 1
    try:
        yield
    finally:
        log.setLevel(level)
        (TaskIdentity._task_id, TaskIdentity._run_id), TaskIdentity._node_id = identity, node


def _record(params: Params) -> Any:
    from flwr.app import Array, ArrayRecord

    return ArrayRecord({name: Array(value) for name, value in params.items()})


def _node_id(name: str) -> int:
    """Return a silo's node number: the same in every round, whoever else is there."""
    return int.from_bytes(seeds.derive("flower node", name)[:7], "big") + 1


def _state(strategy: Any, fresh: Any) -> dict[str, Any]:
    """Return a strategy's attributes as values that travel, save the settings of ``fresh``.

    Raises:
        IncompatibleJob: where an attribute cannot be kept.
    """
    kept = {}
    for name, value in vars(strategy).items():
        if _is_setting(value):
            if vars(fresh).get(name) is not value:
                raise _cannot_keep(strategy, name, value)
            continue
        try:
            kept[name] = _encode(value)
        except TypeError:
            raise _cannot_keep(strategy, name, value) from None
    return kept


def _restore(strategy: Any, server: Mapping[str, Any]) -> None:
    for name, value in server.items():
        setattr(strategy, name, _decode(value))


def _is_setting(value: Any) -> bool:
    return isinstance(value, _SETTINGS)


def _cannot_keep(strategy: Any, name: str, value: Any) -> ConsiloError:
    return IncompatibleJob(
        f"protocol.strategy: {type(strategy).__name__} keeps a {type(value).__name__} in '{name}', "
        "which cannot be written to a checkpoint; keep numbers, arrays, lists and mappings"
    )


def _encode(value: Any) -> Any:
    """Return a value with every container and array tagged by its kind, fit for the wire."""
    from flwr.app import ArrayRecord

    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if np.isfinite(value) else {"float": repr(value)}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {"array": value.copy()}
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {"scalar": np.asarray(value)}
    if isinstance(value, ArrayRecord):
        return {"record": [[name, array.numpy()] for name, array in value.items()]}
    if type(value) in (list, tuple):
        return {type(value).__name__: [_encode(each) for each in value]}
    if type(value) is dict:
        return {"dict": [[_encode(key), _encode(each)] for key, each in value.items()]}
    raise TypeError(type(value).__name__)


def _decode(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "float":
        return float(inner)
    if kind == "array":
        return inner.copy()
    if kind == "scalar":
        return inner[()]
    if kind == "record":
        return _record(dict(inner))
    if kind == "dict":
        return {_decode(key): _decode(each) for key, each in inner}
    items = [_decode(each) for each in inner]
    return tuple(items) if kind == "tuple" else items
