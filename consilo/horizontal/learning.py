"""From a job to the learner, the fitting plan and the private fit; built alike on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from consilo.errors import BudgetExhausted, IncompatibleJob, Refused, SchemaDrift
from consilo.horizontal.apart import GradientsApart, LearnerApart
from consilo.horizontal.features import Encoding, Scale, class_names
from consilo.horizontal.subjects import Subjects
from consilo.jobs.job import Job, Privacy
from consilo.jobs.model_job import ModelJob
from consilo.kernel import seeds
from consilo.kernel.roles import Apart
from consilo.kernel.view import SiloView
from consilo.learners.graphs import Untraceable, traced
from consilo.learners.modules import build_model, is_offered
from consilo.learners.optimizers import is_own_optimizer
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import Arrays, FitHook, FitPlan, FitReport, TorchLearner
from consilo.privacy.accounting import HistoryRow, noise_multiplier
from consilo.privacy.curve import Keep, afresh, keep_ahead, kept_spend
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.unit import plain
from consilo.wire.params import Params
from consilo.wire.payload import digest

FIGURES = "gaussian_figures"
"""What the ledger calls an evaluation on held-out rows."""
_SLACK = 1e-6
"""Relative; what summing the same history in another order may add to ε."""


def learner_of(
    job: Job,
    encoding: Encoding,
    search_path: Sequence[Path] = (),
    target: Scale | None = None,
    *,
    must_fit: bool = False,
) -> TorchLearner:
    """Return the untrained learner of a job; its parameters depend on the job's seed alone.

    Args:
        job: names the model, the task, and if wanted loss and metrics.
        encoding: gives the number of inputs, classes and targets.
        search_path: where a user's own module lies.
        target: what standardises the target; None where it is learnt as it is.
        must_fit: refuse a model that is larger than this machine's memory before it is built.

    Raises:
        JobInvalid: where the model cannot be built, or ``target`` does not fit.
    """
    asked = ModelJob.of(job)
    task = _task_of(asked, encoding, search_path, target)
    model = build_model(
        {"class": asked.module.name, "args": asked.module.args},
        num_inputs=len(encoding.inputs),
        num_outputs=task.num_outputs,
        seed=seeds.seed32(asked.seed, "model"),
        search_path=search_path,
        input_names=encoding.inputs,
        must_fit=must_fit,
    )
    return TorchLearner(model, task, threads=asked.threads)


def learner_apart(
    job: Job,
    encoding: Encoding,
    apart: Apart,
    params: Params,
    target: Scale | None = None,
    *,
    trains: bool = True,
) -> TorchLearner:
    """Return a learner for a model whose code may not see two rows, with parameters that were sent.

    The model is a `Graph` where its code can be written down, and computes here; else it runs in
    processes apart, one for each unit, which takes some hundred times as long.
    """
    asked = ModelJob.of(job)
    task = _task_of(asked, encoding, (), target)
    made = LearnerApart(
        apart, task, params, inputs=len(encoding.inputs), threads=asked.threads, trains=trains
    )
    graph = None if _has_own_loss(asked) else made.graph()
    return made if graph is None else TorchLearner(graph, task, threads=asked.threads)


def row_by_row(job: Job, learner: TorchLearner, inputs: int) -> str:
    """Return why silos would train a job in a process for each row; empty where they would not.

    Args:
        job: whose own code they lock in, unless their policies say otherwise.
        learner: of the job, with its own model.
        inputs: of the model, in a row.
    """
    asked = ModelJob.of(job)
    if job.privacy is None or is_offered(asked.module.name, "model"):
        return ""
    why = f"its loss '{asked.loss}' is the job's own"
    if not _has_own_loss(asked):
        try:
            traced(learner.model, inputs)
            return ""
        except Untraceable as cause:
            why = f"its model cannot be written down: {cause}"
    return (
        f"with privacy, silos compute this job in a process for each row of each step, some 100 ms "
        f"a row: {why}. See docs/jobs.md, 'A model of your own with privacy'"
    )


def _has_own_loss(asked: ModelJob) -> bool:
    return asked.loss is not None and not is_offered(asked.loss, "loss")


def _task_of(
    asked: ModelJob, encoding: Encoding, search_path: Sequence[Path], target: Scale | None
) -> Task:
    task = Task.of(
        asked.task,
        num_classes=len(encoding.classes) or 2,
        num_targets=len(encoding.targets),
        num_outputs=asked.outputs,
        loss=asked.loss,
        metrics=asked.metrics,
        search_path=search_path,
        classes=class_names(encoding.classes),
    )
    return task if target is None else task.scaled(target.mean, target.deviation)


def plan_of(job: Job) -> FitPlan:
    """Return how a silo trains in one round."""
    local = ModelJob.of(job).local
    return FitPlan(
        batch_size=local.batch_size,
        steps=local.steps,
        epochs=local.epochs,
        optimizer=local.optimizer,
        lr=local.lr,
        momentum=local.momentum or None,
        weight_decay=local.weight_decay or None,
        optimizer_args=local.args,
    )


def private_fit(
    silo: SiloView,
    learner: TorchLearner,
    data: Arrays,
    *,
    fingerprint: str,
    hooks: Sequence[FitHook] = (),
    subjects: Subjects | None = None,
) -> tuple[FitReport, Mapping[str, float]]:
    """Train by DP-SGD within the job's and the data set's budget; the cost is reserved first.

    The noise multiplier is calibrated so that all rounds of the job together, and the statistics
    that it paid for, cost the job's ε at its δ, for this silo's number of rows, or of subjects.

    Args:
        silo: where; its secret keys sampling and noise.
        learner: trained in place.
        data: training rows.
        fingerprint: of those rows.
        hooks: what the protocol adds.
        subjects: whose the rows are; needed where the job hides subjects.

    Returns:
        The fit's report, and ``epsilon`` and ``epsilon_bound`` (RDP) spent so far in this run.

    Raises:
        BudgetExhausted: where this step would cost more than the job's ε, or than is left in the
            data set's account; nothing was trained, nothing reserved.
    """
    job, privacy = ModelJob.of(silo.job), silo.job.privacy
    assert privacy is not None
    if privacy.hides_subjects != (subjects is not None):
        raise Refused(f"the job hides {privacy.unit}s, the training would not", code="privacy")
    if silo.apart is not None and is_own_optimizer(job.local.optimizer):
        raise Refused(
            "under differential privacy this silo runs no optimiser of a bundle: name one of "
            "torch.optim; an operator who trusts the code may set 'sandbox: off' in policy.yaml",
            code="sandbox",
        )
    if not len(data):
        raise SchemaDrift("there are no training rows; check the silo's data and its contract")
    units = len(data) if subjects is None else subjects.count
    plan = plan_of(job)
    rate, steps = plan.sample_rate(units), plan.num_steps(units)
    if job.earlier_runs:
        return _fit_prepaid(silo, learner, data, fingerprint, units, hooks, subjects)
    besides: list[HistoryRow] = []
    if privacy.statistics_epsilon is not None:
        booked = silo.account.reserved(silo.header.run_id)
        besides = [row for name, row in booked if plain(name) not in ("dp_sgd", FIGURES)]
    if privacy.metrics_epsilon is not None:  # what the evaluation at the end will cost
        besides.append((figures_noise(silo.kept_number, privacy), 1.0, 1))
    sigma = training_noise(
        silo.kept_number,
        job,
        rate=rate,
        steps=steps * job.most_rounds,
        besides=besides,
    )

    def within(history: Sequence[HistoryRow]) -> None:
        require_round(silo)
        admit(history, privacy, silo.kept_number)

    history = silo.reserve(
        "dp_sgd",
        sigma=sigma,
        sample_rate=rate,
        steps=steps,
        rows=units,
        fingerprint=fingerprint,
        ahead=steps * max(0, job.most_rounds - silo.header.round),
        admit=within,
    )
    epsilon, bound = run_epsilon(history, privacy, silo.kept_number)
    keep_ahead(
        silo.kept_number,
        history,
        (sigma, rate, steps),
        privacy.delta,
        rounds=job.most_rounds - silo.header.round,
    )
    hook = _hook(silo, learner, sigma, rate, fingerprint, subjects)
    report = learner.fit(data, plan, rng=silo.rng("batches"), hooks=(*hooks, hook))
    return report, {"epsilon": epsilon, "epsilon_bound": bound}


def require_round(silo: SiloView) -> None:
    """Raise `BudgetExhausted` where a silo has been in as many rounds as its job allows.

    Counted are the rounds that its ledger has booked for this run: noise is calibrated for no more.
    """
    job = ModelJob.of(silo.job)
    if job.draws is None or job.draws.most_rounds is None:
        return
    booked = silo.account.reserved(silo.header.run_id)
    done = sum(plain(name) == "dp_sgd" for name, _ in booked)
    if done >= job.most_rounds:
        raise BudgetExhausted(
            f"{done} rounds of this run are booked here, and cohort.most_rounds allows "
            f"{job.most_rounds}: its noise is calibrated for no more"
        )


def prepaid(
    silo: SiloView, *, units: int, fingerprint: str
) -> tuple[float, float, list[HistoryRow]]:
    """Reserve, once, all rounds of a run that goes on with earlier ones; return its noise and cost.

    The noise is such that these rounds, and all that the earlier runs have reserved in this silo's
    ledger, together cost the job's ε at its δ.

    Args:
        silo: whose ledger; its job names the earlier runs.
        units: training rows, or subjects where the job hides those.
        fingerprint: of those rows; other rows are paid for anew.

    Returns:
        Noise multiplier, sampling rate, and the rows of the whole history.

    Raises:
        BudgetExhausted: where the data set's account, or the job's ε, cannot pay; nothing is
            reserved then.
    """
    job, privacy = ModelJob.of(silo.job), silo.job.privacy
    assert privacy is not None
    spent = continued(silo)
    plan = plan_of(job)
    rate, steps = plan.sample_rate(units), plan.num_steps(units) * job.rounds_to_do
    sigma = continued_noise(silo, rate=rate, steps=steps)
    history = silo.reserve(
        "dp_sgd",
        sigma=sigma,
        sample_rate=rate,
        steps=steps,
        rows=units,
        fingerprint=fingerprint,
        admit=lambda history: admit([*spent, *history], privacy, silo.kept_number),
        step_id=_prepaid_id(silo),
        pays_ahead=True,
    )
    return sigma, rate, [*spent, *history]


def continued(silo: SiloView) -> list[HistoryRow]:
    """Return what the runs that this one goes on with have reserved in this silo's ledger."""
    runs = ModelJob.of(silo.job).earlier_runs
    return [row for run in runs for _, row in silo.account.reserved(run)]


def continued_noise(silo: SiloView, *, rate: float, steps: int) -> float:
    """Return the noise multiplier of the rounds of a run that goes on with earlier ones.

    Raises:
        BudgetExhausted: where the earlier runs have cost what both may.
    """
    job, privacy = ModelJob.of(silo.job), silo.job.privacy
    assert privacy is not None
    besides = continued(silo)
    if privacy.metrics_epsilon is not None:
        besides.append((figures_noise(silo.kept_number, privacy), 1.0, 1))
    try:
        return training_noise(silo.kept_number, job, rate=rate, steps=steps, besides=besides)
    except IncompatibleJob as cause:
        raise BudgetExhausted(
            f"the runs that this one goes on with leave nothing of ε {privacy.epsilon:g}, which is "
            f"for all of them together: ask for more, or start a new run ({cause})"
        ) from None


def _prepaid_id(silo: SiloView) -> str:
    return digest([silo.header.run_id, "continues", silo.name])[:32]


def _fit_prepaid(
    silo: SiloView,
    learner: TorchLearner,
    data: Arrays,
    fingerprint: str,
    units: int,
    hooks: Sequence[FitHook],
    subjects: Subjects | None,
) -> tuple[FitReport, Mapping[str, float]]:
    """Train a round that is paid for already; each round once, or it would not be."""
    job, privacy = ModelJob.of(silo.job), silo.job.privacy
    assert privacy is not None
    if not job.first_round <= silo.header.round <= job.protocol.rounds:
        raise Refused(
            f"the job's rounds are {job.first_round} to {job.protocol.rounds}; asked for round "
            f"{silo.header.round}",
            code="order",
        )
    rounds = silo.state("prepaid", once_a_round=True)
    rounds.before()
    sigma, rate, history = prepaid(silo, units=units, fingerprint=fingerprint)
    rounds.keep({})
    epsilon, bound = run_epsilon(history, privacy, silo.kept_number)
    hook = _hook(silo, learner, sigma, rate, fingerprint, subjects)
    plan = plan_of(job)
    report = learner.fit(data, plan, rng=silo.rng("batches"), hooks=(*hooks, hook))
    silo.account.settle(_prepaid_id(silo))
    return report, {"epsilon": epsilon, "epsilon_bound": bound}


def _hook(
    silo: SiloView,
    learner: TorchLearner,
    sigma: float,
    rate: float,
    fingerprint: str,
    subjects: Subjects | None,
) -> DPHook:
    privacy = silo.job.privacy
    assert privacy is not None
    most_rows = privacy.max_rows_per_subject or 1
    apart = learner.apart if isinstance(learner, LearnerApart) else None
    return DPHook(
        sigma=sigma,
        source=None if apart is None else GradientsApart(apart, most_rows),
        max_grad_norm=privacy.max_grad_norm,
        sample_rate=rate,
        stream=silo.noise(fingerprint),
        subjects=None if subjects is None else subjects.codes,
        max_rows_per_subject=most_rows,
    )


def training_noise(
    keep: Keep, job: Job, *, rate: float, steps: int, besides: Sequence[HistoryRow]
) -> float:
    """Return the noise multiplier that keeps a job's steps, and what it asks besides, within its ε.

    Args:
        keep: keeps the number.
        job: with a privacy section.
        rate: sampling rate.
        steps: over all rounds.
        besides: what else the run pays from the same ε: its statistics.

    Raises:
        IncompatibleJob: where no noise is enough.
    """
    assert job.privacy is not None
    settings: dict[str, Any] = {
        "target_epsilon": job.privacy.epsilon,
        "delta": job.privacy.delta,
        "sample_rate": rate,
        "steps": steps,
        "accountant": job.privacy.accountant,
    }
    if besides:
        settings["besides"] = tuple(besides)
    return keep(f"sigma {settings}", lambda: noise_multiplier(**settings))


def statistics_noise(keep: Keep, privacy: Privacy) -> float:
    """Return the noise multiplier of one question about statistics."""
    assert privacy.statistics_epsilon is not None
    return _noise_of_one(keep, privacy, privacy.statistics_epsilon)


def figures_noise(keep: Keep, privacy: Privacy) -> float:
    """Return the noise multiplier of one evaluation on held-out rows."""
    assert privacy.metrics_epsilon is not None
    return _noise_of_one(keep, privacy, privacy.metrics_epsilon)


def _noise_of_one(keep: Keep, privacy: Privacy, epsilon: float) -> float:
    settings: dict[str, Any] = {
        "target_epsilon": epsilon,
        "delta": privacy.delta,
        "sample_rate": 1.0,
        "steps": 1,
        "accountant": privacy.accountant,
    }
    return keep(f"sigma {settings}", lambda: noise_multiplier(**settings))


def run_epsilon(
    history: Sequence[HistoryRow], privacy: Privacy, keep: Keep = afresh
) -> tuple[float, float]:
    """Return ε of a run's history at the job's δ: by the job's accountant, and the RDP bound."""
    spend = kept_spend(keep, history, privacy.delta)
    bound = spend.epsilon_rdp
    return (spend.epsilon_prv if privacy.accountant == "prv" else bound), bound


def admit(history: Sequence[HistoryRow], privacy: Privacy, keep: Keep = afresh) -> None:
    """Raise `BudgetExhausted` where a run's history costs more than its job's ε."""
    epsilon, _ = run_epsilon(history, privacy, keep)
    if epsilon > privacy.epsilon * (1 + _SLACK):
        raise BudgetExhausted(
            f"this step would bring the run to ε {epsilon:.3f} at δ {privacy.delta:g}, the job "
            f"allows {privacy.epsilon:g}; start a new run"
        )
