"""What one silo tells of its rows: one set of tables, which depends on no question.

The tables are those that the contract declares, so that a job picks from them and can make no
others: asked twice, or one after the other, they say the same. Exact, their cells are as coarse as
the rule of atoms wants (`consilo.horizontal.asked.merging`). Noisy, each cell is told, with noise
of a known sensitivity on the whole vector that is asked for:

    one row                                  adds at most (L2 norm, squared)
    a count per cell, of whatever axes       1: it is in one cell
    sums of a column, also by group          9/4: (1, u, u**2 - 1/2) in one group, u in [-1, 1]
    products of k columns                    1 + k + k / 4 + k (k - 1) / 2

Sums are of numbers scaled by the contract's ranges to [-1, 1], squares less 1/2 each, exactly told
or not: so they are added up over silos as they are.
A subject whose rows weigh 1 together adds a mean of what its rows would, hence no more.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from consilo.horizontal.asked import merging
from consilo.horizontal.asked.axes import Axes, Axis, Floats, Ints, numbers
from consilo.privacy.noise import SecretStream, add_gaussian, noise_std

if TYPE_CHECKING:
    import pandas as pd

CORRELATION = "correlation"
TIME = "time"
BY = "/by/"


def table_names(axes: Axes) -> tuple[str, ...]:
    """Return the names of all tables that a contract declares."""
    names = [f"group/{each.name}" for each in axes.groups]
    for kind, columns in (("bins", axes.columns), ("sums", axes.numeric)):
        for column in columns:
            names += _with_groups(f"{kind}/{column.name}", axes)
    if axes.time is not None:
        names += _with_groups(TIME, axes)
    if len(axes.numeric) > 1:
        names.append(CORRELATION)
    return tuple(names)


def _with_groups(name: str, axes: Axes) -> list[str]:
    return [name, *(f"{name}{BY}{each.name}" for each in axes.groups)]


def templates(axes: Axes, names: Iterable[str]) -> dict[str, Floats]:
    """Return tables of zeros of the shapes that an answer has."""
    return {name: np.zeros(_shape(axes, name)) for name in names}


def _shape(axes: Axes, name: str) -> tuple[int, ...]:
    what, _, group = name.partition(BY)
    lead = (axes.axis(group).size + 1,) if group else ()
    if what == CORRELATION:
        count = len(axes.numeric)
        return (count + 1, count + 1)
    if what == TIME:
        assert axes.time is not None
        return (*lead, axes.time.size + 1, 2)
    kind, _, column = what.partition("/")
    return (*lead, 3) if kind == "sums" else (*lead, axes.axis(column).size + 1)


def told_templates(axes: Axes) -> dict[str, Ints]:
    """Return what an answer says of how the tables' cells were put together, as zeros."""
    found = {each.name: np.zeros(each.size + 1, np.int64) for each in axes.every}
    found |= {by(each): np.zeros(1, np.int64) for each in axes.every if each.is_ordered}
    return {**found, CORRELATION: np.zeros(1, np.int64)}


def by(axis: Axis) -> str:
    """Return under which name it is said whether a column is told by group."""
    return f"{axis.name}{BY}"


@dataclass(frozen=True)
class Cut:
    """A silo's rows, cut by all that the contract declares.

    Args:
        axes: the declaration.
        groups: group → of each row its value's number.
        columns: column → of each row its bin's number.
        values: numeric column → of each row its number; missing is NaN.
        times: of each row its step of the grid, the last for none; empty without one.
        events: of each row 1 or 0; of no meaning where `times` says none.
        weights: what each row counts; None is 1 each.
    """

    axes: Axes
    groups: Mapping[str, Ints]
    columns: Mapping[str, Ints]
    values: Mapping[str, Floats]
    times: Ints
    events: Ints
    weights: Floats | None = None

    @classmethod
    def of(cls, axes: Axes, frame: pd.DataFrame, weights: Floats | None = None) -> Cut:
        """Return the rows of a canonical table, cut."""
        times, events = np.zeros(0, np.int64), np.zeros(0, np.int64)
        if axes.time is not None:
            seen = axes.events(frame)
            times = np.where(seen == 2, axes.time.size, axes.time.codes(frame))
            events = np.where(times >= axes.time.size - 1, 0, seen)  # after the grid: not seen
        return cls(
            axes,
            {each.name: each.codes(frame) for each in axes.groups},
            {each.name: each.codes(frame) for each in axes.columns},
            {each.name: numbers(frame, each.name) for each in axes.numeric},
            times,
            events,
            weights,
        )

    def __len__(self) -> int:
        cells = (*self.groups.values(), *self.columns.values(), self.times)
        return max(len(each) for each in cells)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all of it; it stays in the silo."""
        mark = hashlib.sha256(self.axes.digest.encode())
        for each in (*self.groups.values(), *self.columns.values(), *self.values.values()):
            mark.update(each.tobytes())
        mark.update(self.times.tobytes() + self.events.tobytes())
        mark.update(b"" if self.weights is None else self.weights.tobytes())
        return mark.hexdigest()

    def table(self, name: str) -> Floats:
        """Return one table of the declared cells, nothing put together: counts, or plain sums."""
        what, _, group = name.partition(BY)
        lead = [self.groups[group]] if group else []
        shape = _shape(self.axes, name)
        if what == TIME:
            return self._counted([*lead, self.times, self.events], shape)
        kind, _, column = what.partition("/")
        if kind == "sums":
            return self._sums(self.values[column], lead, shape)
        return self._counted([*lead, self.groups.get(column, self.columns.get(column))], shape)

    def _counted(self, places: list[Ints | None], shape: tuple[int, ...]) -> Floats:
        found = np.zeros(shape)
        np.add.at(found, tuple(places), 1.0 if self.weights is None else self.weights)  # type: ignore[arg-type]
        return found

    def _sums(self, values: Floats, lead: list[Ints], shape: tuple[int, ...]) -> Floats:
        """Return how many values there are, their sum, and that of their squares."""
        there = ~np.isnan(values)
        weights = 1.0 if self.weights is None else self.weights[there]
        columns = np.stack([np.ones(there.sum()), values[there], values[there] ** 2]) * weights
        if not lead:
            summed: Floats = columns.sum(axis=1)
            return summed
        found = np.zeros(shape)
        np.add.at(found, tuple(each[there] for each in lead), columns.T)
        return found

    @property
    def whole(self) -> npt.NDArray[np.bool_]:
        """Which rows have a value in every numeric column."""
        found: npt.NDArray[np.bool_] = np.ones(len(self), bool)
        for each in self.values.values():
            found &= ~np.isnan(each)
        return found

    def scaled(self, *, clip: bool = False) -> Cut:
        """Return the same with numbers scaled so that their ranges are [-1, 1].

        Args:
            clip: take what lies outside of its range, which a contract may only warn of, as its
                end.
        """
        values = {}
        for name, each in self.values.items():
            low, high = self.axes.limits(name)
            held = np.clip(each, low, high) if clip else each
            values[name] = (held - (low + high) / 2) / ((high - low) / 2)
        return Cut(
            self.axes, self.groups, self.columns, values, self.times, self.events, self.weights
        )

    def products(self) -> Floats:
        """Return sums over the rows that have every numeric column: (k + 1, k + 1).

        The first row and column hold their number and the columns' sums, the rest the products'.
        """
        whole = self.whole
        rows = np.column_stack([np.ones(whole.sum()), *(v[whole] for v in self.values.values())])
        weighed = rows if self.weights is None else rows * self.weights[whole][:, None]
        found: Floats = rows.T @ weighed
        return found


@dataclass(frozen=True)
class Told:
    """How the cells of exact tables are put together; it follows from the rows and the floor alone.

    Args:
        parts: axis → its partition.
        crossed: column → whether it is told by group, too.
        correlation: whether products of columns are told.
    """

    parts: Mapping[str, Ints]
    crossed: Mapping[str, bool]
    correlation: bool

    @classmethod
    def of(cls, cut: Cut, least: int) -> Told:
        """Return the finest that the rule of atoms lets be told.

        Groups count in the contract's order: one that would make pieces too small is told in
        coarser values, or not at all. A column's bins are those that hold for every group; where
        there would be but one, or too few rows lack a value, the column is told over all groups.
        """
        axes, parts, crossed = cut.axes, {}, {}
        atoms = np.zeros(len(cut), np.int64)
        for group in axes.groups:
            codes = cut.groups[group.name]
            part = merging.group_blocks(atoms, codes, group.size, least)
            parts[group.name] = part
            if merging.is_told(part):
                pairs = atoms * (group.size + 1) + part[codes]
                atoms = np.unique(pairs, return_inverse=True)[1].reshape(-1).astype(np.int64)
        for axis, codes, pieces in _ordered(cut):
            joint = atoms * 2 + pieces
            last = axis.kind == "time"  # what is seen beyond the grid is no step of it
            part, over_all = (
                merging.step_blocks(_table(each, codes, axis.size), least, keeps_last=last)
                for each in (joint, pieces)
            )
            cells, more = (steps_told(each[codes[codes < axis.size]]) for each in (part, over_all))
            is_crossed = cells > 1 or (merging.is_told(part) and more <= 1)
            parts[axis.name] = part if is_crossed else over_all
            crossed[axis.name] = is_crossed
        return cls(parts, crossed, _may_correlate(cut, atoms, parts, least))

    def to_payload(self) -> dict[str, Ints]:
        """Return it as an answer says it."""
        found = dict(self.parts)
        found |= {f"{name}{BY}": np.array([int(each)]) for name, each in self.crossed.items()}
        return {**found, CORRELATION: np.array([int(self.correlation)])}

    def table(self, cut: Cut, name: str) -> Floats:
        """Return one table, exactly, on the cells that are told; zeros where none is."""
        what, _, group = name.partition(BY)
        if what == CORRELATION:
            found = cut.products()
            return found if self.correlation else np.zeros_like(found)
        kind, _, column = what.partition("/")
        axis = cut.axes.time if what == TIME else cut.axes.axis(column)
        assert axis is not None
        found = cut.table(name)
        if group and not self.crossed[axis.name]:
            return np.zeros_like(found)
        if kind == "sums":
            if not merging.is_told(self.parts[axis.name]):
                return np.zeros_like(found)
        else:
            found = merging.summed(found, self.parts[axis.name], axis=1 if group else 0)
        if group:
            found = merging.summed(found, self.parts[group], axis=0)
        return found


def _ordered(cut: Cut) -> Iterator[tuple[Axis, Ints, Ints]]:
    """Yield each axis of cells in order: axis, of each row its cell, and by what else it is cut."""
    for axis in cut.axes.columns:
        codes = cut.columns[axis.name]
        yield axis, codes, np.zeros(len(codes), np.int64)
    if cut.axes.time is not None:
        yield cut.axes.time, cut.times, cut.events


def _table(pieces: Ints, codes: Ints, size: int) -> Ints:
    table = np.zeros((int(pieces.max(initial=0)) + 1, size + 1), np.int64)
    np.add.at(table, (pieces, codes), 1)
    return table


def steps_told(blocks: Ints) -> int:
    """Return in how many blocks rows are; 0 where nothing is told of them."""
    return len(np.unique(blocks[blocks >= 0]))


def _may_correlate(cut: Cut, atoms: Ints, parts: Mapping[str, Ints], least: int) -> bool:
    """Return whether the rows with every column, held against those with one, leave no few."""
    if len(cut.values) < 2 or not all(merging.is_told(parts[name]) for name in cut.values):
        return False
    whole = cut.whole
    if not whole.any():
        return False
    pieces = [whole, *((~np.isnan(each)) & ~whole for each in cut.values.values())]
    return not any(
        merging.is_small(np.bincount(atoms[each]), least) for each in pieces if each.any()
    )


def exact(cut: Cut, names: Iterable[str], least: int) -> tuple[dict[str, Floats], dict[str, Ints]]:
    """Return the tables asked for, and how their cells are put together."""
    told, scaled = Told.of(cut, least), cut.scaled()
    found = {name: told.table(scaled, name) for name in names}
    return {name: shifted(each, name) for name, each in found.items()}, told.to_payload()


def sensitivity(axes: Axes, names: Iterable[str]) -> float:
    """Return the most that one row, there or not, changes all these tables by: L2 norm."""
    columns = len(axes.numeric)
    products = 1 + columns + columns / 4 + columns * (columns - 1) / 2
    squared = {"sums": 2.25, CORRELATION: products}
    return math.sqrt(sum(squared.get(name.partition("/")[0], 1.0) for name in names))


def noisy(
    cut: Cut, names: tuple[str, ...], sigma: float, stream: SecretStream
) -> tuple[dict[str, Floats], float]:
    """Return the tables asked for with noise on every number, and its standard deviation.


    Args:
        cut: the rows.
        names: of the tables.
        sigma: noise multiplier.
        stream: advanced by the numbers that were used.
    """
    scaled, found = cut.scaled(clip=True), {}
    for name in names:
        found[name] = shifted(
            scaled.products() if name == CORRELATION else scaled.table(name), name
        )
    size = sum(each.size for each in found.values())
    std = noise_std(sigma, sensitivity=sensitivity(cut.axes, names), size=size)
    told = {}
    for name, each in found.items():
        drawn = add_gaussian(each, std, stream)
        if name == CORRELATION:  # one number a pair: the lower half repeats the upper one
            drawn = np.triu(drawn) + np.triu(drawn, 1).T
        told[name] = drawn
    return told, std


def shifted(sums: Floats, name: str, *, by: float = -0.5) -> Floats:
    """Return sums of squares less 1/2 a row, which halves how far one row moves them.

    Args:
        sums: a table.
        name: its name.
        by: what is added to each square; 1/2 undoes it.
    """
    found = sums.copy()
    if name.startswith("sums/"):
        found[..., 2] += by * found[..., 0]
    elif name == CORRELATION:
        places = np.arange(1, len(found))
        found[places, places] += by * found[0, 0]
    return found
