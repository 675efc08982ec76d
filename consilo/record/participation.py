"""Who took part in which round, at which cost, and why not: one row a round and silo."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import Any, Literal, Self, get_args

from consilo.jobs.causes import AWAY, BAD_UPDATE, NOT_DRAWN, REFUSALS, not_asked, not_drawn
from consilo.kernel.loop import Exchange
from consilo.wire.parcel import Fault

Outcome = Literal[
    "trained",
    "late",
    "dropped",
    "refused",
    "rejected",
    "unused",
    "left_out",
    "not_asked",
    "not_drawn",
]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""What became of a silo in a round:

    trained    its update counts
    late       it had not answered at the deadline
    dropped    it was away, its process died, or its disk was full
    refused    its policy, its people or its budget said no
    rejected   it answered what cannot count: invalid, or unlike the others' updates
    unused     it answered, and the round was not finished
    left_out   its data or files broke the contract, before the rounds
    not_asked  the protocol did not choose it
    not_drawn  it was not in the cohort that was drawn for the round
"""
STALE = "stale"
"""The code of an answer that came too many rounds late to count."""
_TO_COME = Fault("deadline", "its answer is still to come")
_UNUSED = Fault("unused", "the round was not finished")
_LEFT_OUT = ("contract", "source", "configuration", "version")
_REJECTED = ("invalid_reply", BAD_UPDATE, STALE, "diverged")


@dataclass(frozen=True)
class Part:
    """One silo's part in one round.

    Args:
        round: 1, 2, …
        silo: who.
        outcome: one of `OUTCOMES`.
        code: the fault's, where it is not trained; empty otherwise.
        reason: the fault's sentence.
        invited: whether it was asked in this round.
        checked: whether its data keep the contract.
        approved: whether it let what was asked happen: no refusal of its policy or its people.
        num_examples: rows, or subjects, that its update was made of; 0 where there is none.
        weight: its share of the rows of all whose update counts, over √(1 + rounds that it is
            late); of a drawn cohort what its update was multiplied by; None where nothing is
            weighed.
        seconds: from asking to the answer, over the round's steps.
        silo_seconds: of these, the silo's own computing.
        bytes_down: sent to it.
        bytes_up: received from it.
        epsilon: what the run has cost it so far; None without privacy.
    """

    round: int
    silo: str
    outcome: Outcome
    code: str = ""
    reason: str = ""
    invited: bool = False
    checked: bool = False
    approved: bool = False
    num_examples: int = 0
    weight: float | None = None
    seconds: float = 0.0
    silo_seconds: float = 0.0
    bytes_down: int = 0
    bytes_up: int = 0
    epsilon: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    def brief(self) -> dict[str, Any]:
        """Return what a round's line of the record says: what is not as in `Part` by itself."""
        plain = {each.name: each.default for each in fields(self)}
        return {k: v for k, v in asdict(self).items() if k != "round" and v != plain[k]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the part that `to_json`, or `brief` besides its round, wrote."""
        return cls(**value)


def parts_of(
    number: int,
    took: Mapping[str, Mapping[str, Any]],
    exchanges: Iterable[Exchange],
    *,
    silos: Sequence[str],
    checked: Sequence[str],
    absent: Mapping[str, Fault],
    weighed: bool,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> list[Part]:
    """Return the parts of all silos in one round.

    Args:
        number: of the round.
        took: silo → ``num_examples`` and ``epsilon``, of those whose update counts.
        exchanges: of the run; those of the round are picked.
        silos: everybody who may be asked.
        checked: whose data keep the contract.
        absent: silo → why it was not even asked.
        weighed: whether updates count by their rows.
        told: the round's report, where answers are taken as they arrive: which ones were, when
            they were asked (``arrivals``), which came too late (``stale``) or are still to come
            (``late``); where silos are drawn: who was, and how they weigh (``cohort``).
    """
    cohort = told.get("cohort", {})
    weights = cohort.get("weights", {})
    undrawn = set(silos) - set(cohort["drawn"]) if cohort else set()
    absent = {**absent, **{name: _TO_COME for name in told.get("late", ())}}
    for name, each in told.get("stale", {}).items():
        absent[name] = Fault(STALE, f"its answer was late by {each['late']} rounds; it is paid for")
    spared = {n for n in undrawn if n not in absent or absent[n].code in AWAY}
    absent |= dict.fromkeys(spared, not_drawn())
    behind = {name: number - asked for name, asked in told.get("arrivals", ())}
    mine: dict[str, list[Exchange]] = {name: [] for name in silos}
    for each in exchanges:
        if each.round == number and each.silo in mine:
            mine[each.silo].append(each)
    rows = sum(int(each["num_examples"] or 0) for each in took.values())
    parts = []
    for name in silos:
        asked = mine[name]
        faults = [each.fault for each in asked if each.fault is not None]
        silent = absent.get(name) or (_UNUSED if asked else not_asked())
        fault = None if name in took else (faults[-1:] or [silent])[0]
        mine_of = took.get(name, {})
        count = int(mine_of.get("num_examples") or 0)
        share = count / math.sqrt(1 + behind.get(name, 0))
        parts.append(
            Part(
                round=number,
                silo=name,
                outcome="trained" if fault is None else outcome_of(fault),
                code="" if fault is None else fault.code,
                reason="" if fault is None else fault.reason,
                invited=bool(asked) or name in told.get("late", ()),
                checked=name in checked,
                approved=name in checked and (fault is None or fault.code not in REFUSALS),
                num_examples=count,
                weight=weights.get(name, share / rows)
                if weighed and rows and name in took
                else None,
                seconds=round(sum(each.seconds for each in asked), 3),
                silo_seconds=round(sum(each.silo_seconds for each in asked), 3),
                bytes_down=sum(each.bytes_down for each in asked),
                bytes_up=sum(each.bytes_up for each in asked),
                epsilon=mine_of.get("epsilon"),
            )
        )
    return parts


def outcome_of(fault: Fault) -> Outcome:
    """Return what becomes of a silo that gave this fault for an answer."""
    if fault.code == not_asked().code:
        return "not_asked"
    if fault.code == NOT_DRAWN:
        return "not_drawn"
    if fault.code == "deadline":
        return "late"
    if fault.code in REFUSALS:
        return "refused"
    if fault.code == _UNUSED.code:
        return "unused"
    if fault.code in _REJECTED:
        return "rejected"
    return "left_out" if fault.code in _LEFT_OUT else "dropped"


def counted(parts: Iterable[Part]) -> str:
    """Return how often silos took part, and how often not, in a line.

    >>> counted([Part(1, "a", "trained"), Part(1, "b", "late"), Part(2, "b", "late")])
    'trained 1 of 3; late 2 (b)'
    """
    rows = list(parts)
    by = Counter(each.outcome for each in rows)
    told = [f"trained {by['trained']} of {len(rows)}"]
    for outcome in OUTCOMES[1:]:
        if by[outcome]:
            who = list(dict.fromkeys(each.silo for each in rows if each.outcome == outcome))
            named = ", ".join(who) if len(who) <= 5 else f"{len(who)} silos"
            told.append(f"{outcome.replace('_', ' ')} {by[outcome]} ({named})")
    return "; ".join(told)
