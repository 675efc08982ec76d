"""What a silo offers for votes: its rules, its people's word, and what it has answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from consilo.decisions.rules import VoteRules
from consilo.decisions.vote import Verdict
from consilo.kernel.roles import Role


class Votes(Protocol):
    """By which rules a silo votes, what its people say, and what it has answered."""

    def vote_rules(self) -> VoteRules:
        """Return the policy's rules."""
        ...

    def people_say(self, run: str) -> tuple[Verdict, str] | None:
        """Return what people here say of a run's model, and why; None where they say nothing."""
        ...

    def begin_vote(self, question: str) -> Mapping[str, Any] | bool:
        """Return what was answered to a question before; else whether one more may be asked now.

        Args:
            question: a hash of all that the answer depends on.
        """
        ...

    def keep_vote(
        self, question: str, vote: Mapping[str, Any], voting: str, *, monitors: bool = False
    ) -> None:
        """Keep a vote and all its figures, for people here, durably.

        Args:
            question: as it was begun; empty for a vote that no row has a part in.
            vote: of `Vote.to_json`.
            voting: the run that asks.
            monitors: it was asked about the champion, and counts for no candidate.
        """
        ...


VOTES: Role[Votes] = Role("votes")
