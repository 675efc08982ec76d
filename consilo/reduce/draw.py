"""Draw the silos of a round, and know with which probability each was drawn.

A draw is a function of the job's seed, the round and what the training's state keeps (`Kept`): a
run that goes on draws whom it would have drawn. It is public, the coordinator knows it, so that it
makes no silo's noise any smaller (see docs/threat-model.md).

Uniform and Poisson draws take the silos with the smallest hashes of (seed, round, name), so that
the order of names does not matter. By rows it is Madow's systematic sampling (1949) in the order of
these hashes: each silo once at most, as many as wanted, each with a probability that is exactly in
proportion to its rows, and 1 where that would be above 1.

Differences from McMahan, Ramage, Talwar, Zhang (2018), who draw by Poisson: a draw that is smaller
than the quorum is none, and the probabilities are those that remain.

>>> kept = begin({"a": 10, "b": 20, "c": 30, "d": 40})
>>> draw(CohortSpec(size=2), kept, round=1, seed=0).names
('a', 'b')
>>> draw(CohortSpec(size=2, by="rows"), kept, round=1, seed=0).chances["a"]
0.2
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from consilo.jobs.cohort import CohortSpec
from consilo.kernel import seeds

Kept: TypeAlias = Mapping[str, Any]
"""What draws need of the rounds before, in plain values: ``rows`` by silo, of all who may be drawn;
``gone``, who has said no; ``drawn``, how often each was; ``last``, in which round; ``missed``, how
often in a row it did not answer."""
_FEW = 5
_PATIENCE = 4
"""By availability: a silo is drawn after as many rounds as it takes to draw all, times this."""


@dataclass(frozen=True)
class Draw:
    """The silos of a round.

    Args:
        round: 1, 2, ….
        names: who was drawn, sorted.
        chances: silo → the probability with which it is drawn in this round, in [0, 1]; of all who
            could be. Empty where silos are not drawn by chance.
        rows: silo → training rows, or subjects, of all who could be drawn.
        done: who has been drawn as often as ``most_rounds`` allows.
    """

    round: int
    names: tuple[str, ...]
    chances: Mapping[str, float]
    rows: Mapping[str, int]
    done: tuple[str, ...] = ()

    def share(self, silo: str) -> float:
        """Return by what an answer is divided: it stands for those that were not drawn."""
        return self.chances.get(silo, 1.0)

    def correction(self, *, by_rows: bool) -> float:
        """Return the mass of all who could be drawn, over what those who were stand for.

        Divided by it, the mean over who answered becomes the estimate of Horvitz and Thompson
        (1952), whose expectation is the mean over all; 1 where silos are not drawn by chance.

        Args:
            by_rows: whether silos weigh by rows, or each alike.
        """
        mass = {n: float(self.rows[n]) if by_rows else 1.0 for n in self.rows}
        names = set(self.names)
        drawn = sum(mass[n] / self.share(n) for n in self.rows if n in names)
        return sum(mass.values()) / drawn if self.chances and drawn else 1.0


def begin(rows: Mapping[str, int]) -> Kept:
    """Return what is kept before the first round.

    Args:
        rows: silo → rows, of all who may be drawn in this run.
    """
    return {"rows": {name: int(rows[name]) for name in sorted(rows)}}


def draw(
    spec: CohortSpec,
    kept: Kept,
    *,
    round: int,
    seed: int,
    always: Collection[str] = (),
    least: int = 1,
) -> Draw:
    """Return who is asked in a round.

    Args:
        spec: how it is drawn.
        kept: what the round before left.
        round: 1, 2, ….
        seed: the job's.
        always: silos that are in every draw, as far as they may be.
        least: how many a draw has at least, where there are so many.
    """
    counts = kept.get("drawn", {})
    most = spec.most_rounds
    here = [name for name in kept["rows"] if name not in kept.get("gone", ())]
    done = tuple(n for n in here if most is not None and counts.get(n, 0) >= most)
    rows = {name: kept["rows"][name] for name in here if name not in done}
    fixed = sorted(set(always) & rows.keys())
    order = sorted(
        rows.keys() - set(fixed), key=lambda n: (seeds.derive(seed, f"{round}/cohort", n), n)
    )
    chances = dict.fromkeys(fixed, 1.0)
    if spec.size is None:
        assert spec.rate is not None
        place = _uniform(seed, round)
        count, mean = _poisson(len(order), spec.rate, least=least - len(fixed), place=place)
        chosen = order[:count]
        chances |= dict.fromkeys(order, mean / max(1, len(order)))
    else:
        size = min(len(order), spec.size - len(fixed))
        if spec.by == "rows":
            found = _by_rows(rows, order, size)
            chosen = _systematic(order, found, place=_uniform(seed, round))
            chances |= found
        elif spec.by == "availability":
            chosen = _by_availability(spec, kept, order, size, round=round, always=len(fixed))
            chances = {}
        else:
            chosen = order[:size]
            chances |= dict.fromkeys(order, size / max(1, len(order)))
    return Draw(round, tuple(sorted({*fixed, *chosen})), chances, rows, done)


def after(
    spec: CohortSpec, kept: Kept, drawn: Draw, *, answered: Collection[str], gone: Iterable[str]
) -> Kept:
    """Return what is kept after a round.

    Args:
        spec: how it was drawn.
        kept: what the round before left.
        drawn: who was.
        answered: whose update counts.
        gone: who has said no, and would say so again.
    """
    found = dict(kept)
    out = sorted({*kept.get("gone", ()), *(set(gone) & kept["rows"].keys())})
    if out:
        found["gone"] = out
    if spec.most_rounds is not None:
        counts = kept.get("drawn", {})
        found["drawn"] = counts | {name: counts.get(name, 0) + 1 for name in drawn.names}
    if spec.by == "availability":
        missed = kept.get("missed", {})
        found["last"] = _last(kept, drawn.round) | dict.fromkeys(drawn.names, drawn.round)
        found["missed"] = missed | {
            name: 0 if name in answered else missed.get(name, 0) + 1 for name in drawn.names
        }
    return found


def in_words(cohort: Mapping[str, Any]) -> str:
    """Return who was drawn, as a round's report tells it; empty where silos are not drawn.

    >>> in_words({"drawn": ["a", "b"], "of": 12})
    '; drawn: a, b, of 12 silos'
    """
    if not cohort:
        return ""
    names = cohort["drawn"]
    told = ", ".join(names) + "," if len(names) <= _FEW else str(len(names))
    return f"; drawn: {told} of {cohort['of']} silos"


def longest_wait(spec: CohortSpec, num_silos: int, *, always: int = 0) -> int:
    """Return in how many rounds each silo is drawn once at least, by availability.

    Args:
        spec: how it is drawn.
        num_silos: who may be drawn.
        always: how many of them are in every draw.
    """
    least = turn(spec, num_silos, always=always)
    return max(least, _PATIENCE * least if spec.every is None else spec.every)


def planned(
    spec: CohortSpec,
    rows: Mapping[str, int],
    *,
    rounds: Iterable[int],
    seed: int,
    always: Collection[str] = (),
    least: int = 1,
) -> dict[str, int]:
    """Return for how many rounds each silo will be drawn, if all answer.

    Args:
        spec: how it is drawn.
        rows: silo → rows.
        rounds: their numbers.
        seed: the job's.
        always: as in `draw`.
        least: as in `draw`.
    """
    kept, counts = begin(rows), dict.fromkeys(rows, 0)
    for number in rounds:
        found = draw(spec, kept, round=number, seed=seed, always=always, least=least)
        kept = after(spec, kept, found, answered=found.names, gone=())
        for name in found.names:
            counts[name] += 1
    return counts


def _uniform(seed: int, round: int) -> float:
    return float(seeds.generator(seed, f"{round}/cohort").random())


def _poisson(count: int, rate: float, *, least: int, place: float) -> tuple[int, float]:
    """Return how many of ``count`` coins show heads, given at least ``least``, and their mean.

    Which ones is as likely for all sets of so many: the smallest hashes will do.

    Args:
        count: how many coins.
        rate: the probability of heads.
        least: fewer count as no draw; at most ``count`` are wanted.
        place: uniform in [0, 1).
    """
    floor = min(max(least, 0), count)
    if rate == 1.0 or floor == count:
        return count, float(count)
    whole = math.lgamma(count + 1)
    logs = [
        whole
        - math.lgamma(k + 1)
        - math.lgamma(count - k + 1)
        + k * math.log(rate)
        + (count - k) * math.log1p(-rate)
        for k in range(floor, count + 1)
    ]
    most = max(logs)
    weights = [math.exp(each - most) for each in logs]
    total = math.fsum(weights)
    mean = math.fsum(k * w for k, w in enumerate(weights, floor)) / total
    sum_so_far, found = 0.0, count
    for k, weight in enumerate(weights, floor):
        sum_so_far += weight
        if place * total < sum_so_far:
            found = k
            break
    return found, mean


def _by_rows(rows: Mapping[str, int], order: Sequence[str], size: int) -> dict[str, float]:
    """Return the probabilities, in proportion to rows, of a draw of ``size``; 0 without rows."""
    chances = dict.fromkeys(order, 0.0)
    left, free = [name for name in order if rows[name]], size
    if len(left) <= size:
        return chances | dict.fromkeys(left, 1.0)
    while left:
        total = sum(rows[name] for name in left)
        large = [name for name in left if free * rows[name] >= total]
        if not large:
            return chances | {name: free * rows[name] / total for name in left}
        chances |= dict.fromkeys(large, 1.0)
        left = [name for name in left if name not in large]
        free -= len(large)
    return chances


def _systematic(order: Sequence[str], chances: Mapping[str, float], *, place: float) -> list[str]:
    """Return a draw with these probabilities: one silo for each of place, place + 1, …, laid out.

    Args:
        order: of the silos, by chance.
        chances: of each; their sum is the size of the draw.
        place: uniform in [0, 1).
    """
    chosen = [name for name in order if chances[name] == 1.0]
    part = [name for name in order if 0.0 < chances[name] < 1.0]
    size = round(math.fsum(chances[name] for name in part))
    taken, end = 0, 0.0
    for at, name in enumerate(part):
        end = float(size) if at == len(part) - 1 else end + chances[name]
        if taken < size and place + taken < end:
            chosen.append(name)
            taken += 1
    return chosen


def _by_availability(
    spec: CohortSpec, kept: Kept, order: Sequence[str], size: int, *, round: int, always: int
) -> list[str]:
    """Return who waited too long, the longest first; then who answered when it was drawn last.

    A silo is due when it has waited for W = every - ⌈N/size⌉ + 1 rounds. All places go to who is
    due, the longest wait first: at most N - 1 are before it, each of which is drawn once and is
    behind it then. So it is drawn ⌈N/size⌉ - 1 rounds later at the latest: once in ``every``.
    """
    if not order:
        return []
    last, missed = _last(kept, round), kept.get("missed", {})
    waited = {name: round - last[name] for name in order}
    count = len(order) + always
    longest = longest_wait(spec, count, always=always)
    due_from = longest - turn(spec, count, always=always) + 1
    due = [name for name in order if waited[name] >= due_from]
    ranked = sorted(due, key=lambda name: -waited[name])
    others = sorted(
        (name for name in order if name not in due), key=lambda name: missed.get(name, 0)
    )
    return [*ranked, *others][:size]


def _last(kept: Kept, round: int) -> dict[str, int]:
    """Return when each silo was drawn last; before the first draw, all in the round before."""
    return dict(kept.get("last") or dict.fromkeys(kept["rows"], round - 1))


def turn(spec: CohortSpec, num_silos: int, *, always: int = 0) -> int:
    """Return how many rounds it takes to draw all, where a draw has a size.

    Args:
        spec: how it is drawn.
        num_silos: who may be drawn.
        always: how many of them are in every draw.
    """
    assert spec.size is not None
    return max(1, math.ceil((num_silos - always) / max(1, spec.size - always)))
