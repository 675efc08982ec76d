"""What was proposed, voted, decided and moved of one model: one signed chain of lines, read here.

``promotions/NAME.jsonl`` in the coordinator's directory. Its lines:

- ``proposed``: a version, what its run's record says of it, and the champion that it would follow;
- ``voted``: what the silos say (`consilo.decisions.vote.Ballot`), by the run that asked them;
- ``signed``: a reviewer's word, in their envelope;
- ``decided``: how the proposal ended, once: approved, rejected, blocked (a gate is closed) or
  superseded (another version has become the champion);
- ``rolled_back``: a former champion is the champion again;
- ``moved``: the registry's aliases are as the last decision says;
- ``found_moved``, ``put_back``: somebody moved an alias by hand; it was put back.

Whoever reads the chain checks it: signatures of the coordinator, of reviewers who were enrolled at
that line, how many approvals there were, which proposal each belongs to. A line that the rules
would not have let in is `RecordTampered`, whoever signed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Self

from consilo.decisions.candidates import Candidate
from consilo.decisions.envelopes import Sealed
from consilo.decisions.reviewers import Reviewer, Reviewers
from consilo.decisions.signed_lines import SignedLines
from consilo.decisions.vote import Ballot
from consilo.errors import DecisionRefused, RecordTampered
from consilo.silo_name import require_name

FOLDER = "promotions"
Verdict = Literal["approved", "rejected", "blocked", "superseded"]
CHAMPION, PREVIOUS = "champion", "previous"


@dataclass(frozen=True)
class Signature:
    """A reviewer's word about a proposal.

    Args:
        line: hash of the chain's line.
        time: UTC, ISO 8601.
        reviewer: the name.
        key: raw Ed25519, in hexadecimal.
        approves: else it rejects.
        reason: why.
        accepts_degraded: approves although the run was degraded.
    """

    line: str
    time: str
    reviewer: str
    key: str
    approves: bool
    reason: str
    accepts_degraded: bool


@dataclass(frozen=True)
class Decision:
    """How a proposal ended, or a rollback.

    Args:
        line: hash of the chain's line.
        time: UTC, ISO 8601.
        verdict: approved, rejected, blocked or superseded.
        reason: why.
        by: who: reviewers by name; else the login of a shell, or ``form`` or ``gates``.
        how: reviewers, shell, form or gates.
        federation: the coordinator's key that signed the line.
        gates: as they stood, as plain JSON values.
    """

    line: str
    time: str
    verdict: Verdict
    reason: str
    by: tuple[str, ...]
    how: str
    federation: str
    gates: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Proposal:
    """A version that shall become the champion.

    Args:
        line: hash of the chain's line, which envelopes name.
        time: UTC, ISO 8601.
        federation: the coordinator's key that signed the line.
        candidate: the version.
        champion: which version it would follow; None for the first.
        flow_run: id of the flow run that proposed it; empty where none did.
        ballot: what the silos say; None until they were asked.
        signed: words of reviewers, the oldest first.
        decision: None while it is open.
    """

    line: str
    time: str
    federation: str
    candidate: Candidate
    champion: int | None
    flow_run: str
    ballot: Ballot | None = None
    signed: tuple[Signature, ...] = ()
    decision: Decision | None = None

    def approving(self, enrolled: Mapping[str, Reviewer]) -> tuple[Signature, ...]:
        """Return the approvals of those who are enrolled."""
        keys = {each.key for each in enrolled.values()}
        return tuple(each for each in self.signed if each.approves and each.key in keys)

    def lacking(self, enrolled: Mapping[str, Reviewer]) -> str:
        """Return what approvals are lacking, in words; empty where there are enough."""
        approving = self.approving(enrolled)
        wanted = self.candidate.promotion.approvals
        if len(approving) < wanted:
            return f"{len(approving)} of {wanted} approvals"
        if not self.candidate.promotion.four_eyes:
            return ""
        users = {each.key: each.user for each in enrolled.values()}
        author = self.candidate.author
        if not author and len(approving) < 2:
            return "a second approval: who started the run is not known (four_eyes)"
        if all(users[each.key] == author for each in approving):
            return f"an approval of somebody else than '{author}', who started the run (four_eyes)"
        return ""

    def asked(self) -> dict[str, Any]:
        """Return what a reviewer's statement must name, as plain JSON values."""
        return {
            "federation": self.federation,
            "model": self.candidate.model,
            "version": self.candidate.version,
            "digest": self.candidate.digest,
            "asks": self.line,
        }


@dataclass(frozen=True)
class Champion:
    """A version that was made the champion.

    Args:
        candidate: the version.
        decision: the last decision that made it so.
        proposal: the line that proposed it.
    """

    candidate: Candidate
    decision: Decision
    proposal: str

    @property
    def version(self) -> int:
        """Counted by the registry."""
        return self.candidate.version


@dataclass(frozen=True)
class Change:
    """A line about the champion, for people: when, what, who and why."""

    time: str
    line: str
    kind: str
    told: str


@dataclass(frozen=True)
class Promotions:
    """The chain of one model, read and checked.

    Args:
        model: its name.
        head: hash of the last line; 64 zeros where there is none.
        proposals: the oldest first.
        champions: the champion last; before it those that a rollback would go to.
        unmoved: hash of the decision that the aliases do not follow yet; empty where they do.
        changes: what became of the champion, the oldest first.
        found: what an alias was found at by hand, and not put back since; alias → version.
        entries: the lines themselves.
    """

    model: str
    head: str = "0" * 64
    proposals: tuple[Proposal, ...] = ()
    champions: tuple[Champion, ...] = ()
    unmoved: str = ""
    changes: tuple[Change, ...] = ()
    found: Mapping[str, int | None] = field(default_factory=dict)
    entries: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def open(cls, home: Path, model: str) -> Self:
        """Return the chain of a model; an empty one where nothing was ever proposed.

        Raises:
            RecordTampered: naming the first line that does not fit.
        """
        require_name(model, where="model", what="job")
        entries = SignedLines(home, chain_of(model)).read()
        reading = _read(home, model, entries)
        return cls(
            model,
            str(entries[-1]["hash"]) if entries else "0" * 64,
            tuple(reading.proposals.values()),
            tuple(reading.champions),
            reading.unmoved,
            tuple(reading.changes),
            reading.found,
            tuple(entries),
        )

    @property
    def champion(self) -> Champion | None:
        """Who is the champion by the last decision; None where there never was one."""
        return self.champions[-1] if self.champions else None

    @property
    def wanted(self) -> dict[str, int | None]:
        """What each alias points at by the last decision; None: there is no such alias."""
        latest = [each.version for each in reversed(self.champions)]
        now, before, *_ = [*latest, None, None]
        return {CHAMPION: now, PREVIOUS: before}

    @property
    def waiting(self) -> tuple[Proposal, ...]:
        """The proposals that nobody has decided yet."""
        return tuple(each for each in self.proposals if each.decision is None)

    def of(self, version: int) -> Proposal | None:
        """Return the last proposal of a version; None where it was never proposed."""
        found = [each for each in self.proposals if each.candidate.version == version]
        return found[-1] if found else None


def require_fits(home: Path, before: Promotions, line: Mapping[str, Any]) -> None:
    """Raise `RecordTampered` where a line that is about to be written would not be let in.

    Args:
        home: the coordinator's directory.
        before: the chain.
        line: as `consilo.record.chain.read` would return it, with any hash.
    """
    _read(home, before.model, [*before.entries, line])


def chain_of(model: str) -> str:
    """Return the file of a model's chain, below the coordinator's directory."""
    return f"{FOLDER}/{model}.jsonl"


def models(home: Path) -> tuple[str, ...]:
    """Return the names of all models of which something was ever proposed."""
    return tuple(sorted(each.stem for each in (home / FOLDER).glob("*.jsonl")))


def require_word(
    sealed: Sealed, asked: Mapping[str, Any], enrolled: Mapping[str, Reviewer]
) -> Reviewer:
    """Return whose word an envelope is.

    Args:
        sealed: the envelope.
        asked: what its statement must name; `Proposal.asked`.
        enrolled: who may decide, by name.

    Raises:
        DecisionRefused: where it is nobody's who may decide, or about something else.
    """
    said = sealed.statement
    reviewer = next((each for each in enrolled.values() if each.key == sealed.key), None)
    if reviewer is None:
        raise DecisionRefused(
            f"the key {sealed.key[:16]}… is none of an enrolled reviewer "
            f"({', '.join(enrolled) or 'nobody is enrolled'}); 'consilo reviewer list' shows them"
        )
    if not sealed.is_signed:
        raise DecisionRefused(f"the envelope is not signed by {reviewer.name}'s key: it was edited")
    for name, wanted in asked.items():
        if getattr(said, name) != wanted:
            raise DecisionRefused(
                f"the envelope of {reviewer.name} is about another {_TOLD[name]}: expected "
                f"{str(wanted)[:16]}, found {str(getattr(said, name))[:16]}"
            )
    return reviewer


_TOLD = {
    "federation": "federation",
    "model": "model",
    "version": "version",
    "digest": "model (the digest of its parameters)",
    "asks": "proposal",
}


def _read(home: Path, model: str, entries: Sequence[Mapping[str, Any]]) -> _Reading:
    reading = _Reading(model, Reviewers.open(home) if entries else Reviewers({}))
    for number, entry in enumerate(entries, start=1):
        where = f"{chain_of(model)}, line {number}"
        try:
            reading.take(entry)
        except (RecordTampered, DecisionRefused) as cause:
            raise RecordTampered(f"{where}: {cause}") from None
        except (KeyError, TypeError, ValueError, AttributeError):
            raise RecordTampered(f"{where}: it lacks a part") from None
    return reading


class _Reading:
    """The chain as far as it was read."""

    def __init__(self, model: str, reviewers: Reviewers) -> None:
        self.model = model
        self.proposals: dict[str, Proposal] = {}
        self.champions: list[Champion] = []
        self.changes: list[Change] = []
        self.found: dict[str, int | None] = {}
        self.unmoved = ""
        self._reviewers = reviewers
        self._at = 0  # how many lines of the reviewers' log the last decision knew

    def take(self, entry: Mapping[str, Any]) -> None:
        """Take the next line.

        Raises:
            RecordTampered: where the rules would not have let it in.
            DecisionRefused: the same, of an envelope.
        """
        take = getattr(self, f"_{entry['kind']}", None)
        if take is None:
            raise RecordTampered(f"a line of the kind '{entry['kind']}' is not known here")
        take(entry, entry["body"])

    def _proposed(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        candidate = Candidate.from_json(body["candidate"])
        if candidate.model != self.model:
            raise RecordTampered(f"it proposes a version of {candidate.model}")
        champion = self.champions[-1].version if self.champions else None
        if body["champion"] != champion:
            raise RecordTampered(f"it takes version {body['champion']} for the champion")
        line = str(entry["hash"])
        self.proposals[line] = Proposal(
            line,
            str(entry["time"]),
            str(body["public_key"]),
            candidate,
            champion,
            str(body["flow_run"]),
        )

    def _voted(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        proposal = self._open(body)
        ballot = Ballot.from_json(body["ballot"])
        if any(each.candidate != proposal.candidate.digest for each in ballot.votes):
            raise RecordTampered("a vote is about other parameters")
        self.proposals[proposal.line] = replace(proposal, ballot=ballot)

    def _signed(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        proposal = self._open(body)
        sealed = Sealed.read(body["envelope"])
        reviewer = require_word(sealed, proposal.asked(), self._enrolled(body))
        said = sealed.statement
        if said.word == "rollback":
            raise RecordTampered("a rollback is no word about a proposal")
        others = tuple(each for each in proposal.signed if each.key != reviewer.key)
        word = Signature(
            str(entry["hash"]),
            str(entry["time"]),
            reviewer.name,
            reviewer.key,
            said.word == "approve",
            said.reason,
            said.accepts_degraded,
        )
        self.proposals[proposal.line] = replace(proposal, signed=(*others, word))

    def _decided(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        proposal = self._open(body)
        enrolled = self._enrolled(body)
        decision = _decision(entry, body)
        self._require_right(proposal, decision, enrolled)
        self.proposals[proposal.line] = replace(proposal, decision=decision)
        if decision.verdict != "approved":
            return
        if proposal.champion != (self.champions[-1].version if self.champions else None):
            raise RecordTampered("the champion was another one when it was proposed")
        if any(not each["open"] for each in decision.gates):
            raise RecordTampered("it was approved although a gate is closed")
        self.champions.append(Champion(proposal.candidate, decision, proposal.line))
        self.unmoved, self.found = decision.line, {}
        version = proposal.candidate.version
        self._change(entry, f"version {version} is the champion, by {_who(decision)}")

    def _rolled_back(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        enrolled = self._enrolled(body)
        decision = _decision(entry, {**body, "verdict": "approved", "gates": ()})
        former = [each for each in self.champions[:-1] if each.version == body["version"]]
        if not former:
            raise RecordTampered(f"version {body['version']} was no champion before this one")
        if enrolled:
            sealed = Sealed.read(body["envelope"])
            require_word(sealed, rollback_asked(self.champions, former[-1]), enrolled)
            if sealed.statement.word != "rollback":
                raise RecordTampered("its envelope is about something else")
        gone = self.champions[-1].version
        place = self.champions.index(former[-1])
        self.champions[place:] = [replace(former[-1], decision=decision)]
        self.unmoved, self.found = decision.line, {}
        told = f"back from version {gone} to version {former[-1].version}, by {_who(decision)}"
        self._change(entry, told)

    def _moved(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        if body["decision"] != self.unmoved:
            raise RecordTampered("aliases were moved without a decision that they follow")
        self.unmoved = ""

    def _found_moved(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        self.found = dict(body["found"])
        self._change(entry, f"somebody moved an alias by hand: {_pointing(body['found'])}")

    def _put_back(self, entry: Mapping[str, Any], body: Mapping[str, Any]) -> None:
        self.found = {}
        self._change(entry, f"put back: {_pointing(body['aliases'])}")

    def _open(self, body: Mapping[str, Any]) -> Proposal:
        proposal = self.proposals.get(str(body["proposal"]))
        if proposal is None or proposal.decision is not None:
            raise RecordTampered("it belongs to no proposal that is open")
        return proposal

    def _enrolled(self, body: Mapping[str, Any]) -> Mapping[str, Reviewer]:
        """Return who was enrolled at a line; the reviewers' log never goes back."""
        head = str(body["reviewers"])
        at = self._reviewers.position(head)
        if at < self._at:
            raise RecordTampered("it goes by who was enrolled before a line that is before it")
        self._at = at
        return self._reviewers.at(head)

    def _require_right(
        self, proposal: Proposal, decision: Decision, enrolled: Mapping[str, Reviewer]
    ) -> None:
        """Raise `RecordTampered` unless those decided who may."""
        if decision.verdict in ("blocked", "superseded"):
            if decision.how != "gates":
                raise RecordTampered(f"{decision.verdict} by {decision.how}")
        elif decision.how == "reviewers":
            if decision.verdict == "approved" and (lacks := proposal.lacking(enrolled)):
                raise RecordTampered(f"it was approved, and there lack {lacks}")
            if decision.verdict == "rejected" and all(each.approves for each in proposal.signed):
                raise RecordTampered("it was rejected, and no reviewer has signed that")
        elif enrolled or proposal.candidate.promotion.needs_reviewers:
            raise RecordTampered(f"it was {decision.verdict} by {decision.how}, not by reviewers")

    def _change(self, entry: Mapping[str, Any], told: str) -> None:
        self.changes.append(Change(str(entry["time"]), str(entry["hash"]), entry["kind"], told))


def rollback_asked(champions: Sequence[Champion], former: Champion) -> dict[str, Any]:
    """Return what the statement of a rollback must name.

    Args:
        champions: the present one last.
        former: to which one it goes.
    """
    return {
        "federation": champions[-1].decision.federation,
        "model": former.candidate.model,
        "version": former.version,
        "digest": former.candidate.digest,
        "asks": champions[-1].decision.line,
    }


def _decision(entry: Mapping[str, Any], body: Mapping[str, Any]) -> Decision:
    return Decision(
        str(entry["hash"]),
        str(entry["time"]),
        body["verdict"],
        str(body["reason"]),
        tuple(body["by"]),
        str(body["how"]),
        str(body["public_key"]),
        tuple(body["gates"]),
    )


def _who(decision: Decision) -> str:
    return f"{', '.join(decision.by)} ({decision.how}): {decision.reason}"


def _pointing(aliases: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{alias} at {'nothing' if version is None else f'version {version}'}"
        for alias, version in aliases.items()
    )
