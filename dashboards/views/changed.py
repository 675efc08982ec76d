"""What differs between two runs: job, contract, code, silos, and how their columns are spread."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from dashboards.reading.story import Story

Row = tuple[str, str, str]
"""What, in the one, in the other."""
_MOST_LETTERS = 200
_LARGE_SHIFT = 0.1


def job_changes(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[Row]:
    """Return the settings of two jobs that differ.

    >>> job_changes({"local": {"lr": 0.1}, "seed": 1}, {"local": {"lr": 0.2}, "seed": 1})
    [('local.lr', '0.1', '0.2')]
    """
    first, second = dict(flat(one)), dict(flat(other))
    names = [*first, *(each for each in second if each not in first)]
    return [
        (name, first.get(name, "–"), second.get(name, "–"))
        for name in names
        if first.get(name) != second.get(name)
    ]


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested settings as dotted names and texts."""
    found: list[tuple[str, str]] = []
    for key, each in value.items():
        if isinstance(each, Mapping) and each:
            found += flat(each, f"{prefix}{key}.")
        elif each is not None and each != "":
            text = each if isinstance(each, str) else json.dumps(each, ensure_ascii=False)
            found.append((f"{prefix}{key}", text[:_MOST_LETTERS]))
    return found


def run_changes(before: Story, now: Story) -> list[Row]:
    """Return what a run has otherwise than the one before: settings, contract, code, silos, rows.

    Args:
        before: the run before, of the same job.
        now: the run.
    """
    rows = [(f"job: {what}", was, is_) for what, was, is_ in job_changes(before.job, now.job)]
    for key, word in (("contract_digest", "contract"), ("bundle", "code")):
        was, is_ = str(before.opened.get(key, "")), str(now.opened.get(key, ""))
        if was != is_:
            name = (before.contract, now.contract) if word == "contract" else ("", "")
            rows.append((word, f"{name[0]} {was[:12]}".strip(), f"{name[1]} {is_[:12]}".strip()))
    gone, new = set(before.asked) - set(now.asked), set(now.asked) - set(before.asked)
    if gone or new:
        rows.append(
            ("silos that may be asked", ", ".join(sorted(gone)) or "–", ", ".join(sorted(new)))
        )
    rows += _taking_part(before, now)
    rows += _rows(before, now)
    rows += _software(before, now)
    return rows + _drift(before, now)


def _taking_part(before: Story, now: Story) -> list[Row]:
    was, is_ = _trained(before), _trained(now)
    lost, won = sorted(was - is_), sorted(is_ - was)
    return [("silos that trained", ", ".join(lost) or "–", ", ".join(won) or "–")] * bool(
        lost + won
    )


def _trained(story: Story) -> set[str]:
    return {
        silo
        for parts in story.rounds.values()
        for silo, part in parts.items()
        if part.outcome == "trained"
    }


def _rows(before: Story, now: Story) -> list[Row]:
    was = (before.facts.get("standardized") or {}).get("rows") or {}
    is_ = (now.facts.get("standardized") or {}).get("rows") or {}
    return [
        (f"rows of {silo}", f"{was[silo]:,}", f"{is_[silo]:,}")
        for silo in sorted(set(was) & set(is_))
        if was[silo] != is_[silo]
    ]


def _software(before: Story, now: Story) -> list[Row]:
    was, is_ = before.opened.get("software") or {}, now.opened.get("software") or {}
    return [
        (f"coordinator's {name}", str(was[name]), str(is_[name]))
        for name in sorted(set(was) & set(is_))
        if was[name] != is_[name]
    ]


def _drift(before: Story, now: Story) -> list[Row]:
    """Return by how much the columns' means have moved over all silos, in deviations."""
    was, is_ = before.facts.get("standardized") or {}, now.facts.get("standardized") or {}
    if before.opened.get("contract_digest") != now.opened.get("contract_digest"):
        return []
    shifts = _shifts(was, is_)
    large = [each for each in shifts if each >= _LARGE_SHIFT]
    if not large:
        return []
    told = f"{len(large)} of {len(shifts)} columns have moved, at most by {max(shifts):.2f}"
    return [(f"means of columns, by {_LARGE_SHIFT} deviations and more", "–", told)]


def _shifts(was: Mapping[str, Any], is_: Mapping[str, Any]) -> Sequence[float]:
    means, others, variances = (
        was.get("mean") or (),
        is_.get("mean") or (),
        was.get("variance") or (),
    )
    if not len(means) == len(others) == len(variances):
        return []
    return [
        abs(float(b) - float(a)) / math.sqrt(float(v))
        for a, b, v in zip(means, others, variances, strict=True)
        if float(v) > 0
    ]
