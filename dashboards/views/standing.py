"""How a run stands, in a sentence, and how long it will take."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from dashboards.reading.story import Story


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
    took = [(b - a).total_seconds() for a, b in pairwise(ends)][-20:]
    by_silo: dict[str, list[float]] = {}
    for parts in list(story.rounds.values())[-20:]:
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
