"""Split neural network: a bottom model in every silo, top model and labels in the label silo.

Two asks per minibatch: the feature silos take the gradients of the batch before and seal the
embeddings of the next; the label silo learns from them and seals the gradients. Without privacy the
parts learn just what one joined network would. Batches are drawn from the joint order of the match,
which the coordinator does not know, by a permutation per epoch; the last places of the joint order
are held out. Who learns what:

- **Label silo**: the embedding of every matched row, each time it is trained on (``embedding``).
- **Feature silos**: the gradient of each row's loss by its embedding, from which labels can be
  inferred unless the job has a privacy section (``label``).
- **Coordinator**: metrics on the held-out rows, padded sizes of envelopes.

With a privacy section each silo's rows are hidden from the other silos; `consilo.vertical.split`
says how, and each silo pays from its own ledger for all epochs before its first answer.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from consilo import seeds
from consilo.config import parse
from consilo.errors import IncompatibleJob, JobInvalid
from consilo.job import Job, ModelSpec
from consilo.learners.tasks import Task
from consilo.learning import admit, plan_of, run_epsilon, training_noise
from consilo.privacy.noise import SecretStream
from consilo.protocol import Disclosure, Protocol, number, numbers, verb
from consilo.sealed import Mailbox
from consilo.silo import Message, SiloView
from consilo.steps import Answers, Publish, Step
from consilo.vertical import turns
from consilo.vertical.blocks import Array, Block, Holders, block_of
from consilo.vertical.cut_layer import quantized, restored
from consilo.wire import digest

if TYPE_CHECKING:
    import torch

    from consilo.vertical.split import Joined, Noise

_EMBEDDINGS, _GRADIENTS = "embeddings", "gradients"


def _spec(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class SplitSettings(Holders):
    """``protocol.args`` of vertical_split; the job's model is the top model."""

    width: int = Field(8, ge=1, description="numbers in a silo's embedding of a row")
    bottom: Annotated[ModelSpec, BeforeValidator(_spec)] = ModelSpec(
        name="consilo.learners.tabular:MLP", args={"hidden": [32]}
    )
    learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="silo → learning rate; local.lr for the others"
    )
    clip: float | None = Field(
        None, gt=0, description="largest L2 norm of a row's embedding; needed with privacy"
    )
    bits: int | None = Field(
        None, ge=1, le=8, description="per number that crosses the cut; float32 by default"
    )

    @model_validator(mode="after")
    def _rates_have_silos(self) -> Self:
        unknown = sorted(set(self.learning_rates) - set(self.columns))
        if unknown:
            raise ValueError(f"learning_rates: no silo is called {', '.join(unknown)}")
        return self


@dataclass(frozen=True)
class SplitTrained:
    """What the coordinator learns of a split training.

    Args:
        metrics: on the held-out rows, and ``num_rows`` of them.
        epsilon: silo → what it spent; empty without privacy.
        batches: how many were trained on.
    """

    metrics: Mapping[str, float]
    epsilon: Mapping[str, float]
    batches: int


class VerticalSplit(Protocol):
    """Trains a split network.

    Args:
        job: ``protocol.rounds`` are epochs, ``local`` gives batch size and optimiser,
            ``evaluation.holdout`` what is held out, ``protocol.args`` are those of
            `SplitSettings`.
    """

    def __init__(self, job: Job) -> None:
        self.job = job
        where = f"{job.name}, protocol.args"
        self.settings = parse(SplitSettings, job.protocol.args, where=where, error=JobInvalid)
        if job.privacy is not None:
            faults = []
            if self.settings.clip is None:
                faults.append("protocol.args.clip must say how large a row's embedding may be")
            if job.features.standardize not in ("contract", "none"):
                faults.append(
                    "features.standardize must be 'contract' or 'none': a row would move the mean"
                )
            if faults:
                raise IncompatibleJob(f"privacy in vertical_split: {'; '.join(faults)}")

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol with a job's settings."""
        return cls(job)

    def coordinate(self, fed: Any, state: None) -> Generator[Step, Any, SplitTrained]:
        """Carry embeddings up and gradients down, batch by batch; then evaluate."""
        holders, everybody = self.settings, self.settings.members
        label, others = holders.label_silo, holders.feature_silos
        inbox = yield from turns.introduced(everybody)
        own: dict[str, dict[str, Any]] = {
            name: {"introductions": {label: inbox[name][label]}} for name in others
        }
        sizes: Answers = yield turns.asked(everybody, everybody, "size", {})
        rows = {reply.fields["sizes"]["rows"] for reply in sizes.replies.values()}
        if len(rows) > 1:
            raise IncompatibleJob("the silos' halves of the match differ in length; match again")
        order = Batches(self.job, int(rows.pop()))
        for step in range(1, order.total + 1):
            asked = {"step": step}
            told: Answers = yield turns.asked(others, everybody, "embed", asked, own)
            mine: dict[str, Any] = {
                "envelopes": {n: turns.letter(each, label) for n, each in told.replies.items()}
            }
            if step == 1:
                mine["introductions"] = inbox[label]
            back: Answers = yield turns.asked((label,), everybody, "learn", asked, {label: mine})
            own = {name: {"envelope": turns.letter(back.replies[label], name)} for name in others}
            if step % order.per_epoch == 0:
                yield Publish("vertical_epoch", {"epoch": step // order.per_epoch})
        asked = {"step": order.total + 1}
        told = yield turns.asked(others, everybody, "embed", asked, own)
        letters = {name: turns.letter(reply, label) for name, reply in told.replies.items()}
        judged: Answers = yield turns.asked(
            (label,), everybody, "judge", asked, {label: {"envelopes": letters}}
        )
        yield turns.asked(everybody, everybody, "close", {})
        replies = {**told.replies, **judged.replies}
        spent = {n: e.fields["epsilon"] for n, e in replies.items() if "epsilon" in e.fields}
        metrics = dict(judged.replies[label].fields["metrics"])
        return SplitTrained(metrics, spent, order.total)

    @verb("introduce", replies=turns.INTRODUCTIONS)
    def introduce(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's public key for the others."""
        return {"envelopes": Mailbox(silo).introduce(self.settings.members)}

    @verb("size", replies={"sizes": numbers(Disclosure.STATISTIC)})
    def size(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return how many rows are matched; all silos of the match know it."""
        return {"sizes": {"rows": len(block_of(silo, self.settings))}}

    @verb(
        "embed",
        replies={
            "envelopes": turns.SCORES,
            "epsilon": number(Disclosure.STATISTIC, optional=True),
        },
    )
    def embed(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: learn from the gradients of the batch before, seal the next embeddings."""
        from consilo.vertical.split import embed, learn_bottom, load, saved

        label, step = self.settings.label_silo, int(message.payload["step"])
        if step == 1:
            Mailbox(silo).meet(message.payload["introductions"], (label,))
        part = _Part(self, silo)
        bottom = part.bottom()
        optimizer = part.optimizer(bottom)
        noise = part.noise()
        if step > 1:
            load(bottom, optimizer, turns.kept(silo, "net", step - 2)["net"])
            learnt = part.features(step - 1)
            told = part.post.open(label, _GRADIENTS, message.payload["envelope"])
            back = part.received(told, len(learnt))
            with part.seeded(step - 1):
                learn_bottom(bottom, optimizer, learnt, back, self.settings.clip, noise)
        else:
            part.pay()
        turns.keep(silo, "net", step - 1, {"net": saved(bottom, optimizer)})
        is_last = step > part.order.total
        bottom.train(not is_last)
        with part.seeded(step):
            found = embed(bottom, part.features(step), self.settings.clip).detach()
        if noise is not None:
            found = noise.on_rows(found)
        sealed = part.post.seal(label, _EMBEDDINGS, {"batch": part.sent(found)})
        return {"envelopes": {label: sealed}, **(part.spent() if is_last else {})}

    @verb("learn", replies={"envelopes": turns.RESIDUALS})
    def learn(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: learn from a batch's embeddings, seal their gradients."""
        from consilo.vertical.split import learn_top, load, saved

        step = int(message.payload["step"])
        part = _Part(self, silo)
        model = part.joined()
        optimizer = part.optimizer(model)
        if step == 1:
            Mailbox(silo).meet(message.payload["introductions"], self.settings.members)
            part.pay()
        else:
            load(model, optimizer, turns.kept(silo, "net", step - 1)["net"])
        others = part.embeddings(message, step)
        with part.seeded(step):
            back = learn_top(
                model,
                optimizer,
                part.task,
                part.features(step),
                others,
                part.targets(step),
                part.noise(),
            )
        turns.keep(silo, "net", step, {"net": saved(model, optimizer)})
        width = self.settings.width
        sealed = {
            name: part.post.seal(
                name, _GRADIENTS, {"batch": part.sent(back[:, at * width : (at + 1) * width])}
            )
            for at, name in enumerate(self.settings.feature_silos)
        }
        return {"envelopes": sealed}

    @verb(
        "judge",
        replies={
            "metrics": numbers(Disclosure.METRIC),
            "epsilon": number(Disclosure.STATISTIC, optional=True),
        },
    )
    def judge(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: return the figures of merit on the held-out rows."""
        import torch

        from consilo.vertical.split import load

        part = _Part(self, silo)
        model = part.joined()
        step = part.order.total + 1
        load(model, part.optimizer(model), turns.kept(silo, "net", step - 1)["net"])
        others = part.embeddings(message, step)
        model.eval()
        with torch.no_grad():
            outputs = part.task.shape_outputs(model(part.features(step), others))
        found, _ = part.task.measure(model.top, outputs, part.targets(step))
        return {"metrics": {**found, "num_rows": float(len(outputs))}, **part.spent()}

    @verb("close", replies={})
    def close(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Erase the run's relay keys; a step of its own, since it cannot be taken back."""
        Mailbox(silo).close()
        return {}


@dataclass(frozen=True)
class Batches:
    """Which places of the joint order a step trains on; the same in every silo.

    Args:
        job: gives seed, batch size, epochs and the held-out share.
        num_rows: matched rows.
    """

    job: Job
    num_rows: int

    @property
    def num_train(self) -> int:
        """How many places are trained on; those after them are held out."""
        held = round(self.job.evaluation.holdout * self.num_rows)
        return self.num_rows - min(max(held, 1), self.num_rows - 1)

    @property
    def per_epoch(self) -> int:
        """Batches in an epoch; the last one may be smaller."""
        return -(-self.num_train // self.job.local.batch_size)

    @property
    def total(self) -> int:
        """Batches in all epochs."""
        return self.per_epoch * self.job.protocol.rounds

    def rows(self, step: int) -> Array:
        """Return the places of batch ``step``, from 1; after the last one, those held out."""
        if step > self.total:
            return np.arange(self.num_train, self.num_rows)
        epoch, place = divmod(step - 1, self.per_epoch)
        order = seeds.generator(self.job.seed, "vertical order", epoch).permutation(self.num_train)
        size = self.job.local.batch_size
        return order[place * size : (place + 1) * size]


@dataclass(frozen=True)
class _Part:
    """What one silo needs in a step: rows, models, letters, noise."""

    protocol: VerticalSplit
    silo: SiloView

    @cached_property
    def block(self) -> Block:
        return block_of(self.silo, self.protocol.settings)

    @cached_property
    def order(self) -> Batches:
        return Batches(self.silo.job, len(self.block))

    @cached_property
    def post(self) -> turns.Post:
        return turns.Post(self.silo, self.block.mark)

    @cached_property
    def task(self) -> Task:
        job, targets = self.silo.job, self.block.targets
        return Task.of(
            job.task,
            num_classes=len(self.block.classes) or 2,
            num_targets=1 if targets.ndim == 1 else targets.shape[1],
            num_outputs=job.outputs,
            loss=job.loss,
            metrics=job.metrics,
            search_path=self.silo.host.search_path,
        )

    def features(self, step: int) -> torch.Tensor:
        return _tensor(self.block.features[self.order.rows(step)])

    def targets(self, step: int) -> torch.Tensor:
        return self.task.encode(self.block.targets[self.order.rows(step)])

    def bottom(self) -> torch.nn.Module:
        settings = self.protocol.settings
        # Its start is the silo's secret: with known weights a first embedding tells its row.
        return self._built(
            settings.bottom, self.block.features.shape[1], settings.width, self._seed("bottom")
        )

    def joined(self) -> Joined:
        from consilo.vertical.split import Joined

        settings = self.protocol.settings
        width = settings.width * len(settings.members)
        seed = self._seed("top")
        top = self._built(self.silo.job.module, width, self.task.num_outputs, seed)
        return Joined(self.bottom(), top, settings.clip)

    def optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        from consilo.learners.optimizers import make_optimizer

        plan = plan_of(self.silo.job)
        rate = self.protocol.settings.learning_rates.get(self.silo.name, plan.lr)
        return make_optimizer(replace(plan, lr=rate), model)

    def seeded(self, step: int) -> Any:
        """Return a scope in which what a model draws depends on silo and step alone."""
        from consilo.learners.randomness import seeded

        return seeded(self._seed(f"step {step}"))

    def embeddings(self, message: Message, step: int) -> torch.Tensor:
        """Return the feature silos' embeddings of a batch, side by side."""
        import torch

        rows = len(self.order.rows(step))
        letters = message.payload["envelopes"]
        return torch.cat(
            [
                self.received(self.post.open(name, _EMBEDDINGS, letters[name]), rows)
                for name in self.protocol.settings.feature_silos
            ],
            dim=1,
        )

    def received(self, told: Mapping[str, Any], rows: int) -> torch.Tensor:
        return _tensor(restored(told["batch"], rows, self.protocol.settings.width))

    def sent(self, batch: torch.Tensor) -> dict[str, Any]:
        rng = self.silo.rng(f"cut layer {batch.shape[1]}")
        return quantized(batch.numpy(), self.protocol.settings.bits, rng)

    def pay(self) -> None:
        """Reserve the cost of all epochs, before any row is used."""
        job, host = self.silo.job, self.silo.host
        privacy = job.privacy
        if privacy is None:
            return
        self.silo.reserve(
            "vertical_split",
            sigma=self._sigma,
            sample_rate=1.0,
            steps=_mechanisms(job),
            rows=len(self.block),
            fingerprint=self._fingerprint,
            admit=lambda history: admit(history, privacy, host.kept_number),
        )

    def spent(self) -> dict[str, float]:
        """Return ε as reserved in this run; nothing without privacy."""
        job, host = self.silo.job, self.silo.host
        if job.privacy is None:
            return {}
        history = [row for _, row in host.reserved(self.silo.header.run_id)]
        return {"epsilon": run_epsilon(history, job.privacy, host.kept_number)[0]}

    def noise(self) -> Noise | None:
        """Return what hides this step's rows; None without privacy."""
        from consilo.vertical.split import Noise

        privacy, settings = self.silo.job.privacy, self.protocol.settings
        if privacy is None or settings.clip is None:
            return None
        is_label = self.silo.name == settings.label_silo
        return Noise(
            sigma=self._sigma,
            clip=privacy.max_grad_norm if is_label else settings.clip,
            clip_update=privacy.max_grad_norm,
            stream=SecretStream(
                self.silo.secret_key(), f"{self.silo.noise_context}/{self._fingerprint}"
            ),
        )

    @cached_property
    def _fingerprint(self) -> str:
        data = (self.block.features.tobytes(), self.block.targets.tobytes())
        return digest([digest(each) for each in data])

    @cached_property
    def _sigma(self) -> float:
        job = self.silo.job
        return training_noise(self.silo.host, job, rate=1.0, steps=_mechanisms(job), besides=())

    def _seed(self, purpose: str) -> int:
        return seeds.seed32(self.silo.secret_key().hex(), "vertical_split", purpose)

    def _built(self, spec: ModelSpec, inputs: int, outputs: int, seed: int) -> torch.nn.Module:
        from consilo.learners.modules import build_model
        from consilo.privacy.dpsgd import check_private

        model = build_model(
            {"class": spec.name, "args": spec.args},
            num_inputs=inputs,
            num_outputs=outputs,
            seed=seed,
            search_path=self.silo.host.search_path,
        )
        if self.silo.job.privacy is not None:
            check_private(model)
        return model


def _mechanisms(job: Job) -> int:
    """Return how often a row is hidden by Gaussian noise: sent once and learnt from, per epoch."""
    return 2 * job.protocol.rounds


def _tensor(values: Array) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(values, np.float32))
