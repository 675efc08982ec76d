"""What a candidate must bring before people may let it in: one gate a rule of ``promotion``.

Pure: a candidate and a ballot in, one `Gate` a rule out, each with what it found in words.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from consilo.decisions.candidates import Candidate
from consilo.decisions.reviewers import Reviewer
from consilo.decisions.vote import Ballot, Vote
from consilo.jobs.sections.promotion import Promotion

_GAIN = "gain/champion"
_ROWS = "rows"


@dataclass(frozen=True)
class Gate:
    """One rule, and whether a candidate keeps it.

    Args:
        name: of the rule, as the job's key has it.
        open: it keeps it.
        told: what was found, in words.
        by_people: people may open it, by saying so in their decision.
    """

    name: str
    open: bool
    told: str
    by_people: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self)


def gates(
    candidate: Candidate,
    ballot: Ballot | None,
    *,
    has_champion: bool,
    now: datetime,
    accepts_degraded: bool = False,
) -> tuple[Gate, ...]:
    """Return every gate of the candidate's job.

    Args:
        candidate: with what its job holds it to.
        ballot: what the silos say of it; None where they were not asked.
        has_champion: whether there is one that it would follow.
        now: with a time zone.
        accepts_degraded: who decides accepts that the run was degraded.
    """
    held_to = candidate.promotion
    votes = () if ballot is None else ballot.votes
    missing = {} if ballot is None else ballot.missing
    found = [
        _status(candidate, accepts_degraded),
        _quorum(held_to.votes_needed(candidate.kind), votes, missing),
        _mandatory(held_to, votes, missing),
        _no(held_to, votes),
        _tolerance(held_to, votes),
        _gain(held_to, votes, has_champion=has_champion),
        _age(held_to, candidate, now),
    ]
    return tuple(each for each in found if each is not None)


def closed(found: Sequence[Gate], *, for_people: bool) -> tuple[Gate, ...]:
    """Return the gates that are closed.

    Args:
        found: of `gates`.
        for_people: leaves out those that people can open by their decision.
    """
    return tuple(each for each in found if not each.open and not (for_people and each.by_people))


def cannot_be_met(
    promotion: Promotion,
    kind: str,
    *,
    silos: Collection[str],
    reviewers: Mapping[str, Reviewer],
    author: str,
) -> list[str]:
    """Return what a job asks of its candidates that nobody could fulfil as things are.

    Args:
        promotion: what the job says.
        kind: of the job.
        silos: that are asked.
        reviewers: that are enrolled.
        author: the login that starts the run.
    """
    told = []
    needed, wanted = promotion.votes_needed(kind), promotion.needs_reviewers
    if needed > len(silos):
        told.append(f"promotion.quorum: votes of {needed} silos, and {len(silos)} are asked")
    absent = sorted(set(promotion.mandatory) - set(silos))
    if absent:
        told.append(f"promotion.mandatory: {', '.join(absent)} must vote and is none of the silos")
    if wanted > len(reviewers):
        by = "four_eyes" if promotion.four_eyes else "approvals"
        told.append(
            f"promotion.{by}: needs {wanted} reviewers that are enrolled, found {len(reviewers)}; "
            "'consilo reviewer add' enrols one"
        )
    elif promotion.four_eyes and all(each.user == author for each in reviewers.values()):
        told.append(
            f"promotion.four_eyes: '{author}' starts the run, and no other reviewer is enrolled"
        )
    return told


def _status(candidate: Candidate, accepts_degraded: bool) -> Gate:
    if candidate.status == "complete":
        return Gate("status", True, "its run was complete")
    told = f"its run was {candidate.status}: {candidate.reason}"
    if candidate.status != "degraded":
        return Gate("status", False, told)
    if accepts_degraded:
        return Gate("status", True, f"{told}; that was accepted", by_people=True)
    return Gate("status", False, f"{told}; a decision may accept it", by_people=True)


def _quorum(needed: int, votes: Sequence[Vote], missing: Mapping[str, str]) -> Gate:
    why = "; ".join(f"{name}: {said}" for name, said in missing.items())
    told = f"{len(votes)} silos have voted, {needed} must" + (f" ({why})" if why else "")
    return Gate("quorum", len(votes) >= needed, told)


def _mandatory(
    held_to: Promotion, votes: Sequence[Vote], missing: Mapping[str, str]
) -> Gate | None:
    if not held_to.mandatory:
        return None
    absent = [name for name in held_to.mandatory if name not in {each.silo for each in votes}]
    why = ", ".join(f"{name} ({missing.get(name, 'was not asked')})" for name in absent)
    told = f"has not voted: {why}" if absent else f"has voted: {', '.join(held_to.mandatory)}"
    return Gate("mandatory", not absent, told)


def _no(held_to: Promotion, votes: Sequence[Vote]) -> Gate:
    against = [each for each in votes if each.verdict == "no"]
    why = "; ".join(f"{each.silo} says {each.told}" for each in against)
    told = why or "no silo votes no"
    return Gate("max_no", len(against) <= held_to.max_no, told)


def _tolerance(held_to: Promotion, votes: Sequence[Vote]) -> Gate | None:
    gains = {each.silo: each.figures[_GAIN] for each in votes if _GAIN in each.figures}
    if not gains:
        return None
    worse = {name: gain for name, gain in gains.items() if gain < -held_to.per_silo_tolerance}
    found = ", ".join(f"{name} {gain:+.4f}" for name, gain in (worse or gains).items())
    told = f"{held_to.metric} against the champion, where told: {found}"
    return Gate(
        "per_silo_tolerance",
        not worse,
        f"{told}; below -{held_to.per_silo_tolerance:g}" if worse else told,
    )


def _gain(held_to: Promotion, votes: Sequence[Vote], *, has_champion: bool) -> Gate | None:
    if held_to.min_gain is None:
        return None
    if not has_champion:
        return Gate("min_gain", True, "there is no champion yet to gain over")
    telling = [each for each in votes if _GAIN in each.figures]
    if not telling:
        told = "no silo tells how the candidate does against the champion"
        return Gate("min_gain", False, told)
    counted = all(each.figures.get(_ROWS, 0.0) > 0 for each in telling)
    weights = [each.figures[_ROWS] if counted else 1.0 for each in telling]
    total = sum(w * each.figures[_GAIN] for w, each in zip(weights, telling, strict=True))
    gain = total / sum(weights)
    how = "weighted by rows" if counted else "each silo alike"
    told = f"{held_to.metric} {gain:+.4f} over {len(telling)} silos, {how}"
    return Gate("min_gain", gain >= held_to.min_gain, f"{told}; {held_to.min_gain:+g} is wanted")


def _age(held_to: Promotion, candidate: Candidate, now: datetime) -> Gate | None:
    if held_to.max_age_s is None:
        return None
    age_s = (now - datetime.fromisoformat(candidate.ended)).total_seconds()
    told = f"its run ended {candidate.ended}, {age_s / 3600:.1f} h ago; {held_to.max_age} at most"
    return Gate("max_age", age_s <= held_to.max_age_s, told)
