"""Ask each silo what a job would cost its privacy account, and if it can pay; nothing is spent.

Each silo computes its own price, from its own number of rows, and puts its training to its own
policy, as if the job had begun. The contract is checked first: a run would begin with it too.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from consilo.errors import BudgetExhausted, RunFailed
from consilo.horizontal.dataset import training_rows
from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import (
    continued,
    continued_noise,
    figures_noise,
    plan_of,
    run_epsilon,
    statistics_noise,
    training_noise,
)
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Ask, Step
from consilo.kernel.verbs import Disclosure, FromRows, arrays, count, numbers, verb
from consilo.kernel.view import Message, SiloView
from consilo.privacy.account import Account, Balance, Limit
from consilo.privacy.accounting import HistoryRow
from consilo.privacy.curve import Keep, afresh
from consilo.protocols.contract_check import REPORT, report_of, told
from consilo.protocols.names import asked_of, find_protocol
from consilo.reduce.draw import planned
from consilo.vertical.training import VerticalTraining
from consilo.wire.parcel import Fault

STATISTIC = Disclosure.STATISTIC
_COLUMNS = ("days", "budget", "delta", "before", "after")


@dataclass(frozen=True)
class Offer:
    """What one silo says of a job.

    Args:
        fault: why it would take no part; None where it would.
        rows: how many rows it would train on, or subjects where the job hides those.
        cost: ``epsilon`` by the job's accountant at the job's ``delta``, ``epsilon_bound`` by
            Rényi moments, ``noise_multiplier``; empty for a job without privacy.
        balances: how its account stands at each of its limits, and would stand after.
        drawn: where a job draws the silos of a round: for how many ``rounds`` it will be drawn, if
            all answer, and what these cost (``epsilon``); empty otherwise.
    """

    fault: Fault | None = None
    rows: int = 0
    cost: Mapping[str, float] = field(default_factory=dict)
    balances: tuple[Balance, ...] = ()
    drawn: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the offer as plain JSON values."""
        if self.fault is not None:
            return {"takes_part": False, "code": self.fault.code, "reason": self.fault.reason}
        return {
            "takes_part": True,
            "rows": self.rows,
            "cost": dict(self.cost),
            **({"drawn": dict(self.drawn)} if self.drawn else {}),
            "account": [
                {
                    "limit": str(each.limit),
                    "days": each.limit.days,
                    "budget": each.limit.epsilon,
                    "delta": each.delta,
                    "before": each.before,
                    "after": each.after,
                    "left_before": each.left,
                    "left_after": max(0.0, each.limit.epsilon - each.after),
                }
                for each in self.balances
            ],
        }


@dataclass(frozen=True)
class Quotes:
    """What all silos say of a job.

    Args:
        silos: name → offer.
        reason: why the job would not reach its quorum; empty where it would.
    """

    silos: Mapping[str, Offer]
    reason: str = ""


class Quote(Protocol[None]):
    """Asks everybody: does your data keep the contract, and what would the job cost you?"""

    asks_apart = True

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Quotes]:
        """Return every silo's offer, and whether those who would take part are a quorum."""
        offers: dict[str, Offer] = {}
        checked = yield Ask(fed.cohort(), "quote_contract", {})
        for name, fault in checked.missing.items():
            offers[name] = Offer(fault)
        for name, reply in checked.replies.items():
            report = report_of(reply.fields)
            if not report.passed:
                offers[name] = Offer(Fault("contract", report.reason()))
        willing = tuple(name for name in checked.replies if name not in offers)
        answers = yield Ask(willing, "quote", {})
        offers.update({name: Offer(fault) for name, fault in answers.missing.items()})
        offers.update({n: _offer(reply.fields) for n, reply in answers.replies.items()})
        for name in fed.silos:
            offers.setdefault(name, Offer(fed.why_away(name)))
        offers |= with_draws(fed.job, offers)
        return Quotes(dict(sorted(offers.items())), _no_quorum(fed.job, offers))

    @verb("quote_contract", replies=REPORT)
    def check(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's verdict on its data."""
        return told(silo)

    @verb(
        "quote",
        replies={
            "rows": count(STATISTIC, rows=FromRows.NONE),
            "cost": numbers(STATISTIC, rows=FromRows.NONE),
            "account": arrays(STATISTIC, rows=FromRows.NONE),
        },
    )
    def quote(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return what the job would cost this silo, and how its account stands."""
        job = ModelJob.of(silo.job)
        protocol = find_protocol(job.algorithm, silo.search_path)
        if issubclass(protocol, VerticalTraining):
            rows, price = _vertical(silo, protocol.from_job(job))
        else:
            silo.gate.permit(
                silo.header, job, silo.contract, asked_of(job.algorithm, protocol.verbs()["train"])
            )
            encoding = Encoding.plan(silo.contract, job)
            rows = training_rows(silo, encoding).count
            price = [] if job.privacy is None else reserved(silo, rows)
        account: dict[str, Any] = {}
        cost: dict[str, float] = {}
        if job.privacy is not None:
            cost = _cost(job, [*continued(silo), *price])
            part = job.part(silo.contract, silo.name)
            standing = silo.account.quote(silo.rows.dataset(part), price, job.privacy.unit)
            account = _as_arrays(standing)
            for each in standing.balances:
                if not each.fits:
                    raise BudgetExhausted(each.refusal(standing.name))
        return {"rows": rows, "cost": cost, "account": account}


def _vertical(silo: SiloView, protocol: VerticalTraining) -> tuple[int, list[HistoryRow]]:
    """Return the matched rows and the price of a vertical job, if the policy lets it be."""
    is_label = silo.name == protocol.settings.label_silo
    verbs = protocol.verbs()
    for name in protocol.label_verbs if is_label else protocol.feature_verbs:
        silo.gate.permit(
            silo.header, silo.job, silo.contract, asked_of(silo.job.algorithm, verbs[name])
        )
    return protocol.num_rows(silo), protocol.price(silo)


def reserved(silo: SiloView, rows: int) -> list[HistoryRow]:
    """Return what a whole horizontal job would reserve in a silo.

    Args:
        silo: whose job has a privacy section.
        rows: how many rows it would train on, or subjects where the job hides those.
    """
    job, privacy = ModelJob.of(silo.job), silo.job.privacy
    assert privacy is not None
    plan = plan_of(job)
    rate, steps = (
        plan.sample_rate(rows),
        plan.num_steps(rows) * min(job.most_rounds, job.rounds_to_do),
    )
    if job.earlier_runs:
        price: list[HistoryRow] = [(continued_noise(silo, rate=rate, steps=steps), rate, steps)]
        if privacy.metrics_epsilon is not None:
            price.insert(0, (figures_noise(silo.kept_number, privacy), 1.0, 1))
        return price
    history = _questions(silo.kept_number, job)
    sigma = training_noise(silo.kept_number, job, rate=rate, steps=steps, besides=history)
    return [*history, (sigma, rate, steps)]


def with_draws(job: Job, offers: Mapping[str, Offer]) -> dict[str, Offer]:
    """Return the offers of a job that draws the silos of a round, with what each is drawn for.

    Draws are no secret: these are the very ones of the run, if the same silos take part and answer.
    What they cost is what a silo would have booked then; ``cost`` is what it must be able to pay.
    """
    if not isinstance(job, ModelJob) or job.draws is None or job.earlier_runs:
        return {}
    willing = {name: each for name, each in offers.items() if each.fault is None}
    counts = planned(
        job.draws,
        {name: each.rows for name, each in willing.items()},
        rounds=range(job.first_round, job.protocol.rounds + 1),
        seed=job.seed,
        always=job.quorum.mandatory,
        least=job.quorum.min_silos,
    )
    found = {}
    for name, each in willing.items():
        drawn: dict[str, float] = {"rounds": counts[name]}
        if job.privacy is not None and each.cost:
            plan, sigma = plan_of(job), each.cost["noise_multiplier"]
            history = _questions(afresh, job)
            if counts[name]:
                steps = plan.num_steps(each.rows) * counts[name]
                history.append((sigma, plan.sample_rate(each.rows), steps))
            drawn["epsilon"] = run_epsilon(history, job.privacy)[0]
        found[name] = replace(each, drawn=drawn)
    return found


def _questions(keep: Keep, job: ModelJob) -> list[HistoryRow]:
    """Return what a private job asks besides its rounds: statistics, figures of the model."""
    privacy, history = job.privacy, list[HistoryRow]()
    assert privacy is not None
    if privacy.statistics_epsilon is not None:
        # Class counts and moments are one question; a scale that stays in the silo is another.
        questions = 2 if job.features.standardize == "silo" else 1
        history.append((statistics_noise(keep, privacy), 1.0, questions))
    if privacy.metrics_epsilon is not None:
        history.append((figures_noise(keep, privacy), 1.0, 1))
    return history


def _cost(job: Job, price: list[HistoryRow]) -> dict[str, float]:
    assert job.privacy is not None
    epsilon, bound = run_epsilon(price, job.privacy)
    return {
        "epsilon": epsilon,
        "epsilon_bound": bound,
        "delta": job.privacy.delta,
        "noise_multiplier": price[-1][0],
    }


def _as_arrays(account: Account) -> dict[str, Any]:
    """Return an account's limits as columns; 0 days is without a period."""
    rows = [
        (each.limit.days or 0, each.limit.epsilon, each.delta, each.before, each.after)
        for each in account.balances
    ]
    return {
        name: np.array([row[place] for row in rows], np.float64)
        for place, name in enumerate(_COLUMNS)
    }


def _offer(fields: Mapping[str, Any]) -> Offer:
    account = fields["account"]
    columns = [np.asarray(account.get(name, ())).reshape(-1).tolist() for name in _COLUMNS]
    balances = tuple(
        Balance(Limit(budget, int(days) or None), delta, before, after)
        for days, budget, delta, before, after in zip(*columns, strict=False)
    )
    return Offer(None, fields["rows"], dict(fields["cost"]), balances)


def _no_quorum(job: Job, offers: Mapping[str, Offer]) -> str:
    """Return why those who would take part are no quorum; empty where they are one."""
    willing = [name for name, each in offers.items() if each.fault is None]
    missing = {name: each.fault for name, each in offers.items() if each.fault is not None}
    rows = {name: each.rows for name, each in offers.items() if each.fault is None}
    try:
        job.cohort_quorum.require(willing, missing=missing, num_examples=rows, where="as planned")
    except RunFailed as error:
        return str(error)
    return ""
