"""What is written about one model: proposals, votes, decisions, rollbacks; and the aliases' moves.

Each deed holds the model's lock, reads the chain anew, writes its one line, and then lets `settle`
do what follows from the chain. So whoever dies at any statement leaves a chain from which the next
process does the rest: enough signatures become a decision, a decision moves the aliases, once.
**Nothing is done that a line does not say first**: the line is on disk before an alias moves or a
pause is resumed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.decisions.candidates import Candidate
from consilo.decisions.envelopes import Sealed
from consilo.decisions.gates import Gate, closed, gates
from consilo.decisions.promotions import (
    FOLDER,
    Champion,
    Promotions,
    Proposal,
    chain_of,
    require_fits,
    require_word,
    rollback_asked,
)
from consilo.decisions.reviewers import Reviewers
from consilo.decisions.signed_lines import SignedLines
from consilo.decisions.vote import Ballot
from consilo.errors import DecisionRefused
from consilo.machine.files import make_directory
from consilo.machine.locks import file_lock
from consilo.record.chain import in_utc
from consilo.wire.signing import public_hex

MOST_REASON = 1000


class Aliases(Protocol):
    """The model registry, as far as decisions go."""

    def pointing(self, model: str) -> Mapping[str, int]:
        """Return every alias of a model → version.

        Raises:
            OSError: where the registry is away.
        """

    def point(self, model: str, alias: str, version: int | None) -> None:
        """Let an alias point at a version; None takes the alias away.

        Raises:
            OSError: where the registry is away, or has no such version.
        """

    def mark(self, model: str, head: str) -> None:
        """Keep the chain's head with the model.

        Raises:
            OSError: where the registry is away.
        """


class Deciding:
    """Writes about one model.

    Args:
        home: the coordinator's directory.
        model: its name.
        key: the coordinator's.
        aliases: of the registry; None where it is not up: whoever comes later moves them.
        now: seconds since 1970.
    """

    def __init__(
        self,
        home: Path,
        model: str,
        key: Ed25519PrivateKey,
        *,
        aliases: Aliases | None,
        now: Callable[[], float],
    ) -> None:
        self.home = home
        self._model = model
        self._key = key
        self._aliases = aliases
        self._now = now
        self._lines = SignedLines(home, chain_of(model), now=lambda: in_utc(now()))

    def read(self) -> Promotions:
        """Return the chain as it is now."""
        return Promotions.open(self.home, self._model)

    def propose(self, candidate: Candidate, *, flow_run: str = "", again: bool = False) -> Proposal:
        """Return the proposal of a version; made where there is none that it may go on with.

        Args:
            candidate: the version.
            flow_run: id of the flow run that proposes it.
            again: also where people have rejected it.
        """
        with self._alone() as before:
            known = before.of(candidate.version)
            if known is not None:
                decision = known.decision
                verdict = "" if decision is None else decision.verdict
                is_champion = before.champion is not None and before.champion.proposal == known.line
                if not verdict or is_champion or (verdict == "rejected" and not again):
                    return known
            champion = before.champion
            self._append(
                "proposed",
                candidate=candidate.to_json(),
                champion=None if champion is None else champion.version,
                flow_run=flow_run,
            )
        found = self.read().of(candidate.version)
        assert found is not None
        return found

    def vote(self, proposal: Proposal, ballot: Ballot) -> Proposal:
        """Write down what the silos say of a proposal that is open; the last ballot counts.

        Raises:
            DecisionRefused: where a vote is about another model, or the proposal was decided.
        """
        wrong = [e.silo for e in ballot.votes if e.candidate != proposal.candidate.digest]
        if wrong:
            raise DecisionRefused(f"the votes of {', '.join(wrong)} are about another model")
        with self._alone() as before:
            self._require_open(before, proposal.candidate.version)
            champion = before.champion
            known = None if champion is None else champion.candidate.digest
            other = [e.silo for e in ballot.votes if e.champion not in (None, known)]
            if other:
                raise DecisionRefused(
                    f"the votes of {', '.join(other)} compare with another model than the "
                    "champion that was decided; was its alias moved by hand? 'consilo status'"
                )
            self._append("voted", proposal=proposal.line, ballot=ballot.to_json())
        return self._again(proposal)

    def gates(self, proposal: Proposal, *, accepts_degraded: bool = False) -> tuple[Gate, ...]:
        """Return the gates of a proposal as they stand now."""
        return gates(
            proposal.candidate,
            proposal.ballot,
            has_champion=proposal.champion is not None,
            now=datetime.fromtimestamp(self._now(), UTC),
            accepts_degraded=accepts_degraded,
        )

    def block(self, proposal: Proposal) -> Proposal:
        """End a proposal whose gates nobody can open; one whose gates are open is left as it is."""
        with self._alone() as before:
            found = before.of(proposal.candidate.version)
            if found is not None and found.line == proposal.line and found.decision is None:
                self._block(found)
        return self._again(proposal)

    def sign(self, envelope: Any) -> Proposal:
        """Take a reviewer's word about a version; the last one that is needed decides.

        Args:
            envelope: plain JSON values.

        Raises:
            DecisionRefused: where it does not count, or a gate is closed.
        """
        sealed = Sealed.read(envelope)
        said = sealed.statement
        if said.word == "rollback":
            raise DecisionRefused("this envelope is of a rollback; give it to 'model rollback'")
        with self._alone() as before:
            reviewers = Reviewers.open(self.home)
            known = next((e for e in before.proposals if e.line == said.asks), None)
            if known is not None and known.decision is not None:
                if _is_said_again(before, known, sealed):  # whoever said it died before it heard
                    self._move_where_up()
                    return known
                was = known.decision
                raise DecisionRefused(
                    f"{self._model} version {known.candidate.version} was {was.verdict} "
                    f"{was.time} by {', '.join(was.by)}; it is decided once"
                )
            proposal = self._require_open(before, said.version)
            require_word(sealed, proposal.asked(), reviewers.enrolled)
            if said.word == "approve":
                self._require_gates(proposal, said.accepts_degraded)
            if not any(
                each.key == sealed.key and each.approves == (said.word == "approve")
                for each in proposal.signed
            ):
                self._append(
                    "signed", proposal=proposal.line, envelope=envelope, reviewers=reviewers.head
                )
            self._conclude(reviewers)
        self._try_to_move()
        return self._again(proposal)

    def decide(
        self,
        version: int,
        *,
        approves: bool,
        reason: str,
        by: str,
        how: str,
        accepts_degraded: bool = False,
    ) -> Proposal:
        """Decide where no reviewers are enrolled, and none must be.

        Args:
            version: which.
            approves: else it is rejected.
            reason: why.
            by: the login of a shell, or what else is known of who decides.
            how: shell or form.
            accepts_degraded: approves although the run was degraded.

        Raises:
            DecisionRefused: where reviewers decide, a gate is closed, or it was decided.
        """
        if not reason.strip() or len(reason) > MOST_REASON:
            raise DecisionRefused(f"a decision needs a reason of 1 to {MOST_REASON} characters")
        with self._alone() as before:
            reviewers = Reviewers.open(self.home)
            proposal = self._require_open(before, version)
            if why := signed_by(proposal, reviewers):
                raise DecisionRefused(f"{self._model} version {version}: {why}")
            found = (
                self._require_gates(proposal, accepts_degraded)
                if approves
                else self.gates(proposal, accepts_degraded=accepts_degraded)
            )
            self._decided(
                proposal,
                "approved" if approves else "rejected",
                reason=reason,
                by=[by],
                how=how,
                found=found,
                reviewers=reviewers.head,
            )
            self._conclude(reviewers)
        self._try_to_move()
        return self._again(proposal)

    def former(self, version: int | None = None) -> Champion:
        """Return to which champion a rollback goes.

        Args:
            version: which; None takes the one before the present.

        Raises:
            DecisionRefused: where there is none.
        """
        return _former(self.read(), version)

    def roll_back(
        self, version: int, *, reason: str = "", by: str = "", envelope: Any = None
    ) -> Promotions:
        """Let a former champion be the champion again.

        Args:
            version: which.
            reason: why, where no envelope says it.
            by: the login of the shell, where no reviewers are enrolled.
            envelope: a reviewer's, where they are.

        Raises:
            DecisionRefused: where it was no champion, or who asks may not.
        """
        with self._alone() as before:
            target = _former(before, version)
            reviewers = Reviewers.open(self.home)
            who, how, why = by, "shell", reason
            if envelope is not None:
                sealed = Sealed.read(envelope)
                asked = rollback_asked(before.champions, target)
                who = require_word(sealed, asked, reviewers.enrolled).name
                how, why = "reviewers", sealed.statement.reason
                if sealed.statement.word != "rollback":
                    raise DecisionRefused("the envelope is no word about a rollback")
            elif reviewers.enrolled:
                raise DecisionRefused(
                    "reviewers are enrolled, so a rollback needs the signature of one: give --key"
                )
            if not why.strip() or len(why) > MOST_REASON:
                raise DecisionRefused(f"a rollback needs a reason of 1 to {MOST_REASON} characters")
            self._append(
                "rolled_back",
                version=target.version,
                digest=target.candidate.digest,
                reason=why,
                by=[who],
                how=how,
                reviewers=reviewers.head,
                **({} if envelope is None else {"envelope": envelope}),
            )
            self._conclude(reviewers)
        self._try_to_move()
        return self.read()

    def settle(self) -> tuple[str, ...]:
        """Do what follows from the chain and was not done; return it in words.

        Raises:
            OSError: where the registry is away, or has not what was decided about.
        """
        before = len(self.read().waiting)
        with self._alone() as found:
            decided = before - len(found.waiting)
            did = (f"{decided} proposals were decided by what was signed",) if decided else ()
            return (*did, *self._move())

    def put_back(self, *, act: bool) -> tuple[dict[str, int | None], bool]:
        """Return which aliases are not as was decided; put them back where ``act`` says so.

        What was found is written down once, before anything is put back.

        Args:
            act: put them back.

        Returns:
            Alias → version that it points at (None: it is not there), and whether that was new.

        Raises:
            OSError: where the registry is away.
        """
        assert self._aliases is not None
        with self._alone() as before:
            if before.unmoved:
                return {}, False
            there = self._aliases.pointing(self._model)
            found = {
                alias: there.get(alias)
                for alias, version in before.wanted.items()
                if there.get(alias) != version
            }
            is_new = found != dict(before.found)
            if is_new and found:
                self._append("found_moved", found=found, wanted=before.wanted)
            if found and act:
                for alias in found:
                    self._aliases.point(self._model, alias, before.wanted[alias])
            if (found and act) or (is_new and not found):
                self._append("put_back", aliases=before.wanted)
            return found, is_new

    # Inside; the lock is held.

    @contextmanager
    def _alone(self) -> Iterator[Promotions]:
        """Hold the model's lock, and yield the chain as it is then."""
        make_directory(self.home / FOLDER, mode=0o700)
        with file_lock(self.home / FOLDER / f"{self._model}.lock"):
            found = self.read()
            if found.entries:  # whoever wrote the last line may have died then
                self._lines.note()
                if self._conclude(Reviewers.open(self.home)):
                    found = self.read()
            yield found

    def _append(self, kind: str, **body: Any) -> str:
        before = self.read()
        said = {**body, "public_key": public_hex(self._key)}
        line = {"kind": kind, "hash": "f" * 64, "time": in_utc(self._now()), "body": said}
        require_fits(self.home, before, line)
        return self._lines.append(self._key, kind, **body)

    def _again(self, proposal: Proposal) -> Proposal:
        return next(each for each in self.read().proposals if each.line == proposal.line)

    def _require_open(self, before: Promotions, version: int) -> Proposal:
        found = before.of(version)
        if found is None:
            raise DecisionRefused(
                f"{self._model} version {version} was not proposed; run the deployment "
                f"'promotion', or 'consilo model propose {self._model} {version}'"
            )
        if found.decision is not None:
            was = found.decision
            raise DecisionRefused(
                f"{self._model} version {version} was {was.verdict} {was.time} by "
                f"{', '.join(was.by)}: {was.reason}; it is decided once"
            )
        return found

    def _require_gates(self, proposal: Proposal, accepts_degraded: bool) -> tuple[Gate, ...]:
        found = self.gates(proposal, accepts_degraded=accepts_degraded)
        shut = closed(found, for_people=False)
        if shut:
            told = "; ".join(f"{each.name}: {each.told}" for each in shut)
            raise DecisionRefused(
                f"{self._model} version {proposal.candidate.version} cannot be approved: {told}"
            )
        return found

    def _block(self, proposal: Proposal) -> bool:
        found = self.gates(proposal)
        shut = closed(found, for_people=True)
        if shut:
            self._decided(
                proposal,
                "blocked",
                reason="; ".join(f"{each.name}: {each.told}" for each in shut),
                by=["gates"],
                how="gates",
                found=found,
                reviewers=Reviewers.open(self.home).head,
            )
        return bool(shut)

    def _conclude(self, reviewers: Reviewers) -> tuple[str, ...]:
        """Write the decisions that follow from what was signed, and from who is champion now."""
        did = []
        for proposal in self.read().waiting:
            told = self._concluded(proposal, reviewers)
            did += [f"version {proposal.candidate.version} is {told}"] if told else []
        return tuple(did)

    def _concluded(self, proposal: Proposal, reviewers: Reviewers) -> str:
        champion = self.read().champion  # it may be one that was decided a moment ago
        now = None if champion is None else champion.version
        if proposal.champion != now:
            self._decided(
                proposal,
                "superseded",
                reason=f"the champion is version {now} since; propose it anew",
                by=["gates"],
                how="gates",
                found=self.gates(proposal),
                reviewers=reviewers.head,
            )
            return "superseded"
        against = [each for each in proposal.signed if not each.approves]
        if against:
            self._decided(
                proposal,
                "rejected",
                reason="; ".join(each.reason for each in against),
                by=[each.reviewer for each in against],
                how="reviewers",
                found=self.gates(proposal),
                reviewers=reviewers.head,
            )
            return "rejected"
        approving = proposal.approving(reviewers.enrolled)
        if not approving or proposal.lacking(reviewers.enrolled):
            return ""
        accepts = all(each.accepts_degraded for each in approving)
        found = self.gates(proposal, accepts_degraded=accepts)
        shut = closed(found, for_people=False)
        self._decided(
            proposal,
            "blocked" if shut else "approved",
            reason="; ".join(
                [f"{each.name}: {each.told}" for each in shut]
                or [each.reason for each in approving]
            ),
            by=["gates"] if shut else [each.reviewer for each in approving],
            how="gates" if shut else "reviewers",
            found=found,
            reviewers=reviewers.head,
        )
        return "blocked" if shut else "approved"

    def _decided(
        self,
        proposal: Proposal,
        verdict: str,
        *,
        reason: str,
        by: list[str],
        how: str,
        found: tuple[Gate, ...],
        reviewers: str,
    ) -> None:
        self._append(
            "decided",
            proposal=proposal.line,
            verdict=verdict,
            version=proposal.candidate.version,
            digest=proposal.candidate.digest,
            reason=reason,
            by=by,
            how=how,
            gates=[each.to_json() for each in found],
            reviewers=reviewers,
        )

    def _try_to_move(self) -> None:
        """Move the aliases, where the registry is up; else whoever tends the directory does."""
        with self._alone():
            self._move_where_up()

    def _move_where_up(self) -> None:
        now = self.read()
        if now.unmoved and self._aliases is not None:
            try:
                self._point(self._aliases, now)
            except OSError:  # the registry is away; a disk that is full is told
                return
            self._moved(self._aliases, now)

    def _move(self) -> tuple[str, ...]:
        now = self.read()
        champion = now.champion
        if not now.unmoved or self._aliases is None or champion is None:
            return ()
        self._point(self._aliases, now)
        self._moved(self._aliases, now)
        return (f"version {champion.version} is the champion",)

    def _point(self, aliases: Aliases, now: Promotions) -> None:
        for alias, version in sorted(now.wanted.items(), reverse=True):  # `previous` comes first
            aliases.point(self._model, alias, version)

    def _moved(self, aliases: Aliases, now: Promotions) -> None:
        head = self._append("moved", decision=now.unmoved, aliases=now.wanted)
        with contextlib.suppress(OSError):  # the audit log keeps it, too; the next move tells anew
            aliases.mark(self._model, f"{len(now.entries) + 1}:{head}")


def signed_by(proposal: Proposal, reviewers: Reviewers) -> str:
    """Return why a proposal's decision needs signatures; empty where it needs none."""
    wanted = proposal.candidate.promotion.needs_reviewers
    if reviewers.enrolled:
        return (
            "reviewers are enrolled, so a decision counts only when signed by the key of one: "
            f"give --key, or --envelope ({', '.join(reviewers.enrolled)})"
        )
    if wanted:
        return (
            f"the job asks for {wanted} approvals by reviewers (approvals, four_eyes), and nobody "
            "is enrolled; 'consilo reviewer add' enrols one"
        )
    return ""


def _is_said_again(before: Promotions, known: Proposal, sealed: Sealed) -> bool:
    """Return whether an envelope repeats a word that decided, and nothing was decided since."""
    said = next((each for each in known.signed if each.key == sealed.key), None)
    if said is None or not sealed.is_signed or known.decision is None:
        return False
    is_same = said.approves == (sealed.statement.word == "approve")
    is_now = before.champion is not None and before.champion.decision == known.decision
    return is_same and (is_now or known.decision.verdict == "rejected")


def _former(before: Promotions, version: int | None) -> Champion:
    earlier = before.champions[:-1]
    found = [each for each in earlier if version is None or each.version == version]
    if not found:
        told = ", ".join(str(each.version) for each in earlier) or "none"
        what = "there is no former champion" if version is None else f"version {version} is none"
        raise DecisionRefused(
            f"{before.model}: {what}; former champions, the last one last: {told}"
        )
    return found[-1]
