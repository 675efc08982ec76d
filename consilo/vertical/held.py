"""Ask the silos of a vertical job whether they hold halves of one match that can still be used."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from consilo.errors import Refused
from consilo.jobs.holders import Holders
from consilo.jobs.job import Job
from consilo.jobs.joint import JointJob
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Answers, Step
from consilo.kernel.verbs import Disclosure, FromRows, arrays, count, verb
from consilo.kernel.view import Message, SiloView
from consilo.vertical import turns
from consilo.vertical.blocks import matched_with_all

STATISTIC = Disclosure.STATISTIC
_PROBLEMS = {
    "match": "it keeps no match that fits the job",
    "match_expired": "its match has expired",
    "match_purpose": "its match was made for another purpose",
    "match_stale": "its rows have changed since the match",
}
"""Why a silo's match cannot be used: code of its refusal → what people read."""


@dataclass(frozen=True)
class Held:
    """What the silos say of a match.

    Args:
        rows: matched rows; 0 where they hold no common match.
        reason: why they hold none; empty where they do.
    """

    rows: int = 0
    reason: str = ""


class MatchHeld(Protocol[None]):
    """Asks every silo of the job for its half.

    Args:
        holders: the silos, and the match's handle.
        run: the run that has just made the match; empty where none has. Asked the same thing
            twice, a silo would say what it said before.
    """

    runs_job_code = False
    rows = "part"

    def __init__(self, holders: Holders, run: str = "") -> None:
        self.holders = holders
        self.run = run

    @classmethod
    def from_job(cls, job: Job) -> Self:
        """Return the protocol for a vertical job."""
        return cls(JointJob.of(job).holders)

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Held]:
        """Return what the silos hold, all of them together.

        Raises:
            RunFailed: where a silo does not answer, or refuses for another reason than its match:
                then nothing is known of the match, and making it anew would spend queries.
        """
        everybody = self.holders.members
        answers: Answers = yield turns.asked(everybody, everybody, "held", {"run": self.run})
        marks = set()
        for name, reply in answers.replies.items():
            problem = int(reply.fields["problem"])
            if problem:
                words = list(_PROBLEMS.values())
                return Held(reason=f"{name}: {words[min(problem, len(words)) - 1]}")
            mark = reply.fields["mark"].get("mark")
            if mark is None:
                return Held(reason=f"{name}: its answer has no mark of a match")
            marks.add(mark.tobytes())
        if len(marks) > 1:
            return Held(reason="the silos hold halves of different matches")
        return Held(rows=min(int(each.fields["rows"]) for each in answers.replies.values()))

    @verb(
        "held",
        replies={
            "rows": count(rows=FromRows.NONE),
            "problem": count(rows=FromRows.NONE),
            "mark": arrays(STATISTIC, rows=FromRows.MATCH),
        },
    )
    def held(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return how many rows are matched, and a digest that all halves of a match share.

        Where no match can be used, the place of the reason in `_PROBLEMS`, from 1.
        """
        try:
            match = matched_with_all(silo, self.holders)
        except Refused as cause:
            if cause.code not in _PROBLEMS:
                raise
            return {"rows": 0, "problem": list(_PROBLEMS).index(cause.code) + 1, "mark": {}}
        mark = np.frombuffer(bytes.fromhex(match.mark), np.uint8)
        return {"rows": len(match.rows), "problem": 0, "mark": {"mark": mark}}
