"""Split neural network: a bottom model in every silo, top model and labels in the label silo.

Two asks per minibatch: the feature silos take the gradients of the batch before and seal the
embeddings of the next; the label silo learns from them and seals the gradients. Without privacy the
parts learn just what one joined network would. Batches are drawn from the joint order of the match,
which the coordinator does not know, by a permutation per epoch. Who learns what:

- **Label silo**: the embedding of every matched row, each time it is trained on (``embedding``).
- **Feature silos**: the gradient of each row's loss by its embedding, from which labels can be
  inferred unless the job has a privacy section (``label``).
- **Coordinator**: metrics on rows that were held out, padded sizes of envelopes.

With a privacy section each silo's rows are hidden from the other silos;
`consilo.vertical.split.layers` says how, and each silo pays from its own ledger for all epochs
before its first answer.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from consilo.config import parse
from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob, JobInvalid
from consilo.jobs.model_job import ModelJob
from consilo.kernel.steps import Answers, Step
from consilo.kernel.verbs import Disclosure, FromRows, number, numbers, verb
from consilo.kernel.view import Message, SiloView
from consilo.privacy.accounting import HistoryRow
from consilo.vertical import turns
from consilo.vertical.split.part import SplitPart, price
from consilo.vertical.split.plan import FINAL, Plan, SplitSettings
from consilo.vertical.training import REFERENCE, VERTICAL, Turn, VerticalTraining, references

if TYPE_CHECKING:
    from consilo.vertical.split.layers import Joined, Learner, Noise

_EMBEDDINGS, _GRADIENTS = "embeddings", "gradients"


FIGURES = "vertical_split_figures"
"""What the ledger calls the judgement of a private network on its held-out rows."""


class VerticalSplit(VerticalTraining):
    """Trains a split network.

    A round is an epoch. The metrics ``joined/roc_auc``, ``label_only/roc_auc``,
    ``shuffled/roc_auc``, … are those of rows that the network did not learn from: with the columns
    of all silos, with the label silo's, and with the others' rows in a wrong order; with ``folds``
    they are means over them. The facts are ``batches`` and ``held_out``, rows that judge a network.

    Args:
        job: ``protocol.rounds`` are epochs, ``local`` gives batch size and optimiser,
            ``evaluation.holdout`` what is held out, ``protocol.args`` are those of
            `SplitSettings`.
    """

    reads = (
        *VERTICAL,
        "features.standardize_target",
        "model*",
        "loss",
        "metrics",
        "outputs",
        "evaluation.holdout",
        "local.batch_size",
        "local.optimizer",
        "local.lr",
        "local.momentum",
        "local.weight_decay",
        "local.args",
        "protocol.args",
    )
    tasks: ClassVar[tuple[str, ...]] = ("binary", "multiclass", "regression", "custom")
    keyed_by_run = True
    label_verbs: ClassVar[tuple[str, ...]] = ("set_up", "learn", "judge")
    feature_verbs: ClassVar[tuple[str, ...]] = ("set_up", "embed", "conclude")
    settings: SplitSettings

    def __init__(self, job: ModelJob) -> None:
        super().__init__(job)
        where = f"{job.name}, protocol.args"
        self.settings = parse(SplitSettings, job.protocol.args, where=where, error=JobInvalid)
        if job.privacy is None:
            return
        faults = []
        if self.settings.clip is None:
            faults.append("protocol.args.clip must say how large a row's embedding may be")
        if job.features.standardize not in ("contract", "none"):
            faults.append(
                "features.standardize must be 'contract' or 'none': a row would move the mean"
            )
        if self.settings.folds is not None or self.settings.controls:
            faults.append(
                "protocol.args.folds and controls train further networks, each of which would have "
                "to be paid for; leave them out"
            )
        if faults:
            raise IncompatibleJob(f"privacy in vertical_split: {'; '.join(faults)}")

    def require_fit(self, contract: Contract) -> None:
        """Raise `IncompatibleJob` unless the job can run on a contract; asks nobody."""
        super().require_fit(contract)
        privacy = self.job.privacy
        gaps = [name for name in contract.targets if contract.columns[name].nullable_share > 0]
        if gaps and privacy is not None and privacy.metrics_epsilon is not None:
            raise IncompatibleJob(
                f"privacy.metrics_epsilon: '{gaps[0]}' of {contract.ref} may be empty, and figures "
                "do not hide how many rows have a label; leave metrics_epsilon out, or set "
                "nullable_share to 0"
            )

    def rehearse(self, contract: Contract, search_path: Sequence[Path]) -> list[str]:
        """Return what silos would refuse of the models, the loss, the metrics, the optimiser."""
        from consilo.vertical.split.rehearsal import rehearse_split

        return rehearse_split(self.job, self.settings, contract, search_path)

    def begin(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Let every silo build its part and pay for all epochs."""
        everybody = self.settings.members
        answers: Answers = yield turns.asked(everybody, everybody, "set_up", {})
        plan = Plan.of(self.job, self.settings, state.rows)
        held = max(len(plan.held_out(each)) for each in plan.networks)
        return replace(
            state,
            facts={"batches": float(plan.total), "held_out": float(held)},
            epsilon={
                name: reply.fields["epsilon"]
                for name, reply in answers.replies.items()
                if "epsilon" in reply.fields
            },
        )

    def train_round(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Carry embeddings up and gradients down, batch by batch, for one epoch."""
        label, others, everybody = self.settings.parties
        plan = Plan.of(self.job, self.settings, state.rows)
        for number_ in plan.steps(state.round + 1):
            step = {"step": number_}
            own = {name: state.to(name) for name in others}
            told: Answers = yield turns.asked(others, everybody, "embed", step, own)
            mine = {label: {"envelopes": turns.sent(told, label)[label]}}
            back: Answers = yield turns.asked((label,), everybody, "learn", step, mine)
            state = replace(state, letters=turns.sent(back, *others))
        return replace(state, is_trained=state.round + 1 == self.job.protocol.rounds)

    def finish(self, state: Turn) -> Generator[Step, Any, Turn]:
        """Bring the last gradients, let every silo keep its part and the label silo judge."""
        label, others, everybody = self.settings.parties
        own = {name: state.to(name) for name in others}
        told: Answers = yield turns.asked(others, everybody, "conclude", {}, own)
        mine = {label: {"envelopes": turns.sent(told, label)[label]}}
        judged: Answers = yield turns.asked((label,), everybody, "judge", {}, mine)
        return replace(
            state,
            letters={},
            metrics=dict(judged.replies[label].fields.get("metrics", {})),
            references=references(told) | references(judged),
        )

    @verb(
        "set_up",
        replies={"epsilon": number(Disclosure.STATISTIC, optional=True, rows=FromRows.NONE)},
    )
    def set_up(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Build this silo's part of each network once, to see that it can be; pay."""
        part = SplitPart(silo, self.settings)
        part.learners(0)
        epsilon = part.pay()
        return {} if epsilon is None else {"epsilon": epsilon}

    @verb("embed", replies={"envelopes": turns.NOISY_SCORES})
    def embed(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: learn from the gradients of the batch before, seal the next embeddings."""
        from consilo.vertical.split.layers import embed, embed_apart, saved

        part = SplitPart(silo, self.settings)
        step, noise = part.step_of(message), part.noise()
        learners = self._learnt(part, step, message, noise)
        part.shelf.keep(step, saved(learners))
        embeddings = {}
        with part.seeded(step):
            for each, places in part.plan.batches(part.plan.crossing, step):
                model, rows = learners[each.name].model, part.rows(each, places)
                if noise is None:
                    embeddings[each.name] = embed(model, rows, self.settings.clip).detach()
                else:
                    embeddings[each.name] = noise.on_rows(
                        embed_apart(model, rows, self.settings.clip)
                    )
        label = self.settings.label_silo
        return {"envelopes": {label: part.sealed(label, _EMBEDDINGS, embeddings)}}

    @verb("learn", replies={"envelopes": turns.NOISY_RESIDUALS})
    def learn(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: learn from a batch's embeddings, seal their gradients."""
        from consilo.vertical.split.layers import learn_top, saved

        part = SplitPart(silo, self.settings)
        step, noise = part.step_of(message), part.noise()
        learners = part.learners(step - 1)
        batches = part.plan.batches(part.plan.networks, step)
        sizes = {n.name: len(places) for n, places in batches if n in part.plan.crossing}
        others = part.received(self.settings.feature_silos, _EMBEDDINGS, message, sizes)
        back = {}
        with part.seeded(step):
            for each, places in batches:
                mine, rows = learners[each.name], part.rows(each, places)
                back[each.name] = learn_top(
                    cast("Joined", mine.model),
                    mine.optimizer,
                    part.task,
                    rows,
                    others.get(each.name, rows[:, :0]),
                    part.targets(places),
                    part.labelled(places),
                    noise,
                )
        part.shelf.keep(step, saved(learners))
        width, sealed = self.settings.width, {}
        for at, name in enumerate(self.settings.feature_silos):
            columns = slice(at * width, (at + 1) * width)
            theirs = {network: back[network][:, columns] for network in others}
            sealed[name] = part.sealed(name, _GRADIENTS, theirs)
        return {"envelopes": sealed}

    @verb("conclude", replies={"envelopes": turns.NOISY_SCORES, **REFERENCE})
    def conclude(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Feature silo: learn from the last gradients, keep the part, seal what judges it."""
        from consilo.vertical.split.layers import embed, embed_apart, in_pieces, saved

        part = SplitPart(silo, self.settings)
        step, noise = part.plan.total + 1, part.noise()
        learners = self._learnt(part, step, message, noise)
        part.shelf.keep(step, saved(learners))
        embeddings, how = {}, embed if noise is None else embed_apart
        for each, places in part.plan.judged(part.plan.crossing):
            model, rows = learners[each.name].model.eval(), part.rows(each, places)
            told = in_pieces(lambda piece, net=model: how(net, piece, self.settings.clip), rows)
            embeddings[each.name] = told if noise is None else noise.on_rows(told)
        label = self.settings.label_silo
        sealed = {label: part.sealed(label, _EMBEDDINGS, embeddings)}
        return {
            "envelopes": sealed,
            **self.keep_part(silo, part.block, part.content(learners[FINAL])),
        }

    @verb(
        "judge",
        replies={
            "metrics": numbers(
                Disclosure.METRIC, optional=True, rows=FromRows.FIGURES, held_out=True
            ),
            **REFERENCE,
        },
    )
    def judge(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Label silo: keep the own part, return the figures of merit on rows held out.

        Under privacy they are noisy, and paid with the job's ``privacy.metrics_epsilon``.
        """
        from consilo.horizontal.private_figures import judged_if_replaced
        from consilo.vertical.split.layers import in_pieces

        part = SplitPart(silo, self.settings)
        learners = part.learners(part.plan.total)
        judged = part.plan.judged(part.plan.networks)
        sizes = {n.name: len(places) for n, places in judged if n in part.plan.crossing}
        others = part.received(self.settings.feature_silos, _EMBEDDINGS, message, sizes)
        by_way: dict[str, list[Mapping[str, float]]] = {}
        for each, places in judged:
            rows, model = part.rows(each, places), cast("Joined", learners[each.name].model)
            outputs = in_pieces(model, rows, others.get(each.name, rows[:, :0]))
            known = part.labelled(places)
            if not known.any():
                continue
            shaped, targets = part.task.shape_outputs(outputs)[known], part.targets(places)[known]
            if silo.job.privacy is None:
                figures, _ = part.task.measure(model.top, shaped, targets)
            else:
                said = part.task.in_own_units(shaped.double().numpy())
                truth = part.task.in_own_units(targets.numpy())
                figures = judged_if_replaced(silo, part.task.kind, said, truth, FIGURES)
            by_way.setdefault(each.way, []).append(figures)
        kept = self.keep_part(silo, part.block, part.content(learners[FINAL]))
        return {"metrics": _means(by_way), **kept}

    def price(self, silo: SiloView) -> list[HistoryRow]:
        """Return what all epochs together reserve in a silo."""
        return price(silo, is_label_silo=silo.name == self.settings.label_silo)

    def _learnt(
        self, part: SplitPart, step: int, message: Message, noise: Noise | None
    ) -> dict[str, Learner]:
        """Return a feature silo's learners after the gradients of the step before ``step``."""
        from consilo.vertical.split.layers import learn_bottom

        learners, last = part.learners(step - 1), step - 1
        if not last:
            return learners
        batches = part.plan.batches(part.plan.crossing, last)
        sizes = {each.name: len(places) for each, places in batches}
        back = part.received((self.settings.label_silo,), _GRADIENTS, message, sizes)
        with part.seeded(last):
            for each, places in batches:
                mine, rows = learners[each.name], part.rows(each, places)
                learn_bottom(
                    mine.model, mine.optimizer, rows, back[each.name], self.settings.clip, noise
                )
        return learners


def _means(by_way: Mapping[str, list[Mapping[str, float]]]) -> dict[str, float]:
    """Return ``way/metric``: the mean over the networks of a way, of metrics that all have."""
    return {
        f"{way}/{name}": float(np.mean([each[name] for each in networks]))
        for way, networks in by_way.items()
        for name in sorted(set.intersection(*(set(each) for each in networks)))
    }
