"""Candidates, the silos' votes on them, gates, and who decided what of which model, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request

from consilo.decisions.gates import Gate, gates
from consilo.decisions.promotions import Promotions, Proposal
from consilo.decisions.reviewers import Reviewer
from consilo.decisions.vote import Ballot, Vote
from consilo.pages.pictures.bars import Bar, bars
from consilo.pages.pictures.picture import Picture
from consilo.pages.site import Shown
from dashboards.reading.reading import Reading
from dashboards.reading.story import Brief

_MOST_ENDED = 10
_MOST_CHANGES = 30
_MOST_UNPROPOSED = 5
_GAIN, _LOW, _HIGH = "gain/", "low/", "high/"
_VERDICTS = {"yes": "good", "no": "bad", "abstain": "wait"}
_DECIDED = {"approved": "good", "rejected": "bad", "blocked": "bad", "superseded": "off"}


class PromotionPage:
    """Draws it.

    Args:
        reading: what is read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __call__(self, request: Request) -> Shown:
        """Return the page."""
        reading = self._reading
        stories = reading.decided.models()
        enrolled = reading.decided.enrolled()
        briefs = reading.records.briefs()
        made = _made(briefs)
        known = {each.name: each for each in stories}
        return Shown(
            "promotion.html",
            {
                "title": "Promotion",
                "home": str(reading.home),
                "reviewers": sorted(enrolled),
                "broken": [(each.name, each.wrong) for each in stories if each.wrong],
                "models": [
                    self._model(each.promotions, made.get(each.name, ()), enrolled)
                    for each in stories
                    if each.promotions is not None
                ],
                "voting": [self._voting(each) for each in briefs if _is_voting(each)],
                "unproposed": [
                    (name, versions[-1]) for name, versions in made.items() if name not in known
                ],
            },
        )

    def _model(
        self,
        found: Promotions,
        made: Sequence[tuple[int, str]],
        enrolled: Mapping[str, Reviewer],
    ) -> dict[str, Any]:
        wanted = found.wanted
        newest = max((each.candidate.version for each in found.proposals), default=0)
        ended = [each for each in reversed(found.proposals) if each.decision is not None]
        return {
            "name": found.model,
            "champion": found.champion,
            "previous": wanted["previous"],
            "unmoved": bool(found.unmoved),
            "by_hand": [
                (alias, _version(at), _version(wanted.get(alias)))
                for alias, at in found.found.items()
            ],
            "waiting": [self._proposal(each, enrolled) for each in found.waiting],
            "ended": [self._ended(each) for each in ended[:_MOST_ENDED]],
            "more": max(0, len(ended) - _MOST_ENDED),
            "changes": [
                (each.time, each.kind.replace("_", " "), each.told)
                for each in reversed(found.changes)
            ][:_MOST_CHANGES],
            "next": [each for each in made if each[0] > newest][-_MOST_UNPROPOSED:],
        }

    def _proposal(self, proposal: Proposal, enrolled: Mapping[str, Reviewer]) -> dict[str, Any]:
        candidate = proposal.candidate
        now = gates(
            candidate,
            proposal.ballot,
            has_champion=proposal.champion is not None,
            now=self._reading.now(),
        )
        signs = bool(enrolled) or bool(candidate.promotion.needs_reviewers)
        return {
            **_shown(proposal, now),
            "is_votable": candidate.kind == "horizontal",
            "signed": [
                (
                    each.reviewer,
                    "approves" if each.approves else "rejects",
                    each.reason,
                    each.time,
                )
                for each in proposal.signed
            ],
            "lacking": proposal.lacking(enrolled) if signs else "",
            "commands": _commands(proposal, self._reading.home.as_posix(), signs),
        }

    def _ended(self, proposal: Proposal) -> dict[str, Any]:
        decision = proposal.decision
        assert decision is not None
        then = [
            Gate(str(e["name"]), bool(e["open"]), str(e["told"]), bool(e.get("by_people")))
            for e in decision.gates
        ]
        return {
            **_shown(proposal, then),
            "verdict": decision.verdict,
            "verdict_kind": _DECIDED[decision.verdict],
            "by": ", ".join(decision.by),
            "how": decision.how,
            "reason": decision.reason,
            "decided": decision.time,
        }

    def _voting(self, brief: Brief) -> dict[str, Any]:
        live = self._reading.records.live(brief.name)
        said = {
            name: str(each.get("state", "")).replace("_", " ")
            for name, each in sorted(dict(live.get("silos") or {}).items())
        }
        return {
            "run": brief.name,
            "trained": str(brief.facts["candidate"].get("trained", "")),
            "owned": self._reading.records.is_owned(brief.name),
            "said": said,
        }


def gain_of_votes(proposal: Proposal | None, whom: str = "champion") -> Picture | None:
    """Return how much better a candidate is in each silo, as votes tell; None where none do.

    Args:
        proposal: with votes, or without.
        whom: it is compared with.
    """
    if proposal is None or proposal.ballot is None:
        return None
    found = [
        Bar(
            each.silo,
            each.figures.get(_GAIN + whom),
            each.figures.get(_LOW + whom),
            each.figures.get(_HIGH + whom),
            each.told if _GAIN + whom in each.figures else f"{each.told} (no figure let out)",
        )
        for each in proposal.ballot.votes
    ]
    if all(each.value is None for each in found):
        return None
    metric = proposal.candidate.promotion.metric
    return bars(
        f"{metric}: better than the {whom}, on each silo's own held-out rows, by its vote",
        found,
        across=f"gain of {metric}, with the interval of the silo's policy",
    )


def _shown(proposal: Proposal, found: Sequence[Gate]) -> dict[str, Any]:
    candidate, ballot = proposal.candidate, proposal.ballot
    return {
        "version": candidate.version,
        "run": candidate.run,
        "status": candidate.status,
        "status_why": candidate.reason,
        "digest": candidate.digest,
        "author": candidate.author,
        "proposed": proposal.time,
        "after": proposal.champion,
        "votes": [] if ballot is None else [_vote(each) for each in ballot.votes],
        "missing": [] if ballot is None else sorted(ballot.missing.items()),
        "vote_run": "" if ballot is None else ballot.run_id,
        "count": _count(ballot),
        "gains": gain_of_votes(proposal),
        "gates": [
            (each.name, "open" if each.open else "closed", _gate_kind(each), each.told)
            for each in found
        ],
    }


def _gate_kind(gate: Gate) -> str:
    if gate.open:
        return "good"
    return "warn" if gate.by_people else "bad"


def _vote(vote: Vote) -> dict[str, Any]:
    return {
        "silo": vote.silo,
        "verdict": vote.verdict,
        "kind": _VERDICTS[vote.verdict],
        "told": vote.told.partition(": ")[2],
        "figures": ", ".join(f"{name} {value:.4g}" for name, value in sorted(vote.figures.items())),
    }


def _count(ballot: Ballot | None) -> str:
    if ballot is None:
        return ""
    return f"{ballot.count('yes')} yes, {ballot.count('no')} no, {ballot.count('abstain')} abstain"


def _commands(proposal: Proposal, home: str, signs: bool) -> list[str]:
    what = f"{proposal.candidate.model} {proposal.candidate.version} --dir {home}"
    if signs:
        return [
            f"consilo model request {what} --out request.json",
            f"consilo model approve {what} --envelope signed.json",
            f"consilo model reject {what} --envelope signed.json",
        ]
    return [
        f"consilo model approve {what} --reason WHY",
        f"consilo model reject {what} --reason WHY",
    ]


def _version(at: int | None) -> str:
    return "nothing" if at is None else f"version {at}"


def _made(briefs: Sequence[Brief]) -> dict[str, list[tuple[int, str]]]:
    """Return model → (version, run) of all that records tell of, the oldest version first."""
    found: dict[str, list[tuple[int, str]]] = {}
    for each in briefs:
        name, _, version = each.model.rpartition(" version ")
        if name and version.isdecimal():
            found.setdefault(name, []).append((int(version), each.name))
    return {name: sorted(each) for name, each in sorted(found.items())}


def _is_voting(brief: Brief) -> bool:
    return brief.kind == "vote" and not brief.status
