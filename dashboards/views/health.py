"""One word for a federation: the worst of its parts, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from dashboards.reading.asked import Told
from dashboards.reading.reading import Reading, Services
from dashboards.reading.silos import SiloCard

Kind = Literal["good", "wait", "warn", "bad"]
"""From best to worst; ``wait`` is for what is not known yet, or waits for a person."""
KINDS: tuple[Kind, ...] = ("good", "wait", "warn", "bad")
WORDS = {
    "good": "well",
    "wait": "waits for somebody",
    "warn": "needs a look",
    "bad": "broken",
}
_SOON = timedelta(days=30)
_TENDED_S = 60.0


@dataclass(frozen=True)
class Part:
    """One part of a federation.

    Args:
        name: what it is.
        kind: how it is.
        words: the same in a word or two.
        reason: why, with what to do; where it answers if it is well.
    """

    name: str
    kind: Kind
    words: str
    reason: str


def worst(parts: Iterable[Part]) -> Part:
    """Return the part that is worst, the first of several."""
    return max(parts, key=lambda each: KINDS.index(each.kind))


def parts_of(reading: Reading, silos: Sequence[SiloCard]) -> list[Part]:
    """Return every part that the health word is of."""
    found = [
        *_services(reading.services.told),
        _tending(reading),
        _silos(silos, reading),
        _contracts(silos),
        _calendar(reading),
        _runs(reading),
    ]
    return [each for each in found if each is not None]


def ago(at: float, now: float) -> str:
    """Return how long ago something was, for people.

    >>> ago(0, 5), ago(0, 150), ago(0, 8000), ago(0, 900_000)
    ('5 s ago', '2 min ago', '2 h ago', '10 days ago')
    """
    seconds = max(0.0, now - at)
    for most, unit, name in ((120, 1, " s"), (7200, 60, " min"), (172_800, 3600, " h")):
        if seconds < most:
            return f"{seconds // unit:.0f}{name} ago"
    return f"{seconds // 86_400:.0f} days ago"


def stamp(seconds: float) -> str:
    """Return a time as pages show one that is not of now: UTC, to the second."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _services(told: Told[Services]) -> list[Part]:
    if told.error:
        if "CoordinatorUnreachable" in told.error:
            return [Part("services", "bad", "not up", told.error.partition(": ")[2])]
        return [Part("services", "warn", "unknown", f"cannot be asked: {told.error}")]
    if told.value is None:
        return [Part("services", "wait", "being asked", "a moment")]
    found = []
    for each in told.value.parts:
        kind: Kind = {"up": "good", "down": "bad", "unknown": "warn"}.get(each.state, "good")  # type: ignore[assignment]
        said = [line for line in told.value.wrong if each.name.lower() in line.lower()]
        if kind == "good" and said:
            kind = "warn"
        words = "none" if each.state == "none" else each.state
        found.append(Part(each.name, kind, words, said[0] if said else each.detail))
    told_of = {part.reason for part in found}
    rest = [line for line in told.value.wrong if line not in told_of]
    return [*found, *(Part("services", "warn", "wrong", line) for line in rest)]


def _tending(reading: Reading) -> Part | None:
    """Return whether a process looks after the services; nothing where none is up."""
    if reading.addresses is None:
        return None
    at, now = reading.tended_at(), reading.now().timestamp()
    if at and now - at > _TENDED_S:
        reason = f"'consilo up' looked last {ago(at, now)}; what dies is not started again"
        return Part("supervision", "warn", "not looked after", reason)
    return Part("supervision", "good", "looked after", f"by 'consilo up --dir {reading.home}'")


def _silos(silos: Sequence[SiloCard], reading: Reading) -> Part:
    if not silos:
        invite = f"invite one: consilo silos invite NAME --dir {reading.home}"
        return Part("silos", "wait", "none", invite)
    taking_part = [each for each in silos if each.takes_part]
    told = reading.presences.told
    if told.error or not told.is_known:
        words = "nobody can say who is there: " + (told.error or "the SuperLink is being asked")
        return Part("silos", "warn" if told.error else "wait", "unknown", words)
    away = [each.name for each in taking_part if each.connected != "online"]
    here = len(taking_part) - len(away)
    counted = f"{here} of {len(taking_part)} online"
    if away:
        kind: Kind = "bad" if not here else "warn"
        return Part("silos", kind, counted, f"not there: {_named(away)}")
    pending = [each.name for each in silos if each.state == "pending"]
    if pending:
        return Part("silos", "wait", counted, f"wait to be admitted: {_named(pending)}")
    behind = [each.name for each in taking_part if each.behind]
    if behind:
        return Part("silos", "warn", counted, f"with other versions: {_named(behind)}")
    return Part("silos", "good", counted, "all that are admitted are there")


def _contracts(silos: Sequence[SiloCard]) -> Part | None:
    judged = [each for each in silos if each.takes_part and each.verdicts]
    if not judged:
        return None
    broken = [each.name for each in judged if each.verdicts[0].verdict.verdict != "passed"]
    if broken:
        return Part("contracts", "warn", f"{len(broken)} broken", f"not kept by {_named(broken)}")
    return Part("contracts", "good", "kept", f"by all {len(judged)} silos that were checked")


def _calendar(reading: Reading) -> Part | None:
    calendar = reading.members.calendar()
    if not calendar:
        return None
    when, whose, what = calendar[0]
    left = datetime.fromisoformat(when) - reading.now()
    told = f"{what} of {whose}, {when[:10]}"
    if left < timedelta(0):
        return Part("keys", "bad", "over", told)
    if left < _SOON:
        return Part("keys", "warn", f"{left.days} days left", f"{told}: consilo silos renew")
    return Part("keys", "good", f"{left.days} days left", f"first: {told}")


def _runs(reading: Reading) -> Part | None:
    last = next((each for each in reading.records.briefs() if each.status), None)
    if last is None:
        return None
    check = reading.records.known_check(last.name)
    if check is not None and not check.is_whole:
        return Part("runs", "bad", "record not whole", f"{last.name}: {check.words}")
    kind: Kind = {"complete": "good", "degraded": "warn"}.get(last.status, "bad")  # type: ignore[assignment]
    if last.status == "failed":
        kind = "warn"  # the federation is there; a job failed
    reason = f"{last.name}: {last.reason}" if last.reason else last.name
    return Part("runs", kind, f"the last one {last.status}", reason)


def _named(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
