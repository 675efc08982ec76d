"""What a run's page draws of the silos' parts and of the model's figures."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from typing import Any

from consilo.metrics.words import foremost
from consilo.pages.pictures.bars import Bar, bars
from consilo.pages.pictures.heat import Cell, participation
from consilo.pages.pictures.lines import curves
from consilo.pages.pictures.picture import Picture
from consilo.record.participation import Part
from dashboards.reading.story import Story, Verdict
from dashboards.reading.tracked import Tracked
from flows.registry import names

_STATES: Mapping[str, str] = {"left_out": "left out", "rejected": "refused", "unused": "dropped"}
_NOT_SHOWN = ("not_asked", "not_drawn")
_KINDS: Mapping[str, str] = {
    "trained": "good",
    "answered": "good",
    "late": "warn",
    "passed": "wait",
    "not_drawn": "wait",
    "": "off",
}
_MOST_FIGURES = 12
_MOST_REASONS = 40


def heat(story: Story) -> Picture:
    """Return who did what in which round."""
    last = max(story.rounds)
    rows: dict[str, list[Cell | None]] = {}
    for silo in story.asked:
        rows[silo] = [
            _cell(story.rounds.get(number, {}).get(silo)) for number in range(1, last + 1)
        ]
    return participation("Who took part in which round", rows)


def _cell(part: Part | None) -> Cell | None:
    if part is None or part.outcome in _NOT_SHOWN:
        return None
    reason = f"{part.code}: {part.reason}" if part.code else ""
    return Cell(_STATES.get(part.outcome, part.outcome), reason)


def absences(story: Story) -> list[tuple[str, str, int, str]]:
    """Return why silos did not train: (silo, what, in how many rounds, why), the most first."""
    counted: Counter[tuple[str, str, str]] = Counter()
    for parts in story.rounds.values():
        for silo, part in parts.items():
            if part.outcome != "trained" and part.outcome not in _NOT_SHOWN:
                reason = f"{part.code}: {part.reason}" if part.code else ""
                counted[(silo, part.outcome.replace("_", " "), reason)] += 1
    if not story.rounds:
        for silo, verdict in story.verdicts.items():
            if verdict.verdict != "passed":
                counted[(silo, verdict.verdict.replace("_", " "), verdict.reason)] += 1
    return [(silo, what, n, why) for (silo, what, why), n in counted.most_common(_MOST_REASONS)]


def silo_rows(story: Story, tracked: Tracked | None) -> list[dict[str, Any]]:
    """Return each silo's part in the run, as a table shows it."""
    figure = first_figure(story, tracked)
    rows = []
    for silo in story.asked:
        parts = [story.rounds[n][silo] for n in sorted(story.rounds) if silo in story.rounds[n]]
        trained = [each for each in parts if each.outcome == "trained"]
        ended = story.silos.get(silo)
        last = parts[-1] if parts else None
        verdict = story.verdicts.get(silo)
        epsilon = ended.epsilon if ended else None
        if epsilon is None:
            epsilon = max((p.epsilon for p in parts if p.epsilon is not None), default=None)
        state = ended.status if ended else (last.outcome if last else _checked(verdict))
        examples = trained[-1].num_examples if trained else 0
        own = {} if tracked is None else tracked.of_silo(silo)
        rows.append(
            {
                "name": silo,
                "state": state.replace("_", " "),
                "kind": _KINDS.get(state, "bad"),
                "reason": (ended.reason if ended else "")
                or (last.reason if last else "")
                or (verdict.reason if verdict else ""),
                "rounds": len(trained),
                "examples": ended.num_examples if ended else examples,
                "epsilon": epsilon,
                "seconds": statistics.fmean([p.seconds for p in trained]) if trained else None,
                "bytes": sum(p.bytes_down + p.bytes_up for p in parts),
                "figure": own.get(figure),
            }
        )
    return rows


def _checked(verdict: Verdict | None) -> str:
    return "" if verdict is None else verdict.verdict


def first_figure(story: Story, tracked: Tracked | None) -> str:
    """Return the name of the figure that tells most of the model; empty where there is none."""
    known = list(story.metrics)
    if not known and tracked is not None:
        start = names.global_metric("")
        known = [each.removeprefix(start) for each in tracked.latest if each.startswith(start)]
    shown = [n for n in foremost(known) if n not in (names.LOSS, names.EPSILON) and "/" not in n]
    return shown[0] if shown else ""


def metrics_of(story: Story) -> list[tuple[str, float, tuple[float, float] | None]]:
    """Return (figure, value, interval) of the whole model, as the record has them."""
    intervals = story.evaluated.get("intervals") or {}
    shown = [each for each in foremost(story.metrics) if not isinstance(story.metrics[each], str)]
    found = []
    for name in shown[:_MOST_FIGURES]:
        ends = intervals.get(name)
        found.append((name, float(story.metrics[name]), tuple(ends) if ends else None))
    return found


def curves_of(tracked: Tracked | None) -> list[Picture]:
    """Return the learning curves of the whole model."""
    if tracked is None:
        return []
    start = names.global_metric("")
    return [
        curves(f"{key.removeprefix(start)}, over all silos", {key.removeprefix(start): points})
        for key, points in tracked.curves.items()
        if len(points) > 1
    ]


def gains(story: Story, tracked: Tracked | None) -> Picture | None:
    """Return the model's figure less that of a model that each silo trained alone, if known."""
    figure = first_figure(story, tracked)
    if tracked is None or not figure:
        return None
    exact = tracked.latest.get(names.baseline_metric("without_noise", figure))
    ours = story.metrics.get(figure) if exact is None else exact
    found = []
    for silo in story.asked:
        alone = tracked.latest.get(names.baseline_metric(f"alone/{silo}", figure))
        if alone is not None and ours is not None:
            found.append(Bar(silo, float(ours) - alone, note=f"alone {alone:.4f}"))
    if not found:
        return None
    return bars(
        f"{figure}: the federation's model less the one that the silo trained alone",
        found,
        across=f"difference of {figure}, on the held-out rows of all",
    )


def contracts(verdicts: Mapping[str, Verdict]) -> list[tuple[str, str, int, str]]:
    """Return (rule, column, how many silos, which) of each rule that is broken, the most first."""
    by: dict[tuple[str, str], list[str]] = {}
    for silo, each in verdicts.items():
        for place in each.broken:
            by.setdefault(place, []).append(silo)
    rows = [
        (rule, column or "the table", len(who), ", ".join(who))
        for (rule, column), who in by.items()
    ]
    return sorted(rows, key=lambda each: -each[2])
