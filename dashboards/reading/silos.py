"""The silos of a federation: who is there, who is behind, how each stands and what it waits for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from consilo.membership.calendar import expiries
from consilo.membership.members import Member, Members
from consilo.membership.software import installed
from consilo.record.chain import Chain
from consilo.transports.flower.superlink import Presence
from dashboards.reading.story import Brief, Verdict

_MOST_VERDICTS = 12
_WAITS: Mapping[str, str] = {
    "bundle_not_approved": "its people to approve the code of the job",
    "budget_exhausted": "room in its privacy budget",
    "too_few_rows": "more rows than its floor",
    "refused": "what its policy says no to",
    "contract": "data that keep the contract",
    "source": "data that can be read",
    "configuration": "files of its own that are valid",
    "version": "a release of Consilo that fits",
    "disk_full": "room on its disk",
}
"""Code of a fault → what has to come before the silo takes part."""


@dataclass(frozen=True)
class Past:
    """A verdict of a contract check, and when.

    Args:
        run: in which.
        when: that run began.
        contract: which.
        verdict: what was said.
    """

    run: str
    when: str
    contract: str
    verdict: Verdict


@dataclass(frozen=True)
class SiloCard:
    """How one silo stands.

    Args:
        name: its own.
        state: of its membership: ``admitted``, ``suspended``, …, or ``certificate expired``.
        connected: ``online``, ``gone``, ``never online``; ``unknown`` where nobody can say.
        since: when it came or went, ISO 8601; empty where nobody knows.
        last_seen: when its node called last; empty where never.
        version: of Consilo there; empty where it has not said.
        behind: what is older or other there than here.
        verdicts: of contract checks, the newest first.
        trained: (run, when) it trained last; None where it never did.
        epsilon: the largest ε that a run of this coordinator's has cost it; None without any.
        waits_for: what has to come before it takes part; empty where nothing has.
        why: the reason in its own words, and in which run it gave it.
        expires: (when, what) of its keys and certificates ends first.
    """

    name: str
    state: str
    connected: str
    since: str
    last_seen: str
    version: str
    behind: tuple[str, ...]
    verdicts: tuple[Past, ...]
    trained: tuple[str, str] | None
    epsilon: float | None
    waits_for: str
    why: str
    expires: tuple[str, str] | None

    @property
    def takes_part(self) -> bool:
        """Whether it is asked."""
        return self.state == "admitted"


class MemberList:
    """The list of members of a coordinator's directory, read again where it has changed.

    Args:
        home: the coordinator's directory.
    """

    def __init__(self, home: Path) -> None:
        self._path = home / "members.db"
        self._keys = home / "keys"
        self._chain = Chain(home / "audit.jsonl")
        self._lock = threading.Lock()
        self._open: Members | None = None
        self._inode = 0
        self._known: dict[str, Member] = {}

    def all(self) -> Mapping[str, Member]:
        """Return every member; none where the directory has no list."""
        with self._lock:
            try:
                inode = self._path.stat().st_ino
            except FileNotFoundError:
                return {}
            fresh = self._open is None or inode != self._inode  # a backup was put back, say
            if fresh:
                self.close()
                self._open, self._inode = Members(self._path, self._chain), inode
            if self._open is not None and (fresh or self._open.changed()):
                self._known = self._open.all()
            return dict(self._known)

    def calendar(self) -> Sequence[tuple[str, str, str]]:
        """Return what expires when: (when, whose, what), the next one first."""
        try:
            return expiries(self._keys, self.all())
        except (FileNotFoundError, ValueError):
            return []

    def close(self) -> None:
        """Let go of the file."""
        if self._open is not None:
            self._open.close()
            self._open = None


def cards(
    members: Mapping[str, Member],
    presences: Mapping[str, Presence] | None,
    briefs: Sequence[Brief],
    calendar: Sequence[tuple[str, str, str]],
    now: datetime,
) -> list[SiloCard]:
    """Return how every silo stands that is not removed, by name.

    Args:
        members: the list.
        presences: who is connected; None where nobody can say.
        briefs: runs, the newest first.
        calendar: as `MemberList.calendar` has it.
        now: the time.
    """
    ours = installed()
    found = []
    for name, member in sorted(members.items()):
        if member.state == "removed":
            continue
        here = None if presences is None else presences.get(name, Presence("never online", ""))
        waits_for, why = _waiting(name, member, briefs)
        ends = [(when, what) for when, whose, what in calendar if whose == name]
        mine = [each for each in briefs if name in each.asked]
        trained = next(((b.name, b.last) for b in mine if name in b.trained), None)
        spent = [each.epsilon[name] for each in mine if name in each.epsilon]
        found.append(
            SiloCard(
                name=name,
                state=member.standing(now) or "admitted",
                connected="unknown" if here is None else here.state,
                since="" if here is None else here.since,
                last_seen=member.last_seen,
                version=member.software.versions.get("consilo", ""),
                behind=member.software.behind(ours) if member.software.versions else (),
                verdicts=tuple(_verdicts(name, mine))[:_MOST_VERDICTS],
                trained=trained,
                epsilon=max(spent, default=None),
                waits_for=waits_for,
                why=why,
                expires=ends[0] if ends else None,
            )
        )
    return found


def _verdicts(name: str, briefs: Sequence[Brief]) -> list[Past]:
    return [
        Past(each.name, each.began, each.contract, each.verdicts[name])
        for each in briefs
        if name in each.verdicts and each.verdicts[name].verdict != "not_checked"
    ]


def _waiting(name: str, member: Member, briefs: Sequence[Brief]) -> tuple[str, str]:
    """Return what a silo waits for, and why: by its membership, else by the last run's answer."""
    if member.state == "invited":
        return "its operator to use the invitation", ""
    if member.state == "pending":
        return "you to admit it", "its keys have arrived; compare the fingerprint with its operator"
    if member.state == "suspended":
        return "you to admit it again", ""
    last = next((each for each in briefs if name in each.asked), None)
    if last is None or name not in last.faults:
        return "", ""
    code, reason = last.faults[name]
    return _WAITS.get(code, ""), f"{reason} ({last.name})" if reason else ""


def now_utc() -> datetime:
    """Return the time."""
    return datetime.now(UTC)
