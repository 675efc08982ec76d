"""Who did what in which round: a row a silo, a column a round, a shape and a colour a state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from markupsafe import Markup

from consilo.pages.pictures.picture import TOP, WIDTH, Picture, drawing

_NAMES = 150
_ROW, _SIDE = 22, 18
_MOST_LETTERS = 13


@dataclass(frozen=True)
class Cell:
    """What one did in one round.

    Args:
        state: one of `STATES`, or a word of one's own, which is drawn as ``left out``.
        reason: why; empty where there is nothing to say.
    """

    state: str
    reason: str = ""


STATES: Mapping[str, tuple[str, str]] = {
    "trained": ("mark good", "square"),
    "invited": ("hollow wait", "square"),
    "late": ("mark warn", "triangle"),
    "refused": ("mark bad", "cross"),
    "dropped": ("mark bad", "bar"),
    "left out": ("mark off", "dot"),
}
"""State → the class of its sign, and its shape."""


def participation(
    title: str, rows: Mapping[str, Sequence[Cell | None]], *, first: int = 1, across: str = "round"
) -> Picture:
    """Return the picture of who took part.

    Args:
        title: what it shows.
        rows: name → what it did in each round; None where it was not asked.
        first: the number of the first round.
        across: what the columns are.
    """
    number = max((len(each) for each in rows.values()), default=0)
    wide = min(_SIDE + 6.0, (WIDTH - _NAMES - 12) / max(number, 1))
    side = min(_SIDE - 4.0, wide - 1)
    paths: dict[str, list[str]] = {}
    words = []
    for at, (name, cells) in enumerate(rows.items()):
        middle = TOP + (at + 0.5) * _ROW
        shown = name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"
        words.append(
            Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
                _NAMES - 8, round(middle + 5, 1), shown
            )
        )
        for column, cell in enumerate(cells):
            if cell is None:
                continue
            state = cell.state if cell.state in STATES else "left out"
            x = _NAMES + (column + 0.5) * wide
            paths.setdefault(state, []).append(f"M{x:.1f} {middle:.1f}{_shape(state, side)}")
    height = TOP + len(rows) * _ROW + 44
    for column in _marked(number):
        words.append(
            Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
                round(_NAMES + (column + 0.5) * wide, 1), height - 26, first + column
            )
        )
    words.append(
        Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(
            round(_NAMES + number * wide / 2, 1), height - 6, across
        )
    )
    signs = [
        Markup('<path class="{}" d="{}"/>').format(STATES[state][0], "".join(each))
        for state, each in paths.items()
    ]
    table = tuple(_runs(rows, first))
    counts = ", ".join(
        f"{state}: {sum(1 for cells in rows.values() for c in cells if _state(c) == state)}"
        for state in paths
    )
    return Picture(
        title,
        drawing(title, f"Cells by state: {counts}.", Markup("").join(words + signs), height=height),
        tuple((_sign(state), state) for state in STATES if state in paths),
        ("silo", f"{across}s", "state", "reason"),
        table,
        (),
    )


def _state(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return cell.state if cell.state in STATES else "left out"


def _runs(rows: Mapping[str, Sequence[Cell | None]], first: int) -> list[tuple[str, str, str, str]]:
    """Return what the picture shows, with neighbours that are alike in one row."""
    said = []
    for name, cells in rows.items():
        for cell, group in groupby(enumerate(cells, first), key=lambda each: each[1]):
            places = [place for place, _ in group]
            if cell is not None:
                span = f"{places[0]}–{places[-1]}" if len(places) > 1 else str(places[0])
                said.append((name, span, cell.state, cell.reason))
    return said


def _marked(number: int) -> list[int]:
    step = next(each for each in (1, 5, 10, 20, 50, 100, 500, 10**9) if number / each <= 11)
    return [each - 1 for each in range(step, number + 1, step)] or [0][:number]


def _shape(state: str, side: float) -> str:
    half = side / 2
    kind = STATES[state][1]
    if kind == "square":
        return f"m{-half:.1f} {-half:.1f}h{side:.1f}v{side:.1f}h{-side:.1f}z"
    if kind == "triangle":
        return f"m0 {-half:.1f}l{half:.1f} {side:.1f}h{-side:.1f}z"
    if kind == "bar":
        return f"m{-half:.1f} {-side / 6:.1f}h{side:.1f}v{side / 3:.1f}h{-side:.1f}z"
    if kind == "cross":
        arm = side / 3
        return (
            f"m{-arm / 2:.1f} {-half:.1f}h{arm:.1f}v{arm:.1f}h{arm:.1f}v{arm:.1f}h{-arm:.1f}"
            f"v{arm:.1f}h{-arm:.1f}v{-arm:.1f}h{-arm:.1f}v{-arm:.1f}h{arm:.1f}z"
        )
    dot = side / 5
    return f"m{-dot:.1f} {-dot:.1f}h{2 * dot:.1f}v{2 * dot:.1f}h{-2 * dot:.1f}z"


def _sign(state: str) -> Markup:
    return Markup(
        '<svg viewBox="-14 -6 28 12" aria-hidden="true" focusable="false">'
        '<path class="{}" d="M0 0{}"/></svg>'
    ).format(STATES[state][0], _shape(state, 10))
