"""Votes of a silo without people: by rules of its own, each question answered anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from consilo.decisions.rules import VoteRules
from consilo.decisions.vote import Verdict


class PlainVotes:
    """The role `consilo.decisions.roles.Votes` of a small silo, which keeps nothing of it."""

    def vote_rules(self) -> VoteRules:
        """Return the rules that a policy has unless it says others."""
        return VoteRules()

    def people_say(self, run: str) -> tuple[Verdict, str] | None:
        """Return None: there are no people."""
        return None

    def begin_vote(self, question: str) -> Mapping[str, Any] | bool:
        """Return True: it may be asked."""
        return True

    def keep_vote(
        self, question: str, vote: Mapping[str, Any], voting: str, *, monitors: bool = False
    ) -> None:
        """Keep nothing: who asks in this process has the answer."""
