"""Ask each silo what a job would cost its privacy account, and if it can pay; nothing is spent.

Each silo computes its own price, from its own number of rows, and puts its training to its own
policy, as if the job had begun. The contract is checked first: a run would begin with it too.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from consilo.check_report import CheckReport
from consilo.dataset import training_blocks
from consilo.errors import BudgetExhausted, QuorumLost
from consilo.features import Encoding
from consilo.job import Job
from consilo.learning import plan_of, run_epsilon, statistics_noise, training_noise
from consilo.parcel import Fault
from consilo.privacy.account import Account, Balance, Limit
from consilo.privacy.accounting import HistoryRow
from consilo.protocol import Disclosure, Protocol, arrays, count, numbers, verb, verdict
from consilo.protocols import find_protocol
from consilo.silo import Message, SiloView
from consilo.steps import Ask, Step

STATISTIC = Disclosure.STATISTIC
_COLUMNS = ("days", "budget", "delta", "before", "after")


@dataclass(frozen=True)
class Offer:
    """What one silo says of a job.

    Args:
        fault: why it would take no part; None where it would.
        rows: how many rows it would train on.
        cost: ``epsilon`` by the job's accountant at the job's ``delta``, ``epsilon_bound`` by
            Rényi moments, ``noise_multiplier``; empty for a job without privacy.
        balances: how its account stands at each of its limits, and would stand after.
    """

    fault: Fault | None = None
    rows: int = 0
    cost: Mapping[str, float] = field(default_factory=dict)
    balances: tuple[Balance, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the offer as plain JSON values."""
        if self.fault is not None:
            return {"takes_part": False, "code": self.fault.code, "reason": self.fault.reason}
        return {
            "takes_part": True,
            "rows": self.rows,
            "cost": dict(self.cost),
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


class Quote(Protocol):
    """Asks everybody: does your data keep the contract, and what would the job cost you?"""

    def coordinate(self, fed: Any, state: Any) -> Generator[Step, Any, Quotes]:
        """Return every silo's offer, and whether those who would take part are a quorum."""
        offers: dict[str, Offer] = {}
        checked = yield Ask(fed.cohort(), "quote_contract", {})
        for name, fault in checked.missing.items():
            offers[name] = Offer(fault)
        for name, reply in checked.replies.items():
            report = CheckReport.from_json(json.dumps(reply.fields["report"]))
            if not report.passed:
                offers[name] = Offer(Fault("contract", report.reason()))
        willing = tuple(name for name in checked.replies if name not in offers)
        answers = yield Ask(willing, "quote", {})
        offers.update({name: Offer(fault) for name, fault in answers.missing.items()})
        offers.update({n: _offer(reply.fields) for n, reply in answers.replies.items()})
        for name in fed.silos:
            said = fed.left.get(name, "not connected")
            offers.setdefault(name, Offer(Fault("unreachable", said)))
        return Quotes(dict(sorted(offers.items())), _no_quorum(fed.job, offers))

    @verb("quote_contract", replies={"report": verdict()})
    def check(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's verdict on its data."""
        report = silo.host.check(silo.contract, purpose=silo.job.purpose)
        return {"report": json.loads(report.to_json())}

    @verb(
        "quote",
        replies={
            "rows": count(STATISTIC),
            "cost": numbers(STATISTIC),
            "account": arrays(STATISTIC),
        },
    )
    def quote(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return what the job would cost this silo, and how its account stands."""
        job, host = silo.job, silo.host
        training = find_protocol(job.protocol.name, host.search_path).verbs()["train"]
        host.permit(silo.header, job, silo.contract, training)
        encoding = Encoding.plan(silo.contract, job)
        rows = sum(len(block) for block in training_blocks(silo, encoding))
        account: dict[str, Any] = {}
        cost: dict[str, float] = {}
        if job.privacy is not None:
            price, cost = priced(silo, rows)
            found = host.quote(host.dataset(silo.contract), price)
            account = _as_arrays(found)
            for each in found.balances:
                if not each.fits:
                    raise BudgetExhausted(each.refusal(found.name))
        return {"rows": rows, "cost": cost, "account": account}


def priced(silo: SiloView, rows: int) -> tuple[list[HistoryRow], dict[str, float]]:
    """Return what a whole job would reserve in a silo, and its cost at the job's δ.

    Args:
        silo: whose job has a privacy section.
        rows: how many rows it would train on.
    """
    job, privacy = silo.job, silo.job.privacy
    assert privacy is not None
    history: list[HistoryRow] = []
    if privacy.statistics_epsilon is not None:
        history.append((statistics_noise(silo.host, privacy), 1.0, 1))
    plan = plan_of(job)
    rate, steps = plan.sample_rate(rows), plan.num_steps(rows) * job.protocol.rounds
    sigma = training_noise(silo.host, job, rate=rate, steps=steps, besides=history)
    history.append((sigma, rate, steps))
    epsilon, bound = run_epsilon(history, privacy)
    return history, {
        "epsilon": epsilon,
        "epsilon_bound": bound,
        "delta": privacy.delta,
        "noise_multiplier": sigma,
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
    found = fields["account"]
    columns = [np.asarray(found.get(name, ())).reshape(-1).tolist() for name in _COLUMNS]
    balances = tuple(
        Balance(Limit(budget, int(days) or None), delta, before, after)
        for days, budget, delta, before, after in zip(*columns, strict=False)
    )
    return Offer(None, fields["rows"], dict(fields["cost"]), balances)


def _no_quorum(job: Job, offers: Mapping[str, Offer]) -> str:
    """Return why those who would take part are no quorum; empty where they are one."""
    willing = [name for name, each in offers.items() if each.fault is None]
    missing = {
        name: f"{each.fault.code}: {each.fault.reason}"
        for name, each in offers.items()
        if each.fault is not None
    }
    rows = {name: each.rows for name, each in offers.items() if each.fault is None}
    try:
        job.cohort_quorum.require(willing, missing=missing, num_examples=rows, where="as planned")
    except QuorumLost as lost:
        return str(lost)
    return ""
