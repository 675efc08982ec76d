"""How a run stands, in a sentence, and how long it will take."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from dashboards.reading.story import Story

_LAST = 20
_LATE = 1.5


@dataclass(frozen=True)
class Pace:
    """How long a run that goes on will take yet.

    Args:
        seconds: of a round, the median of the last ones; None before there are two.
        left: what is left at that pace.
        low: at the pace of the fastest of them.
        high: at the pace of the slowest.
        slowest: silo → its mean seconds, the slowest first.
    """

    seconds: float | None
    left: float | None
    low: float | None
    high: float | None
    slowest: tuple[tuple[str, float], ...]


def pace(story: Story, now: datetime) -> Pace:
    """Return how fast the rounds of a run go, by its record.

    Args:
        story: the run.
        now: the time.
    """
    ends = [datetime.fromisoformat(story.round_times[n]) for n in sorted(story.round_times)]
    begin = next((time for kind, time in reversed(story.times) if kind == "standardized"), "")
    if begin and ends and datetime.fromisoformat(begin) <= ends[0]:
        ends.insert(0, datetime.fromisoformat(begin))
    took = [(b - a).total_seconds() for a, b in pairwise(ends)][-_LAST:]
    by_silo: dict[str, list[float]] = {}
    for parts in list(story.rounds.values())[-_LAST:]:
        for silo, part in parts.items():
            if part.outcome == "trained":
                by_silo.setdefault(silo, []).append(part.seconds)
    slowest = sorted(
        ((silo, statistics.fmean(each)) for silo, each in by_silo.items()), key=lambda x: -x[1]
    )
    rounds_left = max(0, story.planned - max(story.rounds, default=0))
    if len(took) < 2:
        return Pace(None, None, None, None, tuple(slowest))
    ordered = sorted(took)
    low, high = ordered[len(ordered) // 10], ordered[-1 - len(ordered) // 10]
    middle = statistics.median(took)
    return Pace(middle, middle * rounds_left, low * rounds_left, high * rounds_left, tuple(slowest))


def sentence(story: Story) -> str:
    """Return in a sentence how a run ended or stands."""
    asked, done = len(story.asked), max(story.rounds, default=0)
    trained = {
        s for parts in story.rounds.values() for s, p in parts.items() if p.outcome == "trained"
    }
    rounds = f"{done} round" + ("" if done == 1 else "s")
    if story.status == "complete":
        who = f"all {asked} silos" if len(trained) == asked else f"{len(trained)} of {asked} silos"
        return f"{who[0].upper()}{who[1:]} took part in {rounds}." if done else "It went through."
    if story.status == "degraded":
        return (
            "Enough silos were there for a result, and it is not that of all of them. "
            f"{len(trained)} of {asked} silos trained in {rounds}. {_full(story.reason)}"
        )
    if story.status == "failed":
        return f"There is no model. {_full(story.reason)}"
    if story.status:
        return _full(story.reason)
    if story.waiting:
        return (
            f"It waits until {story.waiting.get('until', '')}: {story.waiting.get('reason', '')}."
        )
    return f"{rounds} of {story.planned} done." if story.planned else f"After '{story.kind}'."


def _full(text: str) -> str:
    text = text.strip()
    return text if not text or text.endswith((".", "!", "?")) else text + "."


def trained_in(story: Story) -> set[str]:
    """Return which silos' updates counted in any round."""
    return {
        silo
        for parts in story.rounds.values()
        for silo, part in parts.items()
        if part.outcome == "trained"
    }


@dataclass(frozen=True)
class UnderWay:
    """What a run is at.

    Args:
        stage: the part, such as ``train``; empty between two.
        round: its number; 0 outside of training.
        seconds: since when.
        rows: (silo, state, kind of its badge, what more there is to say).
        moved: bytes so far in it.
    """

    stage: str
    round: int
    seconds: float
    rows: tuple[tuple[str, str, str, str], ...]
    moved: int


def under_way(story: Story, live: Mapping[str, Any], now: float) -> UnderWay | None:
    """Return what a run is at, and who is late; None where it does not say.

    Late is who is at work for longer than half as long again as its slowest answer of the last
    twenty rounds.

    Args:
        story: the run.
        live: what it says (`flows.telling.live`).
        now: in seconds since 1970.
    """
    if not live:
        return None
    seconds = max(0.0, now - float(live.get("since", now)))
    number = int(live.get("round", 0))
    longest: dict[str, float] = {}
    for parts in list(story.rounds.values())[-_LAST:]:
        for silo, part in parts.items():
            if part.outcome == "trained":
                longest[silo] = max(longest.get(silo, 0.0), part.seconds)
    rows = []
    for silo, each in sorted(live["silos"].items()):
        state, known = str(each.get("state", "")), longest.get(silo)
        if state == "at work" and number and known and seconds > max(1.0, _LATE * known):
            told = f"{seconds:.0f} s; its slowest answer of late took {known:.1f} s"
            rows.append((silo, "late", "warn", told))
        elif state == "at work":
            rows.append((silo, state, "wait", f"{seconds:.0f} s"))
        elif state == "answered":
            took = float(each.get("seconds", 0.0))
            rows.append((silo, state, "good", f"{each.get('verb', '')}, {took:.1f} s"))
        else:
            rows.append((silo, state.replace("_", " "), "bad", str(each.get("verb", ""))))
    moved = int(live.get("bytes", 0))
    return UnderWay(str(live.get("stage", "")), number, seconds, tuple(rows), moved)
