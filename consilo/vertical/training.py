"""What every vertical training shares: silos that meet, rounds, checkpoints, parts that are kept.

The label silo and the feature silos take turns; the coordinator carries their sealed letters. All
that it must remember between two rounds is a `Turn`: which letters are still to be delivered.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob, ModelDiverged, Refused, ReplyInvalid
from consilo.jobs.holders import Holders
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel.federation import Federation
from consilo.kernel.letters import Envelope, Mailbox
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Answers, Checkpoint, Publish, Step
from consilo.kernel.verbs import Disclosure, FromRows, arrays, count, verb
from consilo.kernel.view import Message, SiloView
from consilo.privacy.accounting import HistoryRow
from consilo.vertical import turns
from consilo.vertical.blocks import Block, block_of
from consilo.vertical.parts import Part, part_of_model
from consilo.vertical.roles import PARTS

LEAST_ROWS = 10
"""With fewer matched rows nothing is learnt: neither a model nor how good it is."""

REFERENCE = {"reference": arrays(Disclosure.STATISTIC, rows=FromRows.NONE)}
"""What a silo replies that has kept its part of the model: the part's SHA-256, 32 bytes."""


@dataclass(frozen=True)
class Turn:
    """Where a vertical training stands after ``round`` rounds; it round-trips through the wire.

    Args:
        round: how many are done.
        is_trained: nothing is left to train.
        rows: matched rows.
        unlabelled: how many of them have no label: they are not learnt from, and judge nothing.
        letters: receiver → sender → envelope, to be delivered with the next ask.
        metrics: of the model, as far as known: ``joined/roc_auc``, ``label_only/roc_auc``, …
        facts: further figures that the protocol tells, by name.
        epsilon: silo → what it spent in this run; empty without privacy.
        references: silo → SHA-256 of the part of the model that it keeps, in hexadecimal.
        top: the label silo's part, where the job asks for it; arrays by name.
    """

    round: int = 0
    is_trained: bool = False
    rows: int = 0
    unlabelled: int = 0
    letters: Mapping[str, Mapping[str, Envelope]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, float] = field(default_factory=dict)
    epsilon: Mapping[str, float] = field(default_factory=dict)
    references: Mapping[str, str] = field(default_factory=dict)
    top: Mapping[str, Any] = field(default_factory=dict)

    def to_payload(self) -> dict[str, Any]:
        """Return the state as values that `consilo.wire.payload.pack` takes."""
        return {
            "round": self.round,
            "is_trained": self.is_trained,
            "rows": self.rows,
            "unlabelled": self.unlabelled,
            "letters": {name: dict(each) for name, each in self.letters.items()},
            "metrics": dict(self.metrics),
            "facts": dict(self.facts),
            "epsilon": dict(self.epsilon),
            "references": dict(self.references),
            "top": dict(self.top),
        }

    @classmethod
    def from_payload(cls, value: Mapping[str, Any]) -> Self:
        """Return the state that `to_payload` wrote."""
        return cls(**value)

    def to(self, receiver: str, key: str = "envelopes") -> dict[str, Any]:
        """Return the part of a payload that brings one silo its letters."""
        return {key: dict(self.letters.get(receiver, {}))}


VERTICAL = (
    "task",
    "features.standardize",
    "features.missing",
    "features.drop_first",
    "local.threads",
    "match*",
    "promotion",
    "protocol.rounds",
)
"""What training over silos with other columns reads of a job, besides ``protocol.args``."""


class VerticalTraining(Protocol[Turn]):
    """Base of the vertical protocols: subclasses say what happens in a round, and at the end.

    Args:
        job: says who holds what, in ``protocol.args``.
    """

    rows = "matched"
    only_by_its_job = True
    settings: Holders
    tasks: ClassVar[tuple[str, ...]] = ("binary", "regression")
    """What a job may ask for."""
    label_verbs: ClassVar[tuple[str, ...]] = ()
    """What the label silo is asked, besides meeting the others; its policy must allow all of it."""
    feature_verbs: ClassVar[tuple[str, ...]] = ()
    """The same for the feature silos."""

    def __init__(self, job: ModelJob) -> None:
        self.job = job
        if job.task not in self.tasks:
            raise IncompatibleJob(
                f"{job.protocol.name}: task must be {' or '.join(self.tasks)}, not {job.task}"
            )

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with a job's settings."""
        return cls(ModelJob.of(job))

    def require_fit(self, contract: Contract) -> None:
        """Raise `IncompatibleJob` unless the job can run on a contract; asks nobody."""
        self.settings.require_fit(contract)

    def rehearse(self, contract: Contract, search_path: Sequence[Path]) -> list[str]:
        """Return what silos would refuse of the job's own code, tried on made-up rows."""
        return []

    def begin(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Do what comes before the first round; the silos have met."""
        raise NotImplementedError

    def train_round(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Do a round and return where training stands after it, with ``round`` as it was."""
        raise NotImplementedError

    def finish(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Judge the model and let each silo keep its part; return metrics and references."""
        raise NotImplementedError

    def coordinate(self, fed: Federation, state: Turn) -> Generator[Step, Any, Turn]:
        """Let the silos meet, train round by round, and finish."""
        everybody = self.settings.members
        if not state.round:
            state = yield from self._met(state)
            state = yield from self.begin(state)
        while not state.is_trained:
            done = state.round
            state = yield from self.train_round(state)
            state = replace(state, round=done + 1)
            yield Publish("round", self._report(state))
            yield Checkpoint(state)
        state = yield from self.finish(state)
        if state.references and self.settings.release_top:
            label = self.settings.label_silo
            answers: Answers = yield turns.asked((label,), everybody, "release", {})
            state = replace(state, top=dict(answers.replies[label].fields["top"]))
        yield turns.asked(everybody, everybody, "close", {})
        return state

    @verb("introduce", replies=turns.INTRODUCTIONS)
    def introduce(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's public key for the others."""
        return {"envelopes": Mailbox(silo).introduce(self.settings.members)}

    @verb(
        "meet",
        replies={
            "rows": count(rows=FromRows.NONE),
            "unlabelled": replace(count(), optional=True),
        },
    )
    def meet(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Take in the others' keys, read the matched rows, and say how many there are.

        The label silo says how many of them have no label, if any; not where rows are hidden.
        """
        Mailbox(silo).meet(message.payload["introductions"], self.settings.members)
        told = {"rows": self.num_rows(silo)}
        if self.job.trains and silo.name == self.settings.label_silo:
            unlabelled = self._unlabelled(silo, told["rows"])
            if unlabelled and silo.job.privacy is None and silo.admits("unlabelled"):
                told["unlabelled"] = unlabelled
        return told

    @verb("close", replies={})
    def close(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Erase the run's relay keys; a step of its own, since it cannot be taken back."""
        Mailbox(silo).close()
        return {}

    @verb("release", replies={"top": arrays(Disclosure.UPDATE)})
    def release(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: return the own part of the model, for the registry."""
        if not self.settings.release_top or silo.name != self.settings.label_silo:
            raise Refused("the job does not release this silo's part", code="verb")
        silo.require_same_run()
        part = part_of_model(silo, silo.header.run_id)
        if (part.protocol, part.args) != (self.job.protocol.name, self.job.protocol.args):
            raise Refused("this silo's part was trained by another job", code="verb")
        return {"top": {name: np.asarray(each) for name, each in part.content.items()}}

    def price(self, silo: SiloView) -> list[HistoryRow]:
        """Return what the whole training would reserve in a silo: (σ, q, steps) each."""
        return []

    def num_rows(self, silo: SiloView) -> int:
        """Return how many rows are matched, once they can be used."""
        return len(block_of(silo, self.settings))

    def _unlabelled(self, silo: SiloView, rows: int) -> int:
        unlabelled = rows - int(block_of(silo, self.settings).labelled.sum())
        if unlabelled and rows - unlabelled < LEAST_ROWS:
            raise Refused(
                f"of the matched rows fewer than {LEAST_ROWS} have a label, and a model needs as "
                "many to be trained and judged",
                code="labels",
            )
        return unlabelled

    def keep_part(self, silo: SiloView, block: Block, content: Mapping[str, Any]) -> dict[str, Any]:
        """Keep this silo's part of the model for later scoring; return the reply's `REFERENCE`.

        Args:
            silo: where.
            block: whose columns the part takes.
            content: the part: arrays and numbers by name.

        Raises:
            ModelDiverged: where it holds a number that is none; nothing is kept.
        """
        for name, each in content.items():
            if not np.isfinite(each).all():
                raise ModelDiverged(
                    f"the training diverged: '{name}' of the part in silo '{silo.name}' holds NaN "
                    "or infinite numbers, and is not kept"
                )
        part = Part.of(silo, self.settings, block, content)
        silo.role(PARTS).keep_part(part.model, part.to_bytes(), part.about())
        return {"reference": {"sha256": np.frombuffer(part.digest, np.uint8)}}

    def _met(self, state: Turn) -> Generator[Step, Any, Turn]:
        everybody = self.settings.members
        inbox = yield from turns.introduced(everybody)
        own = {name: {"introductions": inbox[name]} for name in everybody}
        answers: Answers = yield turns.asked(everybody, everybody, "meet", {}, own)
        rows = {name: int(reply.fields["rows"]) for name, reply in answers.replies.items()}
        if len(set(rows.values())) > 1:
            raise IncompatibleJob(
                "the silos' halves of the match differ in length "
                f"({', '.join(f'{name}: {n}' for name, n in rows.items())}); match again"
            )
        label = answers.replies[self.settings.label_silo].fields
        unlabelled = int(label.get("unlabelled", 0))
        if unlabelled > min(rows.values()):
            raise ReplyInvalid(
                f"silo '{self.settings.label_silo}': {unlabelled} rows without a label, of "
                f"{min(rows.values())} that are matched"
            )
        return replace(state, rows=min(rows.values()), unlabelled=unlabelled)

    def _report(self, state: Turn) -> dict[str, Any]:
        silos: dict[str, dict[str, Any]] = {
            name: {
                "num_examples": state.rows - state.unlabelled,
                "loss": None,
                "metrics": {},
                "epsilon": state.epsilon.get(name),
                "epsilon_bound": None,
            }
            for name in self.settings.members
        }
        return {
            "round": state.round,
            "silos": silos,
            "metrics": dict(state.metrics),
            "loss": None,
            "model_bytes": 0,
        }


def references(answers: Answers) -> dict[str, str]:
    """Return silo → reference, of replies that hold a `REFERENCE`.

    Raises:
        ReplyInvalid: where one is no SHA-256.
    """
    by_silo = {}
    for name, reply in answers.replies.items():
        reference = reply.fields["reference"].get("sha256")
        if reference is None or reference.dtype != np.uint8 or reference.shape != (32,):
            raise ReplyInvalid(f"silo '{name}' sent no SHA-256 as reference to its part")
        by_silo[name] = reference.tobytes().hex()
    return by_silo
