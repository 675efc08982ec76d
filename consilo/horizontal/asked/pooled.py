"""The silos' tables together, on the cells that all of them tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from consilo.horizontal.asked import merging
from consilo.horizontal.asked.axes import Axes, Axis, Floats, Ints
from consilo.horizontal.asked.release import BY, CORRELATION, TIME, by, shifted


@dataclass(frozen=True)
class Part:
    """One silo's answer.

    Args:
        rows: how many it has, or subjects.
        tables: by name.
        told: how their cells are put together.
        noise: standard deviation of the noise on each number; 0 where they are exact.
    """

    rows: int
    tables: Mapping[str, Floats]
    told: Mapping[str, Ints]
    noise: float


@dataclass(frozen=True)
class Table:
    """One table over the silos that tell it.

    Args:
        values: (blocks, …), by group (blocks of the group, blocks, …); sums have no blocks of
            their own.
        blocks: the cells of each block, in order; empty for sums.
        groups: the values of each block of the group; empty where it is over all.
        silos: whose rows these are, with their number.
        lacking: silo → why its rows are not among them.
        noise: standard deviation of the noise on each number.
    """

    values: Floats
    blocks: tuple[tuple[int, ...], ...]
    groups: tuple[tuple[int, ...], ...]
    silos: Mapping[str, int]
    lacking: Mapping[str, str]
    noise: float


@dataclass(frozen=True)
class Pooled:
    """What all silos have answered.

    Args:
        axes: what the contract declares.
        parts: silo → its answer.
    """

    axes: Axes
    parts: Mapping[str, Part]

    @property
    def rows(self) -> dict[str, int]:
        """Silo → how many rows, or subjects, it has."""
        return {name: part.rows for name, part in self.parts.items()}

    @property
    def is_noisy(self) -> bool:
        """Whether noise is on any number."""
        return any(part.noise > 0 for part in self.parts.values())

    def table(self, name: str) -> Table:
        """Return one table over all silos that tell it.

        It has the cells that none of them puts together with others. A silo that tells no step of
        a column at all, beside others that do, is left out of it, and said to be.
        """
        what, _, group_name = name.partition(BY)
        group = self.axes.axis(group_name) if group_name else None
        axis = self._axis(what)
        is_sum = what.startswith("sums/") or what == CORRELATION
        lacking = {
            silo: why
            for silo, part in self.parts.items()
            if (why := self._untold(part, what, axis, group))
        }
        telling = {silo: part for silo, part in self.parts.items() if silo not in lacking}
        if axis is not None and not is_sum:
            along = 1 if group else 0
            few = [
                silo
                for silo, part in telling.items()
                if not part.noise and _is_one_step(part.told[axis.name], part.tables[name], along)
            ]
            if len(few) < len(telling):
                lacking |= dict.fromkeys(few, "its rows are too few for any step")
                telling = {silo: part for silo, part in telling.items() if silo not in few}
        silos = {silo: part.rows for silo, part in telling.items()}
        noise = math.sqrt(sum(part.noise**2 for part in telling.values()))
        if not telling:
            return Table(np.zeros(0), (), (), {}, lacking, 0.0)
        values: Floats = sum((part.tables[name] for part in telling.values()), np.zeros(()))
        if is_sum:
            values = shifted(values, name, by=0.5)
        blocks: tuple[tuple[int, ...], ...] = ()
        groups: tuple[tuple[int, ...], ...] = ()
        if axis is not None and not is_sum:
            values, blocks = _together(values, axis, telling, 1 if group else 0)
        if group is not None:
            values, groups = _together(values, group, telling, 0)
        return Table(values, blocks, groups, silos, lacking, noise)

    def _axis(self, what: str) -> Axis | None:
        if what == CORRELATION:
            return None
        if what == TIME:
            return self.axes.time
        return self.axes.axis(what.partition("/")[2])

    def _untold(self, part: Part, what: str, axis: Axis | None, group: Axis | None) -> str:
        if what == CORRELATION:
            few = "rows that lack one of the columns are too few"
            return "" if int(part.told[CORRELATION][0]) else few
        assert axis is not None
        if not merging.is_told(part.told[axis.name]):
            return "the rows with, or without, a value are too few"
        if group is not None and not merging.is_told(part.told[group.name]):
            return f"the rows of a value of '{group.name}' are too few"
        if group is not None and not int(part.told[by(axis)][0]):
            return "the rows of a group are too few"
        return ""


def _is_one_step(part: Ints, values: Floats, along: int) -> bool:
    """Return whether an axis has cells that became one, and no rows beside these."""
    known = np.moveaxis(values, along, 0)[:-1]
    num_with_rows = np.count_nonzero(known.reshape(len(known), -1).any(axis=1))
    return bool(num_with_rows < 2 and len(np.unique(part[:-1])) < len(known))


def _together(
    values: Floats, axis: Axis, telling: Mapping[str, Part], along: int
) -> tuple[Floats, tuple[tuple[int, ...], ...]]:
    """Return a table on the blocks that all silos tell, and the cells of each."""
    part = merging.in_common([each.told[axis.name] for each in telling.values()])
    blocks = merging.blocks_of(part)
    found = merging.summed(values, part, along)
    kept = np.take(found, [block[0] for block in blocks], axis=along)
    return kept, tuple(tuple(block) for block in blocks)
