"""A number for each of several, with its interval where there is one: gains of silos, sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from consilo.pages.pictures.picture import RIGHT, WIDTH, Picture, drawing, ticks, told

_NAMES, _ROW, _TOP = 150, 26, 10
_MOST_LETTERS = 13


@dataclass(frozen=True)
class Bar:
    """One number.

    Args:
        name: whose.
        value: the number; None where it is not known, see ``note``.
        low: where its interval begins.
        high: where it ends.
        note: what else is to be said.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


def bars(title: str, found: Sequence[Bar], *, across: str, from_zero: bool = True) -> Picture:
    """Return a picture of numbers as bars from zero, each with its interval as a line.

    Args:
        title: what it shows.
        found: from the top to the bottom.
        across: what the numbers are, with the unit.
        from_zero: bars that begin at 0; if not, points at their values.
    """
    numbers = [
        each
        for bar in found
        for each in (bar.value, bar.low, bar.high)
        if each is not None and math.isfinite(each)
    ]
    low = min([*numbers, 0.0] if from_zero or not numbers else numbers)
    high = max([*numbers, 0.0] if from_zero or not numbers else numbers)
    places = ticks(low, high)
    span = places[-1] - places[0]
    bottom = _TOP + len(found) * _ROW
    height = bottom + 46

    def x(value: float) -> float:
        return round(_NAMES + (value - places[0]) / span * (WIDTH - _NAMES - RIGHT - 8), 1)

    parts = []
    for at in places:
        parts.append(
            Markup(
                '<path class="axis" d="M{0} {1}V{2}"/>'
                '<text x="{0}" y="{3}" text-anchor="middle">{4}</text>'
            ).format(x(at), _TOP, bottom, bottom + 18, told(at))
        )
    parts.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            round((_NAMES + WIDTH) / 2), height - 6, across
        )
    )
    for row, bar in enumerate(found):
        parts.append(_drawn(bar, _TOP + (row + 0.5) * _ROW, x, from_zero))
    said = "; ".join(f"{bar.name}: {told(bar.value)}" for bar in found) or "Nothing to draw yet"
    columns: tuple[str, ...] = ("silo", across, "from", "to", "note")
    rows = tuple(
        (bar.name, told(bar.value), told(bar.low), told(bar.high), bar.note) for bar in found
    )
    return Picture(
        title,
        drawing(title, said + ".", Markup("").join(parts), height=height),
        (),
        columns,
        rows,
        (1, 2, 3),
    )


def _drawn(bar: Bar, middle: float, at: Callable[[float], float], from_zero: bool) -> Markup:
    name = bar.name if len(bar.name) <= _MOST_LETTERS else bar.name[: _MOST_LETTERS - 1] + "…"
    parts = [
        Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            _NAMES - 8, round(middle + 5, 1), name
        )
    ]
    if bar.value is None or not math.isfinite(bar.value):
        parts.append(
            Markup('<text x="{}" y="{}">{}</text>').format(
                _NAMES + 8, round(middle + 5, 1), "not known"
            )
        )
        return Markup("").join(parts)
    if from_zero:
        left, right = sorted((at(0.0), at(bar.value)))
        parts.append(
            Markup('<path class="{}" d="M{} {}H{}V{}H{}z"/>').format(
                "faint s0", left, middle - 8, right, middle + 8, left
            )
        )
    if bar.low is not None and bar.high is not None:
        low, high = at(bar.low), at(bar.high)
        parts.append(
            Markup('<path class="line s0" d="M{0} {2}H{1}M{0} {3}V{4}M{1} {3}V{4}"/>').format(
                low, high, middle, middle - 5, middle + 5
            )
        )
    parts.append(
        Markup('<circle class="mark s0" cx="{}" cy="{}" r="4"/>').format(at(bar.value), middle)
    )
    return Markup("").join(parts)
