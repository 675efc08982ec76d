"""Cells become one until none is made of few rows; and what several silos' cells have in common.

The rule of atoms: cut the rows by everything that is told together, and each piece has no row, or
as many as the silo's policy wants of a statistic. Whatever is added and subtracted of numbers that
are told, the rows that do not cancel out are then whole pieces. So no marginal less the cells that
are shown is a hidden one, and two groups that differ in one row are not told apart.

A *partition* says for each cell of an axis, and for the one of rows without a value behind them, in
which block it is, called by the first of its cells; -1 in all where nothing is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def is_small(counts: npt.NDArray[Any], least: int) -> bool:
    """Return whether a number of rows is neither none nor ``least`` or more."""
    return bool(((counts > 0) & (counts < least)).any())


def hidden(size: int) -> Ints:
    """Return the partition of an axis of which nothing is told."""
    return np.full(size + 1, -1, np.int64)


def apart(size: int) -> Ints:
    """Return the partition of an axis of which each cell is told."""
    return np.arange(size + 1, dtype=np.int64)


def is_told(part: Ints) -> bool:
    """Return whether anything is told of an axis."""
    return bool(part[0] >= 0)


def group_blocks(atoms: Ints, codes: Ints, size: int, least: int) -> Ints:
    """Return the partition by which a group's values cut pieces of rows into none that is small.

    The block of the smallest piece joins the smallest other one, until none is small. A group
    whose values would all be one tells nothing.

    Args:
        atoms: of each row its piece, by the groups before: from 0.
        codes: of each row its value, from 0 to ``size``.
        size: how many values there are.
        least: rows of a piece.
    """
    table = np.zeros((int(atoms.max(initial=0)) + 1, size + 1), np.int64)
    np.add.at(table, (atoms, codes), 1)
    part = apart(size)
    while is_small(table, least):
        few = np.where(table > 0, table, np.iinfo(np.int64).max).min(axis=0)
        block = int(np.argmin(few))
        totals = table.sum(axis=0)
        others = [each for each in np.flatnonzero(totals) if each != block]
        if not others:
            return hidden(size)
        other = min(others, key=lambda each: (totals[each], each))
        first, second = sorted((block, int(other)))
        table[:, first] += table[:, second]
        table[:, second] = 0
        part[part == second] = first
    if len(np.unique(part)) < size + 1 and np.count_nonzero(table.sum(axis=0)) < 2:
        return hidden(size)
    return part


def step_blocks(table: Ints, least: int, *, keeps_last: bool = False) -> Ints:
    """Return the partition of cells in order, of which only neighbours become one.

    Of all that leave no piece small, the one whose ends lie on the roundest places: first every
    16th, then every 8th, and so on. So two silos have as many ends in common as their rows allow.

    Args:
        table: (pieces, cells + 1), the last for rows without a value, which join no cell.
        least: rows of a piece.
        keeps_last: the end before the last cell counts before all others.

    Returns:
        All -1 where the rows without a value are few in a piece, or those with one are.
    """
    size = table.shape[1] - 1
    if is_small(table[:, -1], least) or is_small(table[:, :-1].sum(axis=1), least):
        return hidden(size)
    before = np.zeros((len(table), size + 1), np.int64)
    before[:, 1:] = np.cumsum(table[:, :-1], axis=1)
    worth = [0.0, *(3.0 ** ((end & -end).bit_length() - 1) for end in range(1, size)), 0.0]
    if keeps_last and size > 1:
        worth[size - 1] = 3.0**40
    best = np.full(size + 1, -np.inf)
    best[0] = 0.0
    start = np.zeros(size + 1, np.int64)
    for end in range(1, size + 1):
        within = before[:, end : end + 1] - before[:, :end]
        fits = ~((within > 0) & (within < least)).any(axis=0)
        found = np.where(fits, best[:end], -np.inf)
        start[end] = int(np.argmax(found))
        best[end] = found[start[end]] + worth[end]
    part = apart(size)
    end = size
    while end > 0:
        part[start[end] : end] = start[end]
        end = int(start[end])
    return part


def summed(table: Floats, part: Ints, axis: int = 0) -> Floats:
    """Return a table whose cells are added up to those of a partition, at each block's first cell.

    Args:
        table: counts, or sums.
        part: of the cells along ``axis``; all -1 makes it zero.
        axis: which.
    """
    found = np.zeros_like(table)
    if is_told(part):
        np.add.at(np.moveaxis(found, axis, 0), part, np.moveaxis(table, axis, 0))
    return found


def in_common(parts: Sequence[Ints]) -> Ints:
    """Return the finest partition that each of several is finer than, or equal to.

    >>> in_common([np.array([0, 0, 2, 3]), np.array([0, 1, 1, 3])])
    array([0, 0, 0, 3])
    """
    found = np.array(parts[0], np.int64)
    for part in parts[1:]:
        changed = True
        while changed:
            changed = False
            for each in np.unique(part):
                joined = np.unique(found[part == each])
                if len(joined) > 1:
                    found[np.isin(found, joined)] = joined.min()
                    changed = True
    return found


def blocks_of(part: Ints, *, missing: bool = True) -> list[list[int]]:
    """Return the cells of each block, in the order of their first ones.

    Args:
        part: a partition.
        missing: whether the block of rows without a value counts, where it is one of its own.
    """
    last = len(part) - 1
    found = [list(map(int, np.flatnonzero(part == each))) for each in np.unique(part) if each >= 0]
    return [each for each in found if missing or each != [last]]
