"""One silo's end of a split training: its networks, its letters, its privacy account."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.errors import Refused
from consilo.horizontal.features import Scale
from consilo.horizontal.learning import (
    admit,
    figures_noise,
    plan_of,
    run_epsilon,
    training_noise,
)
from consilo.horizontal.scaling import scale_of_target, target_mode
from consilo.jobs.job import ModelSpec
from consilo.jobs.model_job import ModelJob
from consilo.kernel import seeds
from consilo.kernel.letters import Envelope
from consilo.kernel.view import Message, SiloView
from consilo.learners.tasks import Task
from consilo.privacy.accounting import HistoryRow
from consilo.vertical import turns
from consilo.vertical.blocks import Array, Block, block_of
from consilo.vertical.split.cut_layer import quantized, restored
from consilo.vertical.split.plan import Network, Plan, SplitSettings
from consilo.vertical.split.state import Shelf
from consilo.wire.payload import canonical_json, digest

if TYPE_CHECKING:
    import torch

    from consilo.vertical.split.layers import Joined, Learner, Noise

_MECHANISM, _PAID = "vertical_split", "paid"


@dataclass(frozen=True)
class SplitPart:
    """What one silo needs in a step.

    Args:
        silo: which.
        settings: of the job.
    """

    silo: SiloView
    settings: SplitSettings

    @cached_property
    def block(self) -> Block:
        """The silo's columns of the matched rows."""
        return block_of(self.silo, self.settings)

    @cached_property
    def plan(self) -> Plan:
        """Which networks learn from which rows."""
        return Plan.of(ModelJob.of(self.silo.job), self.settings, len(self.block))

    @cached_property
    def shelf(self) -> Shelf:
        """The silo's states."""
        return Shelf(self.silo, self.plan.per_epoch)

    @property
    def is_label_silo(self) -> bool:
        """Whether the labels are here."""
        return self.silo.name == self.settings.label_silo

    @cached_property
    def task(self) -> Task:
        """What is learnt; in the label silo, whose target's scale stays there."""
        job, targets = ModelJob.of(self.silo.job), self.block.targets
        task = Task.of(
            job.task,
            num_classes=len(self.block.classes) or 2,
            num_targets=1 if targets.ndim == 1 else targets.shape[1],
            num_outputs=job.outputs,
            loss=job.loss,
            metrics=job.metrics,
            search_path=self.silo.search_path,
        )
        own_loss = job.task == "regression" and task.has_own_loss(self._top(task))
        mode = target_mode(job, self.silo.contract, own_loss=own_loss)
        wide = np.asarray(targets, np.float64).reshape(len(targets), -1)[self.block.labelled]
        moments = Scale.of_moments(wide.mean(axis=0), wide.var(axis=0))
        scale = scale_of_target(self.silo.contract, mode, moments)
        return task if scale is None else task.scaled(scale.mean, scale.deviation)

    def step_of(self, message: Message) -> int:
        """Return which step a message asks for; raise `Refused` where there is none such."""
        step = int(message.payload["step"])
        if not 1 <= step <= self.plan.total:
            raise Refused(f"the job has the steps 1 to {self.plan.total}", code="order")
        return step

    def learners(self, step: int) -> dict[str, Learner]:
        """Return this silo's parts of the networks as they stand after ``step`` steps."""
        from consilo.vertical.split.layers import Learner, load

        learners, starts = {}, {}
        for each in self.plan.networks if self.is_label_silo else self.plan.crossing:
            kind = each.way == "label_only"
            if kind not in starts:
                starts[kind] = self.joined(each) if self.is_label_silo else self.bottom()
            model = deepcopy(starts[kind])
            learners[each.name] = Learner(model, self._optimizer(model))
        if step:
            load(learners, self.shelf.after(step))
        return learners

    def bottom(self) -> torch.nn.Module:
        """Return the bottom model as it starts."""
        names = self.block.inputs
        # Its start is the silo's secret: with known weights a first embedding tells its row.
        spec, width = self.settings.bottom, self.settings.width
        return self._built(spec, len(names), width, "bottom", names)

    def joined(self, network: Network) -> Joined:
        """Return the label silo's part of a network as it starts."""
        from consilo.vertical.split.layers import Joined

        sources = 1 if network.way == "label_only" else len(self.settings.members)
        return Joined(self.bottom(), self._top(self.task, sources), self.settings.clip)

    def _top(self, task: Task, sources: int = 1) -> torch.nn.Module:
        """Return the top model as it starts, over the embeddings of so many silos."""
        module, inputs = ModelJob.of(self.silo.job).module, sources * self.settings.width
        return self._built(module, inputs, task.num_outputs, "top")

    def rows(self, network: Network, places: Array) -> torch.Tensor:
        """Return this silo's columns of the rows that a network sees at some places."""
        if not self.is_label_silo:
            places = self.plan.theirs(network, places)
        return _tensor(self.block.features[places])

    def targets(self, places: Array) -> torch.Tensor:
        """Return the labels at some places; 0 where a row has none."""
        known = self.block.labelled[places]
        some = known if self.block.targets.ndim == 1 else known[:, None]
        return self.task.encode(np.where(some, self.block.targets[places], 0))

    def labelled(self, places: Array) -> torch.Tensor:
        """Return which rows at some places have a label, bool."""
        import torch

        return torch.from_numpy(self.block.labelled[places])

    def seeded(self, step: int) -> Any:
        """Return a scope in which what models draw depends on silo, step and their order alone."""
        from consilo.learners.randomness import seeded

        return seeded(self._seed(f"step {step}"))

    def sealed(self, receiver: str, topic: str, batches: Mapping[str, torch.Tensor]) -> Envelope:
        """Return an envelope with what crosses the cut to one silo, by network."""
        rng, bits = self.silo.rng(f"cut layer to {receiver}"), self.settings.bits
        sent = {name: quantized(each.numpy(), bits, rng) for name, each in batches.items()}
        return turns.Post(self.silo, self.block.mark).seal(receiver, topic, {"batches": sent})

    def received(
        self, senders: Sequence[str], topic: str, message: Message, rows: Mapping[str, int]
    ) -> dict[str, torch.Tensor]:
        """Return what crossed the cut from some silos: network → their columns side by side.

        Args:
            senders: in the order of their columns.
            topic: what they were to send.
            message: with their envelopes.
            rows: network → how many rows it must be.
        """
        import torch

        post, width = turns.Post(self.silo, self.block.mark), self.settings.width
        told = {
            name: post.open(name, topic, message.payload["envelopes"][name])["batches"]
            for name in senders
        }
        return {
            network: torch.cat(
                [_tensor(restored(told[n].get(network, {}), count, width)) for n in senders], dim=1
            )
            for network, count in rows.items()
        }

    def content(self, learner: Learner) -> dict[str, Any]:
        """Return what is kept of the final network here: its weights, and how it is built."""
        from consilo.vertical.split.layers import weights_of

        settings = self.settings
        about: dict[str, Any] = {
            "bottom": settings.bottom.model_dump(mode="json"),
            "num_inputs": self.block.features.shape[1],
            "width": settings.width,
            "clip": settings.clip,
            "is_private": self.silo.job.privacy is not None,
        }
        if self.is_label_silo:
            targets = self.block.targets
            about |= {
                "top": ModelJob.of(self.silo.job).module.model_dump(mode="json"),
                "num_outputs": self.task.num_outputs,
                "num_targets": 1 if targets.ndim == 1 else targets.shape[1],
            }
            if self.task.mean:
                ends = {"mean": list(self.task.mean), "deviation": list(self.task.deviation)}
                about |= {"target": ends}
        weights = {f"weights/{name}": each for name, each in weights_of(learner.model).items()}
        return {"about": np.frombuffer(canonical_json(about), np.uint8), **weights}

    def pay(self) -> float | None:
        """Reserve the cost of all epochs, before any row is used; return ε, None without privacy.

        Raises:
            BudgetExhausted: where the job or the data set's account cannot pay.
        """
        privacy, keep = self.silo.job.privacy, self.silo.kept_number
        if privacy is None:
            return None
        sigma, rate, steps = price(self.silo, is_label_silo=self.is_label_silo)[-1]
        history = self.silo.reserve(
            _MECHANISM,
            sigma=sigma,
            sample_rate=rate,
            steps=steps,
            rows=len(self.block),
            fingerprint=self._fingerprint,
            admit=lambda history: admit(history, privacy, keep),
            pays_ahead=True,
        )
        self.silo.keep(_PAID, self._fingerprint.encode())
        return run_epsilon(history, privacy, keep)[0]

    def noise(self) -> Noise | None:
        """Return what hides this step's rows; None without privacy.

        Raises:
            Refused: where the run has not paid, or for other rows, or under another job.
        """
        from consilo.vertical.split.layers import Noise

        privacy, clip = self.silo.job.privacy, self.settings.clip
        if privacy is None or clip is None:
            return None
        sigma, rate, steps = price(self.silo, is_label_silo=self.is_label_silo)[-1]
        reserved = self.silo.account.reserved(self.silo.header.run_id)
        for_these_rows = self.silo.kept(_PAID) == self._fingerprint.encode()
        if not for_these_rows or (_MECHANISM, (sigma, rate, steps)) not in reserved:
            raise Refused(
                "the run has not paid for its noise here; set_up comes first", code="order"
            )
        return Noise(
            sigma=sigma,
            clip=privacy.max_grad_norm if self.is_label_silo else clip,
            clip_update=privacy.max_grad_norm,
            stream=self.silo.noise(self._fingerprint),
        )

    @cached_property
    def _fingerprint(self) -> str:
        data = (self.block.features.tobytes(), self.block.targets.tobytes())
        return digest([digest(each) for each in data])

    def _seed(self, purpose: str) -> int:
        return seeds.seed32(self.silo.secret_key().hex(), _MECHANISM, purpose)

    def _optimizer(self, model: torch.nn.Module) -> torch.optim.Optimizer:
        from consilo.learners.optimizers import make_optimizer

        plan = plan_of(self.silo.job)
        rate = self.settings.learning_rates.get(self.silo.name, plan.lr)
        return make_optimizer(replace(plan, lr=rate), model, self.silo.search_path)

    def _built(
        self,
        spec: ModelSpec,
        inputs: int,
        outputs: int,
        purpose: str,
        input_names: Sequence[str] | None = None,
    ) -> torch.nn.Module:
        from consilo.learners.modules import build_model
        from consilo.privacy.dpsgd import check_private

        model = build_model(
            {"class": spec.name, "args": spec.args},
            num_inputs=inputs,
            num_outputs=outputs,
            seed=self._seed(purpose),
            search_path=self.silo.search_path,
            input_names=input_names,
        )
        if self.silo.job.privacy is not None:
            check_private(model)
        return model


def price(silo: SiloView, *, is_label_silo: bool) -> list[HistoryRow]:
    """Return what a job costs a silo's account: rows (σ, q, steps); nothing without privacy.

    The last is training: a row is hidden by Gaussian noise twice an epoch, when it is sent and when
    it is learnt from. Before it, in the label silo, figures of merit, where the job pays for some.
    """
    job = ModelJob.of(silo.job)
    if job.privacy is None:
        return []
    keep, steps = silo.kept_number, 2 * job.protocol.rounds
    figures: list[HistoryRow] = []
    if is_label_silo and job.privacy.metrics_epsilon is not None:
        figures.append((figures_noise(keep, job.privacy), 1.0, 1))
    sigma = training_noise(keep, job, rate=1.0, steps=steps, besides=figures)
    return [*figures, (sigma, 1.0, steps)]


def _tensor(values: Array) -> torch.Tensor:
    import torch

    return torch.from_numpy(np.array(values, np.float32))
