"""What every picture is, and the axes that they share.

Colours are classes of the style sheet, since a page may hold no style of its own. A picture is 640
units wide; on a narrow screen the style sheet makes its words larger, for which the margins leave
room.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

Cell = str | int | float | None

WIDTH = 640
LEFT, RIGHT, TOP, BOTTOM = 66, 18, 16, 56
COLOURS = 6
DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 2", "1 4")
"""The n-th series has the n-th of both, so that its colour is not all that tells it."""


@dataclass(frozen=True)
class Picture:
    """A picture and its numbers.

    Args:
        title: what it shows, with the unit.
        svg: the picture.
        legend: a sign and what it stands for.
        columns: of the table.
        rows: of the table: the very numbers that are drawn.
        numeric: which columns hold numbers.
    """

    title: str
    svg: Markup
    legend: tuple[tuple[Markup, str], ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: tuple[int, ...]


def told(value: Cell) -> str:
    """Return a number as a table or an axis says it: no digit more than six.

    >>> told(0.1 + 0.2), told(12), told(None), told("late")
    ('0.3', '12', '–', 'late')
    """
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:.6g}"


def drawing(title: str, description: str, inside: Markup, *, height: float) -> Markup:
    """Return the whole SVG: one picture for who does not see it, with what it says."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}" focusable="false"><title>{}</title>'
        "<desc>{}</desc>{}</svg>"
    ).format(WIDTH, round(height), f"{title}. {description}", title, description, inside)


def ticks(low: float, high: float, *, most: int = 5, whole: bool = False) -> list[float]:
    """Return round numbers that cover [low, high], ``most`` + 2 at most; ``whole`` ones if asked.

    >>> ticks(0.0, 1.0), ticks(0, 7), ticks(3.0, 3.0)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0.0, 2.0, 4.0, 6.0, 8.0], [2.0, 3.0, 4.0])
    """
    if high <= low:
        return [low - 1, low, low + 1]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    steps = (1, 2, 5, 10) if whole else (1, 2, 2.5, 5, 10)
    step = next(each * power for each in steps if each * power >= rough * 0.999)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(each * step, 12) for each in range(first, last + 1)]


@dataclass(frozen=True)
class Axes:
    """Two axes with their ticks; values → places.

    Args:
        xs: ticks from left to right.
        ys: ticks from the bottom to the top.
        height: of the picture.
    """

    xs: Sequence[float]
    ys: Sequence[float]
    height: float = 280

    def x(self, value: float) -> float:
        """Return the place of a value from left to right."""
        span = (self.xs[-1] - self.xs[0]) or 1.0
        return round(LEFT + (value - self.xs[0]) / span * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: float) -> float:
        """Return the place of a value from the top to the bottom."""
        span = (self.ys[-1] - self.ys[0]) or 1.0
        bottom = self.height - BOTTOM
        return round(bottom - (value - self.ys[0]) / span * (bottom - TOP), 1)

    def drawn(self, *, across: str, x_words: Sequence[str] | None = None) -> Markup:
        """Return the lines and numbers; ``across`` says what goes from left to right."""
        bottom = self.height - BOTTOM
        parts = [
            Markup(
                '<path class="axis" d="M{} {}H{}"/><text x="{}" y="{}" text-anchor="end">{}</text>'
            ).format(LEFT, self.y(at), WIDTH - RIGHT, LEFT - 7, self.y(at) + 5, told(at))
            for at in self.ys
        ]
        words = [told(each) for each in self.xs] if x_words is None else x_words
        for place, word in zip(self.xs, words, strict=True):
            anchor = "end" if place == self.xs[-1] else "middle"
            parts.append(
                Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
                    self.x(place), bottom + 25, anchor, word
                )
            )
        parts.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                LEFT + (WIDTH - LEFT - RIGHT) / 2, self.height - 5, across
            )
        )
        return Markup("").join(parts)


def line_sign(at: int) -> Markup:
    """Return the sign of the n-th series for a legend."""
    return Markup(
        '<svg viewBox="0 0 28 12" aria-hidden="true" focusable="false">'
        '<path class="line s{}" stroke-dasharray="{}" d="M1 6H27"/>{}</svg>'
    ).format(at % COLOURS, DASHES[at % COLOURS], marker(at, 14, 6))


def marker(at: int, x: float, y: float) -> Markup:
    """Return the mark of a point of the n-th series."""
    shapes = (
        "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0",
        "M-3.2-3.2h6.4v6.4h-6.4z",
        "M0-4 4 3.2h-8z",
        "M0-4.2 4.2 0 0 4.2-4.2 0z",
        "M0 4-4-3.2h8z",
        "M-1.2-4h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
    )
    colour = at % COLOURS
    return Markup('<path class="mark s{}" transform="translate({} {})" d="{}"/>').format(
        colour, x, y, shapes[colour]
    )
