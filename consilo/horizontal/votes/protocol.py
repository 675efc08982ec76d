"""Votes: each silo judges a candidate on its own held-out rows, and answers yes, no or abstain.

The candidate is held against the champion, if there is one, and where the job asks for it against a
model that the silo trains alone; without a champion against one answer for everybody. All are
judged on the same rows, those that the job holds out: no run has learnt from them. What the silo's
policy makes of it (`consilo.decisions.rules`) is the vote. A silo that did not train can vote.

The silo half runs none of a job's own code in the process that decides: what such a model says of a
row is asked of processes apart.

**What an answer tells of rows.** A vote is made of held-out rows and of models that whoever asks
has chosen: it is a bit or two about those rows, and so it is declared, as a figure of merit. Where
the job is private the vote is made of noisy sums, which the data set's account pays for
(`privacy.metrics_epsilon`); what cannot be paid, or made noisy, is an abstention that no row has a
part in. The same question gets the same answer, without a new payment; other questions are counted.

**Monitoring** asks the same of the champion, against the one before it: an answer says in what a
silo signs that it is one to this, so that nobody can pass it off as a vote on a candidate. What
people said, or the policy's bound on ε, is a matter of letting a model in, and no part of it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from consilo.decisions.roles import VOTES
from consilo.decisions.vote import Vote, check_word
from consilo.errors import ReplyInvalid
from consilo.horizontal.votes.judge import Judge
from consilo.horizontal.votes.model import ASKED, MONITORING, Model
from consilo.kernel.federation import Federation
from consilo.kernel.protocol import Protocol
from consilo.kernel.steps import Answers, Ask, Step
from consilo.kernel.verbs import Disclosure, Field, FromRows, numbers, verb
from consilo.kernel.view import Message, SiloView


@dataclass(frozen=True)
class Answered:
    """What silos answered.

    Args:
        votes: of those that did, by name.
        fields: silo → its answer's fields, as it signed them.
        missing: silo → why it did not, in words.
    """

    votes: tuple[Vote, ...]
    fields: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, str]


def _check_about(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    texts = isinstance(value, Mapping) and set(value) - {ASKED} == {"run", "candidate", "champion"}
    if not texts or not all(isinstance(each, str) and len(each) < 300 for each in value.values()):
        raise ReplyInvalid(f"{name}: expected run, candidate and champion as texts")


class Voting(Protocol[None]):
    """One question to everybody: what do you say of this model?

    Args:
        candidate: None in the silo half.
        champion: what is in use; None where nothing is.
        lacking: codes of what cannot be compared, whatever a silo has: see `WORDS`.
        monitors: the candidate is in use, and this asks whether it still is good.
    """

    asks_apart = True
    decides: ClassVar[bool] = True

    def __init__(
        self,
        candidate: Model | None = None,
        champion: Model | None = None,
        lacking: Sequence[str] = (),
        *,
        monitors: bool = False,
    ) -> None:
        self.candidate = candidate
        self.champion = champion
        self.lacking = tuple(lacking)
        self.monitors = monitors

    def coordinate(self, fed: Federation, state: None) -> Generator[Step, Any, Answered]:
        """Ask once; who does not answer has not voted."""
        if self.candidate is None:
            raise ValueError("Voting needs a candidate to ask about")
        champion = None if self.champion is None else self.champion.to_payload()
        asked = {
            "candidate": self.candidate.to_payload(),
            "champion": champion,
            "lacking": list(self.lacking),
            **({ASKED: MONITORING} if self.monitors else {}),
        }
        answers: Answers = yield Ask(fed.cohort(), "vote", asked)
        fields = {name: dict(each.fields) for name, each in answers.replies.items()}
        votes, missing = [], {n: f"{e.code}: {e.reason}" for n, e in answers.missing.items()}
        wanted = (self.candidate.run, self.candidate.digest)
        for name, each in fields.items():
            if _monitors(each) != self.monitors:
                missing[name] = "invalid_reply: it has answered another question than the one asked"
                continue
            vote = vote_of(name, each, monitors=self.monitors)
            if (vote.run, vote.candidate) == wanted:
                votes.append(vote)
            else:
                missing[name] = "invalid_reply: it has voted on another model than the one sent"
        return Answered(tuple(votes), fields, missing)

    @verb(
        "vote",
        replies={
            "about": Field(Disclosure.STATISTIC, _check_about, rows=FromRows.NONE),
            "said": Field(Disclosure.STATISTIC, check_word, rows=FromRows.NONE, optional=True),
            "judged": Field(
                Disclosure.METRIC, check_word, rows=FromRows.FIGURES, optional=True, held_out=True
            ),
            "figures": numbers(
                Disclosure.METRIC, rows=FromRows.FIGURES, optional=True, held_out=True
            ),
        },
    )
    def vote(self, silo: SiloView, message: Message) -> Mapping[str, Any]:
        """Return this silo's vote: ``said``, which no row has a part in, or ``judged``."""
        candidate = Model.from_payload(message.payload["candidate"])
        sent = message.payload["champion"]
        champion = None if sent is None else Model.from_payload(sent)
        lacking = [str(each) for each in message.payload["lacking"]]
        monitors = message.payload.get(ASKED) == MONITORING
        judge = Judge(silo, silo.role(VOTES), candidate, champion, lacking, monitors=monitors)
        return judge.answer()


def vote_of(silo: str, fields: Mapping[str, Any], *, monitors: bool = False) -> Vote:
    """Return the vote that a silo's answer holds.

    Args:
        silo: who answered.
        fields: of the answer.
        monitors: it was asked about the champion; see `Voting`.

    Raises:
        ReplyInvalid: where it holds none, or two, or is an answer to another question.
    """
    if _monitors(fields) != monitors:
        raise ReplyInvalid(f"vote of {silo}: it is an answer to another question")
    words = [fields[each] for each in ("said", "judged") if each in fields]
    if len(words) != 1:
        raise ReplyInvalid(f"vote of {silo}: expected one word, found {len(words)}")
    about, (word,) = fields["about"], words
    return Vote(
        silo,
        about["run"],
        about["candidate"],
        about["champion"] or None,
        word["verdict"],
        tuple(word["reasons"]),
        dict(fields.get("figures", {})),
        word.get("overruled", ""),
    )


def _monitors(fields: Mapping[str, Any]) -> bool:
    return bool(fields["about"].get(ASKED) == MONITORING)
