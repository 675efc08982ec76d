"""The weighted mean of answers as they arrive (Nguyen et al. 2022, FedBuff, Algorithm 1).

A round ends with enough answers, or after a time; who is late goes on computing, and its answer is
taken into the round in which it comes, weighted by 1 / √(1 + staleness): the rounds it is late by.

Differences from the paper: answers weigh by rows, too; a silo is asked once a round at most, so
that it answers no more questions, and pays for no more, than the job has rounds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from typing import Any

from consilo.errors import RunFailed
from consilo.kernel.federation import Federation
from consilo.kernel.steps import Receive, Received, Reply, Send, Step
from consilo.reduce import Reduced
from consilo.reduce.mean import Total, finish, fold, no_rows
from consilo.wire.parcel import Fault

LIFE = 6.0
"""With a round that ends after a time, late answers may take so many times as long."""


class Arriving:
    """One round after the other over answers that arrive when they do.

    Args:
        enough: how many answers end a round; None where a round waits for all, as long as the
            job's deadline says, and then for its quorum.
        max_staleness: an answer that is late by more rounds is not used; it is paid all the same.
    """

    def __init__(self, *, enough: int | None, max_staleness: int) -> None:
        self._enough = enough
        self._max_staleness = max_staleness

    def __call__(
        self,
        fed: Federation,
        verb: str,
        payload: Mapping[str, Any],
        *,
        round: int,
        rounds: int,
        pending: Mapping[str, Any],
        vectors: Mapping[str, str | None],
    ) -> Generator[Step, Any, Reduced]:
        """Ask who is idle, and take what arrives until the round ends.

        The last round takes all that is under way, so that no answer is paid for nothing; a silo
        whose answer would come after it, by how late its last one was, is not asked any more.

        Args:
            fed: who may be asked.
            verb: what.
            payload: of this round's question.
            round: 1, 2, …
            rounds: how many there are.
            pending: what the round before left.
            vectors: reply field → the field that weighs it; None where every silo counts alike.

        Raises:
            RunFailed: where the quorum is not met, or nobody holds a row.
        """
        out = {n: int(r) for n, r in pending.get("out", {}).items() if n in fed.silos}
        questions = dict(pending.get("questions", {}))
        lag = {name: int(late) for name, late in pending.get("lag", {}).items()}
        here = fed.cohort()
        for name, asked in out.items():
            yield self._asked(fed, verb, questions[str(asked)], [name], asked, here)
        # One that would come a round after the last is waited for; one that is slower is not asked.
        idle = [n for n in here if n not in out and round + lag.get(n, 0) <= rounds + 1]
        lately = list(idle)
        out |= dict.fromkeys(idle, round)
        questions[str(round)] = payload
        wait_s = yield self._asked(fed, verb, payload, idle, round, here)
        ends = self._enough is None and round < rounds and bool(idle)
        end = time.monotonic() + wait_s if ends else None
        totals: dict[str, Total] = {}
        masses = dict.fromkeys(vectors, 0.0)
        replies: dict[str, Reply] = {}
        absent: dict[str, Fault] = {}
        arrivals: list[list[Any]] = []
        stale: dict[str, Any] = {}
        while out and not self._ends(len(arrivals), last=round == rounds):
            left_s = None if end is None else max(0.0, end - time.monotonic())
            came: Received | None = yield Receive(left_s)
            if came is None and left_s is None:  # nothing is under way, and nothing will come
                absent |= dict.fromkeys(out, Fault("failed", "its question is not under way"))
                out.clear()
                break
            if came is None:
                if self._holds(fed, replies, absent):
                    break
                end = None  # below the quorum, it is waited for as long as anybody computes
                continue
            asked = out.pop(came.silo, 0)
            if came.reply is None or not asked:
                absent[came.silo] = came.fault or Fault("failed", "no answer was wanted")
                spared = [n for n in here if n not in absent and n not in lately]
                if not out and not replies and spared:  # who was spared is needed after all
                    lately += spared
                    out |= dict.fromkeys(spared, round)
                    yield self._asked(fed, verb, payload, spared, round, here)
                continue
            late = lag[came.silo] = round - asked
            fields = dict(came.reply.fields)
            if late > self._max_staleness:
                paid = {name: fields.get(name) for name in ("epsilon", "epsilon_bound")}
                stale[came.silo] = {"late": late, **paid}
                continue
            for name, weight in vectors.items():
                amount = 1 if weight is None else fields[weight]
                share = amount / math.sqrt(1 + late)
                totals[name] = fold(totals.get(name), fields.pop(name), share)
                masses[name] += amount
            replies[came.silo] = Reply(came.silo, fields, came.reply.seconds)
            arrivals.append([came.silo, asked])
            del came
        answered = replies if self._enough is None else [n for n in here if n not in absent]
        self._require(fed, answered, absent, round)
        if not totals or not all(masses.values()):
            raise no_rows(verb, fed.silos)
        kept = {str(asked) for asked in out.values()}
        return Reduced(
            {name: finish(totals.pop(name), masses[name]) for name in vectors},
            replies,
            told={
                "arrivals": arrivals,
                "stale": stale,
                "late": sorted(out),
                "not_asked": [n for n in here if n not in replies and n not in absent],
            },
            pending={
                "out": out,
                "questions": {key: each for key, each in questions.items() if key in kept},
                "lag": lag,
            },
        )

    def _ends(self, taken: int, *, last: bool) -> bool:
        return self._enough is not None and taken >= self._enough and not last

    def _asked(
        self,
        fed: Federation,
        verb: str,
        payload: Mapping[str, Any],
        members: list[str],
        round: int,
        cohort: tuple[str, ...],
    ) -> Send:
        life = LIFE if self._enough is None else 1.0
        return Send(members, verb, payload, cohort=cohort, round=round, life=life)

    def _holds(
        self, fed: Federation, replies: Mapping[str, Reply], absent: Mapping[str, Fault]
    ) -> bool:
        try:
            self._require(fed, replies, absent, 0)
        except RunFailed:
            return False
        return True

    def _require(
        self, fed: Federation, answered: Any, absent: Mapping[str, Fault], round: int
    ) -> None:
        here = set(fed.cohort())
        late = Fault("deadline", "its answer is still to come")
        missing = {n: late if n in here else fed.why_away(n) for n in fed.silos}
        missing = {n: why for n, why in missing.items() if n not in answered}
        fed.job.cohort_quorum.require(
            list(answered),
            missing={**fed.left, **missing, **absent},
            num_examples=fed.num_examples,
            where=f"round {round}",
        )
