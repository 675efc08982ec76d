"""A silo's word on a model: yes, no or abstain, with the reasons; and all of them together.

Reasons are codes, so that pages, gates and cards read them alike; `WORDS` has each in plain words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self, get_args

from consilo.errors import ReplyInvalid
from consilo.kernel.verbs import check_numbers
from consilo.printable import printable

Verdict = Literal["yes", "no", "abstain"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)

MOST_WORDS = 500
"""Characters of what people write when they overrule a vote."""
_MOST_REASONS = 32

WORDS: Mapping[str, str] = {
    "not_worse": "it is not worse than what it is compared with, within the tolerance",
    "worse_than_champion": "it is worse than the champion, beyond the tolerance",
    "worse_than_local": "it is worse than the silo's own model, beyond the tolerance",
    "worse_than_constant": "it is worse than one answer for everybody, beyond the tolerance",
    "uncertain_champion": "too few rows tell it apart from the champion",
    "uncertain_local": "too few rows tell it apart from the silo's own model",
    "uncertain_constant": "too few rows tell it apart from one answer for everybody",
    "unfair": "its figure differs between groups by more than the policy bears",
    "fairness_uncertain": "too few rows tell whether it treats groups alike",
    "fairness_unjudged": "the policy wants groups treated alike, and they could not be compared",
    "uncalibrated": "its chances miss what came true by more than the policy bears",
    "calibration_uncertain": "too few rows tell whether its chances come true",
    "calibration_unjudged": "the policy wants chances that come true, and they could not be judged",
    "epsilon": "it cost more privacy than the policy bears of a model",
    "few_rows": "there are fewer held-out rows here than the policy wants",
    "other_rows": "the champion's job holds out other rows, on which both cannot be compared",
    "other_code": "the champion runs other code than the one that was sent",
    "metric": "the job's metric is none that rows can be drawn anew for",
    "metric_private": "the job's metric is none that noise can be added to",
    "unpaid": "the job pays for no figures of merit (privacy.metrics_epsilon)",
    "budget": "the privacy budget does not pay for it",
    "policy": "the silo's policy lets no figure of merit leave for this job, cohort and day",
    "per_day": "the silo has voted as often within a day as its policy bears",
    "people": "people of the silo have decided",
    "people_first": "people of the silo decide, and have not yet",
}
"""Code → what it says."""


@dataclass(frozen=True)
class Vote:
    """What one silo says of one model.

    Args:
        silo: who.
        run: the run that trained the candidate.
        candidate: SHA-256 of its parameters.
        champion: SHA-256 of those that it was compared with; None where there was no champion.
        verdict: yes, no or abstain.
        reasons: codes, of `WORDS`.
        figures: what the silo's policy lets out: ``gain/WHOM``, ``low/WHOM``, ``high/WHOM`` (above
            0 the candidate is better, in the metric's units, or as a share where the metric is an
            error in the target's units), ``gap/COLUMN``, ``calibration``, ``rows``.
        overruled: the reason that people of the silo gave; empty where its policy has voted.
    """

    silo: str
    run: str
    candidate: str
    champion: str | None
    verdict: Verdict
    reasons: tuple[str, ...] = ()
    figures: Mapping[str, float] = field(default_factory=dict)
    overruled: str = ""

    @property
    def told(self) -> str:
        """The vote in words, for people."""
        why = "; ".join(WORDS.get(each, each) for each in self.reasons)
        said = f"; they say: {printable(self.overruled, most=MOST_WORDS)}" if self.overruled else ""
        return f"{self.verdict}: {why or 'no reason given'}{said}"

    def to_json(self) -> dict[str, Any]:
        """Return the vote as plain JSON values."""
        return {
            "silo": self.silo,
            "run": self.run,
            "candidate": self.candidate,
            "champion": self.champion,
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "figures": dict(self.figures),
            "overruled": self.overruled,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the vote that `to_json` wrote.

        Raises:
            ReplyInvalid: where it is none.
        """
        try:
            champion = value["champion"]
            check_word("vote", value, {})
            check_numbers("figures", value["figures"], {})
            return cls(
                str(value["silo"]),
                str(value["run"]),
                str(value["candidate"]),
                None if champion is None else str(champion),
                value["verdict"],
                tuple(map(str, value["reasons"])),
                {str(name): float(each) for name, each in value["figures"].items()},
                str(value["overruled"]),
            )
        except (KeyError, TypeError, AttributeError) as cause:
            raise ReplyInvalid("vote: this is none") from cause


def check_word(name: str, value: Any, payload: Mapping[str, Any]) -> None:
    """Raise `ReplyInvalid` unless a value has a verdict, and reasons of `WORDS`."""
    ok = isinstance(value, Mapping) and value.get("verdict") in VERDICTS
    reasons = value.get("reasons") if ok else None
    if not isinstance(reasons, list | tuple) or not 1 <= len(reasons) <= _MOST_REASONS:
        raise ReplyInvalid(f"{name}: expected a verdict ({', '.join(VERDICTS)}) and its reasons")
    if not all(isinstance(each, str) and each in WORDS for each in reasons):
        raise ReplyInvalid(f"{name}: a reason is none of those that votes have")
    said = value.get("overruled", "")
    if not isinstance(said, str) or len(said) > MOST_WORDS:
        raise ReplyInvalid(f"{name}: expected people's words, {MOST_WORDS} characters at most")


@dataclass(frozen=True)
class Ballot:
    """What all silos say of a model.

    Args:
        run_id: the run in which they were asked; its record has their signed answers.
        votes: of those that answered, by name.
        missing: silo → why it has not voted.
    """

    run_id: str
    votes: tuple[Vote, ...]
    missing: Mapping[str, str] = field(default_factory=dict)

    def count(self, verdict: Verdict) -> int:
        """Return how many silos say so."""
        return sum(each.verdict == verdict for each in self.votes)

    def to_json(self) -> dict[str, Any]:
        """Return the ballot as plain JSON values."""
        return {
            "run_id": self.run_id,
            "votes": [each.to_json() for each in self.votes],
            "missing": dict(self.missing),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Return the ballot that `to_json` wrote.

        Raises:
            ReplyInvalid: where a vote is none.
        """
        votes = tuple(Vote.from_json(each) for each in value["votes"])
        return cls(str(value["run_id"]), votes, dict(value["missing"]))
