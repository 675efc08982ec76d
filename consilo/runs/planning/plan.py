"""Refuse what cannot work before any message is sent, with every reason at once."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, IncompatibleJob
from consilo.horizontal.asked.axes import Axes
from consilo.horizontal.features import Encoding, Scale, unbounded
from consilo.horizontal.holdout import require_split
from consilo.horizontal.learning import learner_of
from consilo.horizontal.scaling import TargetMode, target_mode
from consilo.horizontal.training import Training, TrainState
from consilo.jobs.analytics import Analytics
from consilo.jobs.job import MOST_RATE, Job
from consilo.jobs.model_job import ModelJob
from consilo.jobs.table_job import TableJob
from consilo.kernel.protocol import Protocol
from consilo.learners.attempts import attempt
from consilo.learners.randomness import seeded
from consilo.learners.torch_learner import TorchLearner
from consilo.privacy.accounting import least_epsilon
from consilo.privacy.dpsgd import check_private
from consilo.protocols.names import NAMES, find_protocol
from consilo.reduce import Gives, Reduce
from consilo.reduce.draw import turn
from consilo.reduce.drawn_mean import ROWS
from consilo.reduce.rule import rehearse, rule_of
from consilo.runs.planning.rehearsal import rehearse_training
from consilo.runs.planning.unread import unread
from consilo.wire.params import select


@dataclass(frozen=True)
class Plan:
    """A job whose parts fit together.

    Args:
        encoding: how rows become inputs and targets.
        learner: the untrained model, deterministic by the job's seed.
        protocol: the coordinator half.
        target: by what a regression's target is standardised.
    """

    encoding: Encoding
    learner: TorchLearner
    protocol: Protocol[TrainState]
    target: TargetMode = "none"


def plan(
    job: Job, contract: Contract, silos: Sequence[str], search_path: Sequence[Path] = ()
) -> Plan:
    """Return the plan of a run.

    Args:
        job: what shall be run.
        contract: what the data obey.
        silos: who is registered.
        search_path: where the job's own modules lie.

    Raises:
        IncompatibleJob: with every reason why the parts cannot work together.
    """
    job = ModelJob.of(job)
    faults: list[str] = []
    encoding = attempt(faults, "contract", lambda: _encoding(contract, job))
    protocol = attempt(faults, "protocol.name", lambda: _protocol(job, search_path))
    if protocol is not None:
        faults += unread(job, type(protocol))
    learner = None
    if encoding is not None:
        usable: Encoding = encoding
        learner = attempt(
            faults, "model", lambda: learner_of(job, usable, search_path, must_fit=True)
        )
    target: TargetMode = "none"
    if learner is not None:
        built: TorchLearner = learner
        own_loss = built.task.has_own_loss(built.model)
        found = attempt(faults, "features", lambda: target_mode(job, contract, own_loss=own_loss))
        target = found or target
        if job.privacy is not None:
            attempt(faults, "model", lambda: check_private(built.model))
    if encoding is not None and job.privacy is not None:
        faults += _privacy_faults(job, contract, encoding)
        faults += _noise_faults(job)
    if learner is not None and protocol is not None and not faults:
        hooks = protocol.hooks() if isinstance(protocol, Training) else ()
        faults += rehearse_training(
            job,
            contract,
            usable,
            hooks=hooks,
            search_path=search_path,
            scales_target=target != "none",
        )
    if job.reduce.secure:
        faults.append("reduce.secure: this version has no secure sum; set secure: false")
    rule = attempt(faults, "reduce.rule", lambda: rule_of(job.reduce, search_path))
    if rule is not None:
        faults += refuse_rule(job, rule)
    if rule is not None and learner is not None:
        sent = select(built.parameters(), built.trained)
        attempt(faults, "reduce.rule", lambda: rehearse(rule, sent, num_silos=job.quorum.min_silos))
    if learner is not None and protocol is not None and job.privacy is None:
        faults += _buffer_faults(protocol, built, num_inputs=len(usable.inputs))
    if rule is not None and protocol is not None:
        faults += refuse_reduction(
            job.protocol.name,
            needs_vectors=protocol.needs_vectors,
            gives="sum" if job.reduce.secure else rule.gives,
        )
        if isinstance(protocol, Training) and protocol.reduces:
            protocol.reduce = rule
        elif job.reduce.rule != "mean":
            faults.append(
                f"reduce.rule: protocol {job.protocol.name} combines the silos' vectors itself; "
                "leave the rule out"
            )
    if protocol is not None:
        faults += _late_faults(job, protocol)
        faults += _cohort_faults(job, protocol)
    faults += _draw_faults(job, silos)
    faults += _quorum_faults(job, silos)
    refuse(job, faults)
    assert encoding is not None
    assert learner is not None
    assert protocol is not None
    return Plan(encoding, learner, protocol, target)


def plan_analytics(
    job: Job, contract: Contract, silos: Sequence[str], search_path: Sequence[Path] = ()
) -> Encoding:
    """Return how the columns become numbers that questions about them are asked of.

    Args:
        job: with the sections of a table.
        contract: what the data obey.
        silos: who is registered.
        search_path: of no use; nothing of the job's own is executed.

    Raises:
        IncompatibleJob: with every reason why they cannot be asked.
    """
    job = TableJob.of(job)
    faults: list[str] = []
    if isinstance(job, Analytics) and job.questions:
        refuse(job, [*_question_faults(job, contract), *_quorum_faults(job, silos)])
        return Encoding((), {}, (), (), (), False, {})  # of declared cells, no column is an input
    encoding: Encoding | None = attempt(faults, "contract", lambda: _encoding(contract, job))
    if encoding is not None and job.privacy is not None:
        faults += _privacy_faults(job, contract, encoding)
    faults += _quorum_faults(job, silos)
    refuse(job, faults)
    assert encoding is not None
    return encoding


def _question_faults(job: Analytics, contract: Contract) -> list[str]:
    """Return why people's questions cannot be asked under a contract and a job's privacy."""
    if contract.analytics is None:
        faults: list[str] = []
        attempt(faults, "contract", lambda: Axes.of(contract))
        return faults
    faults = [
        f"questions.{place}.{fault}"
        for place, each in enumerate(job.questions)
        for fault in each.faults(contract)
    ]
    if job.privacy is None:
        return faults
    try:
        job.require_subject(contract)
    except IncompatibleJob as cause:
        faults.append(str(cause))
    if job.privacy.statistics_epsilon is None:
        faults.append("privacy.statistics_epsilon: say which part of epsilon the questions cost")
        return faults
    return faults + out_of_reach(job)


def refuse(job: Job, faults: Sequence[str]) -> None:
    """Raise `IncompatibleJob` with every reason why a job cannot run, where there is one."""
    if faults:
        listed = "".join(f"\n  - {fault}" for fault in dict.fromkeys(faults))
        raise IncompatibleJob(f"job {job.name} cannot run:{listed}")


def refuse_reduction(name: str, *, needs_vectors: bool, gives: Gives) -> list[str]:
    """Return why a protocol cannot use a reduction: one that sees only a sum feeds no ranking."""
    if needs_vectors and gives == "sum":
        return [
            f"protocol.name: {name} compares single silos' updates, the reduction reveals only "
            "their sum; choose a plain reduction or a protocol that needs a sum"
        ]
    return []


def refuse_rule(job: ModelJob, rule: Reduce) -> list[str]:
    """Return why a job's rule cannot combine what its silos send."""
    faults = []
    if job.reduce.secure and not rule.linear:
        faults.append(
            f"reduce.rule: {job.reduce.rule} is not linear, so that it needs each silo's vector; "
            "secure: true reveals only their sum; choose one of the two"
        )
    if job.privacy is not None and rule.passes > 1:
        faults.append(
            f"reduce.rule: {job.reduce.rule} takes {rule.passes} exchanges a round, each of which "
            "costs privacy; the job's epsilon is calibrated for one"
        )
    return faults


def first_state(
    job: ModelJob,
    protocol: Protocol[TrainState],
    learner: TorchLearner,
    scale: Scale | None,
    target: Scale | None = None,
) -> TrainState:
    """Return the state before the first round.

    Args:
        job: what is run.
        protocol: its coordinator half.
        learner: holds the first model.
        scale: the inputs' standardisation.
        target: the target's.
    """
    whole = learner.parameters()
    params = select(whole, learner.trained)
    buffers = select(whole, learner.buffers) if job.privacy is None else {}
    begun = protocol.begin(params) if isinstance(protocol, Training) else {}
    return TrainState(
        params, job.protocol.rounds, server=begun, scale=scale, buffers=buffers, target=target
    )


def passes_of(protocol: Protocol[TrainState]) -> int:
    """Return how many exchanges a round the protocol's reduction takes."""
    return protocol.reduce.passes if isinstance(protocol, Training) else 1


def _encoding(contract: Contract, job: TableJob) -> Encoding:
    """Return how columns become inputs, once the rows that a job holds out can be told."""
    if job.evaluation.split is not None:
        require_split(contract, job.evaluation.split)
    encoding = Encoding.plan(contract, job)
    if not encoding.inputs:
        raise IncompatibleJob(f"contract {contract.ref} has no column of the role feature")
    return encoding


def _protocol(job: ModelJob, search_path: Sequence[Path]) -> Protocol[TrainState]:
    name = job.protocol.name
    kind = find_protocol(name, search_path)
    if name in NAMES and not issubclass(kind, Training):
        raise IncompatibleJob(f"protocol.name: '{name}' does not train a model")
    if kind.coordinate is Protocol.coordinate:
        raise IncompatibleJob(
            f"protocol.name: '{name}' has no coordinator half: define coordinate, or subclass "
            "consilo.protocol.Training"
        )
    if not kind.verbs():
        raise IncompatibleJob(
            f"protocol.name: '{name}' has no verb: mark what silos are asked with "
            "consilo.protocol.verb"
        )
    protocol = kind.from_job(job)
    if isinstance(protocol, Training):
        protocol.search_path = tuple(search_path)
    protocol.prepare()
    return protocol


def _buffer_faults(
    protocol: Protocol[TrainState], learner: TorchLearner, *, num_inputs: int
) -> list[str]:
    """Return why a protocol cannot train a model whose buffers change: nobody averages them."""
    if protocol.averages_buffers or type(protocol).coordinate is Training.coordinate:
        return []
    before = learner.parameters()
    learner.model.train()
    try:
        with suppress(ConsiloError), seeded(0):
            learner.forward(learner.model, torch.rand(2, num_inputs))
        after = learner.parameters()
    finally:
        learner.load(before)
    moved = [name for name in learner.buffers if not np.array_equal(before[name], after[name])]
    if not moved:
        return []
    return [
        f"protocol.name: the model's buffers ({', '.join(moved)}) change while it is trained, and "
        "this protocol averages parameters only: take GroupNorm or LayerNorm, or let coordinate "
        "keep buffers=mean_buffers(state, answers.replies) and say averages_buffers = True"
    ]


def _privacy_faults(job: TableJob, contract: Contract, encoding: Encoding) -> list[str]:
    """Return why a contract does not allow the privacy that a job asks for."""
    try:
        job.require_subject(contract)
    except IncompatibleJob as cause:
        return [str(cause)]
    faults = out_of_reach(job)
    asked = job.privacy is not None and job.privacy.statistics_epsilon is not None
    if asked and job.features.standardize in ("global", "silo") and encoding.open_ended:
        faults.append(f"privacy.statistics_epsilon: {unbounded(contract, encoding)}")
    return faults


def _noise_faults(job: ModelJob) -> list[str]:
    """Return why the noise of a private step alone would make updates that nobody counts."""
    local, privacy = job.local, job.privacy
    if privacy is None or local.optimizer.lower() != "sgd":
        return []
    size = local.lr * privacy.max_grad_norm
    if size <= MOST_RATE:
        return []
    return [
        f"local.lr: a step of sgd is as long as lr times privacy.max_grad_norm, {size:.3g}, and no "
        f"update of more than {MOST_RATE:g} is taken for honest work; lower one of the two"
    ]


def out_of_reach(job: TableJob) -> list[str]:
    """Return which parts of a job's ε are so small that no noise keeps any use of rows in them."""
    privacy = job.privacy
    if privacy is None:
        return []
    faults = []
    for name in ("epsilon", "statistics_epsilon", "metrics_epsilon"):
        part = getattr(privacy, name)
        # RDP takes no time, and PRV reaches whatever it does.
        if part is None or part > least_epsilon(privacy.delta, "rdp"):
            continue
        least = least_epsilon(privacy.delta, privacy.accountant)
        if part <= least:
            other = "" if privacy.accountant == "prv" else ", or accountant: prv"
            faults.append(
                f"privacy.{name}: the accountant {privacy.accountant} vouches for no epsilon below "
                f"{least:.2g} at delta {privacy.delta:g}, however much noise there is; found "
                f"{part:g}; raise it, or delta{other}"
            )
    return faults


def _late_faults(job: ModelJob, protocol: Protocol[TrainState]) -> list[str]:
    """Return why late answers cannot be taken into a round after their own."""
    if job.quorum.late != "next_round":
        return []
    if type(protocol).coordinate is not Training.coordinate:
        return [
            f"quorum.late: protocol {job.protocol.name} combines its rounds itself, and takes no "
            "late answer; use drop or wait"
        ]
    if job.reduce.rule != "mean":
        return [
            "quorum.late: late answers are averaged; leave reduce.rule out, or use drop or wait"
        ]
    return []


def _cohort_faults(job: ModelJob, protocol: Protocol[TrainState]) -> list[str]:
    """Return why a protocol cannot train on silos that are drawn for each round."""
    if job.draws is None:
        return []
    name, by = job.protocol.name, job.draws.by
    if not isinstance(protocol, Training) or type(protocol).coordinate is not Training.coordinate:
        other = "; of Flower's strategies, fraction_train in protocol.args chooses"
        return [
            f"cohort: protocol {name} says itself whom it asks, and by what silos weigh"
            f"{other if name == 'flower' else ''}; leave cohort out"
        ]
    if type(protocol).arriving is not Training.arriving:
        return [
            f"cohort: {name} asks whoever is idle, and has no rounds that silos could be drawn "
            "for; leave cohort out, or take fedavg or fedopt"
        ]
    equal = ("uniform", "availability")
    if job.reduce.rule != "mean" and by not in equal:
        return [
            f"cohort.by: {job.reduce.rule} combines those who were drawn as they are, and cannot "
            f"undo that they were drawn by {by}; use uniform or availability, or reduce.rule: mean"
        ]
    own = type(protocol).combine is not Training.combine
    declared = type(protocol).cohorts is not Training.cohorts
    allowed = equal if own and not declared else protocol.cohorts
    faults = []
    if by not in allowed:
        faults.append(
            f"cohort.by: protocol {name} combines rounds by itself, which is right for silos that "
            f"are drawn by {' or '.join(allowed)} (its class says so by 'cohorts'); found {by}"
        )
    odd = [each for each in protocol.vectors.values() if each not in (None, ROWS)]
    if odd and by != "availability" and job.reduce.rule == "mean":
        faults.append(
            f"cohort.by: protocol {name} weighs by '{odd[0]}', and of silos that are not drawn "
            f"nobody knows it; weigh by {ROWS}, or alike, or use by: availability"
        )
    return faults


def _draw_faults(job: ModelJob, silos: Sequence[str]) -> list[str]:
    """Return why those who are registered are too few, or too many, for a job's draws."""
    spec = job.draws
    if spec is None or not silos:
        return []
    count, named, rounds = len(silos), len(job.quorum.mandatory), job.protocol.rounds
    faults = []
    if spec.size is not None and spec.size == named < count:
        faults.append(
            f"cohort.size: all {named} are mandatory, so that the other {count - named} are never "
            "drawn; raise it"
        )
    elif spec.every is not None and (least := turn(spec, count, always=named)) > spec.every:
        faults.append(
            f"cohort.every: {spec.size} of {count} silos a round need {least} rounds until each "
            f"was drawn once; found {spec.every}"
        )
    if spec.rate is not None and spec.rate * count < job.quorum.min_silos:
        faults.append(
            f"cohort.rate: of {count} silos {spec.rate * count:.3g} are drawn on the average, and "
            f"quorum.min_silos wants {job.quorum.min_silos}; raise the rate"
        )
    if spec.most_rounds is not None and spec.most_rounds < rounds:
        wanted = rounds * min(count, spec.size or (spec.rate or 1.0) * count)
        if wanted > spec.most_rounds * count:
            faults.append(
                f"cohort.most_rounds: {rounds} rounds need {wanted / count:.3g} of each of {count} "
                f"silos on the average; found {spec.most_rounds}"
            )
    return faults


def _quorum_faults(job: Job, silos: Sequence[str]) -> list[str]:
    faults = []
    if silos and job.quorum.min_silos > len(silos):
        faults.append(
            f"quorum.min_silos: {job.quorum.min_silos} silos are needed, {len(silos)} are "
            f"registered ({', '.join(silos)})"
        )
    unknown = [name for name in job.quorum.mandatory if silos and name not in silos]
    if unknown:
        faults.append(
            f"quorum.mandatory: not registered: {', '.join(unknown)}; registered: "
            f"{', '.join(silos)}"
        )
    return faults
