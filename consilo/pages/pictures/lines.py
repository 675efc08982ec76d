"""Several series over one axis: learning curves, burn-downs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from markupsafe import Markup

from consilo.pages.pictures.picture import (
    COLOURS,
    DASHES,
    Axes,
    Picture,
    drawing,
    line_sign,
    marker,
    ticks,
    told,
)

Points = Sequence[tuple[float, float]]
_MOST_MARKS = 30


def curves(
    title: str,
    series: Mapping[str, Points],
    *,
    across: str = "round",
    limit: tuple[str, float] | None = None,
    from_zero: bool = False,
) -> Picture:
    """Return a picture of series of numbers.

    Args:
        title: what the numbers are, with the unit.
        series: name → (x, y), x ascending; what is not finite is left out, of the table too.
        across: what x is.
        limit: a line from left to right and its name.
        from_zero: whether y begins with 0.
    """
    kept = {name: _finite(points) for name, points in series.items()}
    every = [point for points in kept.values() for point in points]
    heights = [y for _, y in every] + ([limit[1]] if limit else []) + ([0.0] if from_zero else [])
    if not every:
        return _empty(title, across)
    are_whole = all(float(x).is_integer() for x, _ in every)
    xs = ticks(min(x for x, _ in every), max(x for x, _ in every), whole=are_whole)
    axes = Axes(xs, ticks(min(heights), max(heights)))
    inside = axes.drawn(across=across)
    inside += Markup("").join(_drawn(at, each, axes) for at, each in enumerate(kept.values()))
    legend = [(line_sign(at), name) for at, name in enumerate(kept)]
    if limit is not None:
        inside += _limit(axes, limit[1])
        legend.append((_limit_sign(), f"{limit[0]}: {told(limit[1])}"))
    places = sorted({x for x, _ in every})
    found = [dict(points) for points in kept.values()]
    return Picture(
        title,
        drawing(title, _ends(kept, across), inside, height=axes.height),
        tuple(legend),
        (across, *kept),
        tuple((told(x), *(told(each.get(x)) for each in found)) for x in places),
        tuple(range(1 + len(kept))),
    )


def burn_down(
    title: str,
    spent: Mapping[str, Sequence[tuple[datetime, float]]],
    *,
    limit: float | None = None,
    forecast: tuple[datetime, float] | None = None,
    unit: str = "ε",
) -> Picture:
    """Return a picture of what was spent over the days.

    Args:
        title: whose budget.
        spent: name → (moment, what was spent by then altogether), ascending.
        limit: the budget.
        forecast: when a forecast of the first series reaches which sum.
        unit: of what is spent.
    """
    every = [point for points in spent.values() for point in points]
    if not every:
        return _empty(title, "day")
    ahead = [forecast] if forecast else []
    seconds = [at.timestamp() for at, _ in [*every, *ahead]]
    first, last = min(seconds), max(seconds)
    if last - first < 86_400:
        first, last = first - 43_200, first + 43_200
    places = [first + (last - first) * part / 4 for part in range(5)]
    heights = [0.0, *(value for _, value in [*every, *ahead]), *([limit] if limit else [])]
    axes = Axes(places, ticks(0.0, max(heights)))
    days = [datetime.fromtimestamp(each, UTC).strftime("%m-%d") for each in places]
    inside = axes.drawn(across="day (UTC)", x_words=days)
    legend = []
    for at, (name, points) in enumerate(spent.items()):
        numbers = [(moment.timestamp(), value) for moment, value in points]
        inside += _drawn(at, _stairs(numbers), axes, marks=numbers)
        legend.append((line_sign(at), name))
    if forecast is not None:
        moment, value = next(iter(spent.values()))[-1]
        inside += Markup('<path class="line forecast s0" d="M{} {}L{} {}"/>').format(
            axes.x(moment.timestamp()),
            axes.y(value),
            axes.x(forecast[0].timestamp()),
            axes.y(forecast[1]),
        )
        legend.append((_forecast_sign(), "at the pace so far"))
    if limit is not None:
        inside += _limit(axes, limit)
        legend.append((_limit_sign(), f"budget: {unit} {told(limit)}"))
    rows = [
        (name, f"{moment:%Y-%m-%d %H:%M}", told(value))
        for name, points in spent.items()
        for moment, value in points
    ]
    if forecast is not None:
        rows.append(("forecast", f"{forecast[0]:%Y-%m-%d}", told(forecast[1])))
    newest = "; ".join(f"{name}: {unit} {told(points[-1][1])}" for name, points in spent.items())
    return Picture(
        title,
        drawing(title, f"Spent so far: {newest}.", inside, height=axes.height),
        tuple(legend),
        ("what", "moment (UTC)", f"{unit} spent"),
        tuple(rows),
        (2,),
    )


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]


def _drawn(at: int, points: Points, axes: Axes, marks: Points | None = None) -> Markup:
    if not points:
        return Markup("")
    path = "M" + "L".join(f"{axes.x(x)} {axes.y(y)}" for x, y in points)
    line = Markup('<path class="line s{}" stroke-dasharray="{}" d="{}"/>').format(
        at % COLOURS, DASHES[at % COLOURS], path
    )
    seen = points if marks is None else marks
    step = max(1, math.ceil(len(seen) / _MOST_MARKS))
    chosen = seen[::-step]
    return line + Markup("").join(marker(at, axes.x(x), axes.y(y)) for x, y in chosen)


def _stairs(points: Points) -> Points:
    """Return the points with the corners between them: a sum stays until it grows."""
    corners: list[tuple[float, float]] = []
    for x, y in points:
        if corners:
            corners.append((x, corners[-1][1]))
        corners.append((x, y))
    return corners


def _limit(axes: Axes, value: float) -> Markup:
    left, right = axes.x(axes.xs[0]), axes.x(axes.xs[-1])
    return Markup('<path class="limit" d="M{} {}H{}"/>').format(left, axes.y(value), right)


def _limit_sign() -> Markup:
    return Markup(
        '<svg viewBox="0 0 28 12" aria-hidden="true" focusable="false">'
        '<path class="limit" stroke-dasharray="7 4" d="M1 6H27"/></svg>'
    )


def _forecast_sign() -> Markup:
    return Markup(
        '<svg viewBox="0 0 28 12" aria-hidden="true" focusable="false">'
        '<path class="line forecast s0" d="M1 6H27"/></svg>'
    )


def _ends(series: Mapping[str, Points], across: str) -> str:
    said = [
        f"{name}: {told(points[0][1])} at {across} {told(points[0][0])}, "
        f"{told(points[-1][1])} at {across} {told(points[-1][0])}"
        for name, points in series.items()
        if points
    ]
    return "; ".join(said) + "."


def _empty(title: str, across: str) -> Picture:
    words = Markup('<text x="320" y="45" text-anchor="middle">nothing to draw yet</text>')
    svg = drawing(title, "Nothing to draw yet.", words, height=80)
    return Picture(title, svg, (), (across,), (), ())
