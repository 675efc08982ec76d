"""Whether a silo is matched, as its policy has it, and its halves of matches, for present rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from consilo.jobs.match import Match, MatchQuestion
from silos.gate.match_queries import MatchLog
from silos.gate.policy import MatchingRules
from silos.kept.matches import drop_match, every_match, read_match, write_match


@dataclass(frozen=True)
class Matchmaking:
    """The role `consilo.matching.roles.Matches`.

    Args:
        directory: the silo's.
        rules: the policy's; None lets nothing be matched.
        fingerprint: (data set, purpose) → a digest of which rows it has now, in which order.
        now: the clock.
    """

    directory: Path
    rules: MatchingRules | None
    fingerprint: Callable[[str, str], str]
    now: Callable[[], datetime]

    def begin_match(self, question: MatchQuestion) -> None:
        """Raise `Refused` unless the policy lets the silo be matched so; note it either way."""
        MatchLog(self.directory).begin(question, self.rules, now=self.now())

    def judge_match(
        self, run_id: str, partner: str, *, num_theirs: int, num_common: int | None = None
    ) -> None:
        """Raise `Refused` unless the policy bears a partner's size and what is common."""
        MatchLog(self.directory).judge(
            run_id,
            partner,
            self.rules,
            num_theirs=num_theirs,
            num_common=num_common,
            now=self.now(),
        )

    def match(self, handle: str, *, purpose: str) -> Match:
        """Return this silo's half of a match.

        Raises:
            Refused: where there is none, it expired, was made for another purpose, or the rows
                changed since.
        """
        found = read_match(self.directory, handle)
        fingerprint = self.fingerprint(found.dataset, found.purpose)
        found.require_usable(purpose=purpose, fingerprint=fingerprint, now=self.now())
        return found

    def keep_match(self, match: Match) -> None:
        """Keep this silo's half of a match for the present rows; what has expired is deleted."""
        for each in every_match(self.directory):
            if each.expires <= self.now():
                drop_match(self.directory, each.handle)
        fingerprint = self.fingerprint(match.dataset, match.purpose)
        write_match(self.directory, replace(match, fingerprint=fingerprint))
        MatchLog(self.directory).kept(match)
