"""What a silo offers for matching: whether it may be matched, and its halves of matches."""

from __future__ import annotations

from typing import Protocol

from consilo.jobs.match import Match, MatchQuestion
from consilo.kernel.roles import Role
from consilo.kernel.view import SiloView


class Matches(Protocol):
    """Decides whether rows may be matched, and keeps this silo's halves of matches."""

    def begin_match(self, question: MatchQuestion) -> None:
        """Raise `Refused` unless the silo's policy lets it be matched so; it is counted, once."""
        ...

    def judge_match(
        self, run_id: str, partner: str, *, num_theirs: int, num_common: int | None = None
    ) -> None:
        """Raise `Refused` unless the policy bears a partner's size and what is common.

        Args:
            run_id: the run.
            partner: who.
            num_theirs: entities that the partner says it has.
            num_common: how many both have, by the keys so far; None before it is known.
        """
        ...

    def match(self, handle: str, *, purpose: str) -> Match:
        """Return this silo's half of a match.

        Raises `Refused` where there is none, it expired, was made for another purpose, or the rows
        changed since.
        """
        ...

    def keep_match(self, match: Match) -> None:
        """Keep this silo's half of a match under its handle, for the present rows."""
        ...


MATCHES: Role[Matches] = Role("matches")


def match_of(silo: SiloView, handle: str) -> Match:
    """Return the silo's half of a match, for the job's purpose; see `Matches.match`."""
    return silo.role(MATCHES).match(handle, purpose=silo.job.purpose)
