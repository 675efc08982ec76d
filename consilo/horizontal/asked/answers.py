"""Answers to people's questions, made of tables over all silos; nothing here asks a silo.

Exact tables give the figures that the union of the silos' rows has, on the cells that are told.
Noisy ones are called so: each figure has the standard error that the noise gives it, and what noise
made impossible is set to the nearest that can be: no count below none, no share above all, a
survival curve that never rises. That is post-processing and costs no privacy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.horizontal.asked.axes import Axes, Axis, Floats
from consilo.horizontal.asked.pooled import Pooled, Table
from consilo.horizontal.asked.release import CORRELATION, TIME
from consilo.horizontal.asked.survival import Z95, kaplan_meier, log_rank, median
from consilo.jobs.sections.questions import Question

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
_DRAWS = 200
_CLEAR = 5.0
"""A noisy number of rows below so many deviations of its noise divides nothing."""


@dataclass(frozen=True)
class Answer:
    """What is told of one column, over all rows or by one group.

    Args:
        ask: the kind of question.
        column: about which; empty for correlations.
        by: the group by which; empty over all rows.
        rows: one mapping a line of its table.
        silos: whose rows these are, with their number.
        lacking: silo → why its rows are not among them.
        test: how the groups compare; empty without groups, and of noisy tables.
        is_noisy: whether noise is on the numbers.
        unit: of the column; empty where it has none.
    """

    ask: str
    column: str
    by: str
    rows: tuple[Row, ...]
    silos: Mapping[str, int]
    lacking: Mapping[str, str]
    test: Mapping[str, Any] = field(default_factory=dict)
    is_noisy: bool = False
    unit: str = ""

    @property
    def title(self) -> str:
        """What it is, in words."""
        what = f"{self.ask} of {self.column}" if self.column else self.ask
        return f"{what} by {self.by}" if self.by else what

    @property
    def frame(self) -> pd.DataFrame:
        """Its table."""
        import pandas as pd

        return pd.DataFrame(list(self.rows))

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values; what is not known is null."""
        plain = {
            "ask": self.ask,
            "column": self.column,
            "by": self.by,
            "unit": self.unit,
            "noisy": self.is_noisy,
            "silos": dict(self.silos),
            "lacking": dict(self.lacking),
            "test": {key: _plain(each) for key, each in self.test.items()},
            "rows": [{key: _plain(each) for key, each in row.items()} for row in self.rows],
        }
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answer:
        """Return what `to_json` wrote."""
        return cls(
            value["ask"],
            value["column"],
            value["by"],
            tuple(dict(each) for each in value["rows"]),
            dict(value["silos"]),
            dict(value["lacking"]),
            dict(value["test"]),
            bool(value["noisy"]),
            value["unit"],
        )


@dataclass(frozen=True)
class Answers(Sequence[Answer]):
    """Everything that was asked, in the order of the questions; a notebook shows it as a table.

    Args:
        items: the answers.
        about: run, contract, and what else the report says at its head.
    """

    items: tuple[Answer, ...]
    about: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, place: Any) -> Any:
        return self.items[place]

    def __len__(self) -> int:
        return len(self.items)

    @property
    def frame(self) -> pd.DataFrame:
        """All tables below each other: a line each, with question, column, group and figures."""
        import pandas as pd

        lines = [
            {"ask": each.ask, "column": each.column, "by": each.by, **row, "noisy": each.is_noisy}
            for each in self.items
            for row in each.rows
        ]
        return pd.DataFrame(lines)

    def of(self, ask: str, column: str = "", by: str = "") -> Answer:
        """Return one answer.

        Raises:
            KeyError: where it was not asked; it names what was.
        """
        for each in self.items:
            if each.ask == ask and each.by == by and column in (each.column, ""):
                return each
        known = ", ".join(each.title for each in self.items)
        raise KeyError(f"no answer {ask} {column} {by}".strip() + f"; there are: {known}")

    def to_json(self) -> dict[str, Any]:
        """Return them as plain JSON values."""
        return {"about": dict(self.about), "answers": [each.to_json() for each in self.items]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Answers:
        """Return what `to_json` wrote."""
        return cls(tuple(map(Answer.from_json, value["answers"])), dict(value["about"]))

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(index=False))

    def __str__(self) -> str:
        return json.dumps(self.to_json())


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def answers(pooled: Pooled, questions: Sequence[Question], *, seed: int = 0) -> Answers:
    """Return the answers to questions.

    Args:
        pooled: the tables.
        questions: what was asked.
        seed: of the draws by which the standard error of a noisy figure is estimated.
    """
    return Answers(
        tuple(each for question in questions for each in _answered(pooled, question, seed))
    )


def _answered(pooled: Pooled, question: Question, seed: int) -> Iterator[Answer]:
    if question.ask == "correlations":
        yield _correlations(pooled, seed)
        return
    axes = pooled.axes
    if question.ask == "survival":
        assert axes.time is not None
        columns: tuple[str, ...] = (axes.time.name,)
    else:
        columns = question.columns(axes.contract)
    for column in columns:
        for by in ("", *question.by):
            yield _MAKERS[question.ask](pooled, question, axes.axis(column), by, seed)


def _answer(
    pooled: Pooled,
    table: Table,
    ask: str,
    axis: Axis,
    by: str,
    rows: Sequence[Row],
    test: Mapping[str, Any] | None = None,
) -> Answer:
    return Answer(
        ask,
        axis.name,
        by,
        tuple(rows),
        table.silos,
        table.lacking,
        test or {},
        table.noise > 0,
        pooled.axes.contract.columns[axis.name].unit or "",
    )


def _by_group(axes: Axes, table: Table, by: str) -> Iterator[tuple[Row, Floats]]:
    """Yield the label of each group with its part of a table; the whole table without groups."""
    if not len(table.silos):
        return
    if not by:
        yield {}, table.values
        return
    group = axes.axis(by)
    for block, values in zip(table.groups, table.values, strict=True):
        yield {by: block_label(group, block)}, values


def block_label(axis: Axis, block: Sequence[int]) -> str:
    """Return what a block of cells is called."""
    cells = [each for each in block if each < axis.size]
    if not cells:
        return "not known"
    known = axis.label(cells)
    return f"{known} or not known" if axis.size in block else known


def _told(values: Floats, noise: float) -> Floats:
    """Return counts as they can be: none below zero."""
    return np.maximum(values, 0.0) if noise else values


def _error(value: float, noise: float) -> Row:
    return {"std_error": value} if noise else {}


def _histogram(pooled: Pooled, question: Question, axis: Axis, by: str, seed: int) -> Answer:
    table = pooled.table(f"bins/{axis.name}" + (f"/by/{by}" if by else ""))
    rows = []
    for label, values in _by_group(pooled.axes, table, by):
        counts = _told(values, table.noise)
        total = counts.sum()
        for block, count in zip(table.blocks, counts, strict=True):
            rows.append(
                {
                    **label,
                    axis.name: block_label(axis, block),
                    **_ends(axis, block),
                    "count": float(count),
                    "share": float(count / total) if total > 0 else math.nan,
                    **_error(table.noise, table.noise),
                }
            )
    test = _chi_square(table, axis) if by and not table.noise and len(table.silos) else {}
    return _answer(pooled, table, "histogram", axis, by, rows, test)


def _ends(axis: Axis, block: Sequence[int]) -> Row:
    if axis.values:
        return {}
    if axis.size in block:
        return {"low": math.nan, "high": math.nan}
    return {"low": axis.ends[block[0]], "high": axis.ends[block[-1] + 1]}


def _chi_square(table: Table, axis: Axis) -> dict[str, Any]:
    """Return Pearson's test that the known values are spread alike in all groups."""
    from scipy.stats import chi2

    known = [place for place, block in enumerate(table.blocks) if axis.size not in block]
    counts = table.values[:, known]
    counts = counts[counts.sum(axis=1) > 0][:, counts.sum(axis=0) > 0]
    freedom = (counts.shape[0] - 1) * (counts.shape[1] - 1)
    if freedom < 1:
        return {}
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return {
        "test": "chi-square",
        "statistic": statistic,
        "freedom": freedom,
        "p": float(chi2.sf(statistic, freedom)),
    }


def _counts(pooled: Pooled, question: Question, axis: Axis, by: str, seed: int) -> Answer:
    table = pooled.table(f"group/{axis.name}")
    counts, rows = _told(table.values, table.noise), []
    for block, count in zip(table.blocks, counts, strict=True):
        rows.append(
            {
                axis.name: block_label(axis, block),
                "count": float(count),
                "share": float(count / counts.sum()) if counts.sum() > 0 else math.nan,
                **_error(table.noise, table.noise),
            }
        )
    return _answer(pooled, table, "counts", axis, "", rows)


def _means(pooled: Pooled, question: Question, axis: Axis, by: str, seed: int) -> Answer:
    table = pooled.table(f"sums/{axis.name}" + (f"/by/{by}" if by else ""))
    low, high = pooled.axes.limits(axis.name)
    center, half = (low + high) / 2, (high - low) / 2
    rows = []
    for label, (count, first, second) in _by_group(pooled.axes, table, by):
        known = count > max(_CLEAR * table.noise, 0.0)
        if not known and not table.noise:  # an empty value of the group
            continue
        mean = first / count if known else math.nan
        square = second / count if known else math.nan
        if table.noise:
            mean = float(np.clip(mean, -1, 1))
            square = float(np.clip(square, mean**2, 1.0))
        variance = max(square - mean**2, 0.0) if known else math.nan
        deviation = math.sqrt(variance * count / (count - 1)) if known and count > 1 else math.nan
        error = deviation / math.sqrt(count) if known else math.nan
        if table.noise and known:
            error = math.hypot(error, table.noise * math.sqrt(1 + mean**2) / count)
        rows.append(
            {
                **label,
                "count": float(max(count, 0.0)),
                "mean": center + half * mean,
                "deviation": half * deviation,
                "std_error": half * error,
                "low": center + half * (mean - Z95 * error),
                "high": center + half * (mean + Z95 * error),
            }
        )
    test = _welch(rows, by) if by and not table.noise else {}
    return _answer(pooled, table, "means", axis, by, rows, test)


def _welch(rows: Sequence[Row], by: str) -> dict[str, Any]:
    """Return Welch's test that the means of all groups are one (Welch 1951, as for two: 1947)."""
    from scipy.stats import f

    used = [each for each in rows if each["count"] > 1 and each["deviation"] > 0]
    if len(used) < 2:
        return {}
    counts = np.array([each["count"] for each in used])
    means = np.array([each["mean"] for each in used])
    weights = counts / np.array([each["deviation"] for each in used]) ** 2
    groups, total = len(used), weights.sum()
    grand = (weights * means).sum() / total
    loss = ((1 - weights / total) ** 2 / (counts - 1)).sum()
    between = (weights * (means - grand) ** 2).sum() / (groups - 1)
    statistic = float(between / (1 + 2 * (groups - 2) * loss / (groups**2 - 1)))
    freedom = float((groups**2 - 1) / (3 * loss))
    return {
        "test": "Welch",
        "statistic": statistic,
        "freedom": f"{groups - 1}, {freedom:.1f}",
        "p": float(f.sf(statistic, groups - 1, freedom)),
    }


def _quantiles(pooled: Pooled, question: Question, axis: Axis, by: str, seed: int) -> Answer:
    table = pooled.table(f"bins/{axis.name}" + (f"/by/{by}" if by else ""))
    rows = []
    known = [place for place, block in enumerate(table.blocks) if axis.size not in block]
    ends = [table.blocks[place] for place in known]
    for label, values in _by_group(pooled.axes, table, by):
        counts = _told(values[known], table.noise)
        if counts.sum() <= _CLEAR * table.noise * math.sqrt(len(counts)):
            continue
        for point in question.at:
            place, share = _at(counts, point)
            low, high = axis.ends[ends[place][0]], axis.ends[ends[place][-1] + 1]

            def again(drawn: Floats, point: float = point) -> float:
                at, part = _at(_told(drawn, table.noise), point)
                first, last = axis.ends[ends[at][0]], axis.ends[ends[at][-1] + 1]
                return first + part * (last - first)

            rows.append(
                {
                    **label,
                    "quantile": point,
                    "about": low + share * (high - low),
                    "low": low,
                    "high": high,
                    "width": high - low,
                    **_error(_spread(again, counts, table.noise, seed), table.noise),
                }
            )
    return _answer(pooled, table, "quantiles", axis, by, rows)


def _at(counts: Floats, point: float) -> tuple[int, float]:
    """Return in which bin a quantile lies, and how far into it where its rows are spread evenly."""
    total = np.cumsum(counts)
    wanted = point * total[-1]
    place = int(np.searchsorted(total, wanted, side="left"))
    place = min(place, len(counts) - 1)
    before = total[place] - counts[place]
    return place, float((wanted - before) / counts[place]) if counts[place] > 0 else 0.5


def _spread(figure: Callable[[Floats], float], values: Floats, noise: float, seed: int) -> float:
    """Return the deviation of a figure over draws of the noise around what was told; 0 without."""
    if not noise:
        return 0.0
    rng = np.random.default_rng(seed)
    found = [figure(values + rng.normal(0, noise, values.shape)) for _ in range(_DRAWS)]
    return float(np.nanstd(found))


def _survival(pooled: Pooled, question: Question, axis: Axis, by: str, seed: int) -> Answer:
    table = pooled.table(TIME + (f"/by/{by}" if by else ""))
    last = axis.size - 1
    known = [place for place, block in enumerate(table.blocks) if axis.size not in block]
    steps = [place for place in known if last not in table.blocks[place]]
    beyond = [place for place in known if last in table.blocks[place]]
    ends = np.array([axis.ends[table.blocks[place][-1] + 1] for place in steps])
    rows: list[Row] = []
    by_group = []
    for label, values in _by_group(pooled.axes, table, by):
        told = _told(values, table.noise)
        after = float(told[beyond].sum())
        events, censored = told[steps, 1], told[steps, 0]
        rows_of = events.sum() + censored.sum() + after
        if rows_of <= _CLEAR * table.noise * math.sqrt(told.size):  # none, or nothing but noise
            continue
        curve = kaplan_meier(events, censored, after)
        by_group.append((label, events, censored, after, median(ends, curve.survival)))
        errors, low, high = curve.std_error, curve.low, curve.high
        if table.noise:
            errors = np.hypot(errors, _curve_spread(values, steps, beyond, table.noise, seed))
            low = np.clip(curve.survival - Z95 * errors, 0.0, 1.0)
            high = np.clip(curve.survival + Z95 * errors, 0.0, 1.0)
        for place, end in enumerate(ends):
            rows.append(
                {
                    **label,
                    axis.name: float(end),
                    "at_risk": float(curve.at_risk[place]),
                    "events": float(events[place]),
                    "censored": float(censored[place]),
                    "survival": float(curve.survival[place]),
                    "std_error": float(errors[place]),
                    "low": float(low[place]),
                    "high": float(high[place]),
                }
            )
    test: dict[str, Any] = {}
    if by and len(by_group) > 1 and not table.noise:
        _, events_by, censored_by, after_by, _ = zip(*by_group, strict=True)
        found = log_rank(np.array(events_by), np.array(censored_by), np.array(after_by))
        test = {
            "test": "log-rank",
            "statistic": found.statistic,
            "freedom": found.freedom,
            "p": found.p,
        }
    for label, *_, half in by_group:
        name = f"median {label[by]}" if by else "median"
        test[name] = half
    return _answer(pooled, table, "survival", axis, by, rows, test)


def _curve_spread(
    values: Floats, steps: list[int], beyond: list[int], noise: float, seed: int
) -> Floats:
    """Return the deviation of a curve over draws of the noise around what was told."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(_DRAWS):
        drawn = np.maximum(values + rng.normal(0, noise, values.shape), 0.0)
        after = float(drawn[beyond].sum())
        found.append(kaplan_meier(drawn[steps, 1], drawn[steps, 0], after).survival)
    spread: Floats = np.std(found, axis=0)
    return spread


def _correlations(pooled: Pooled, seed: int) -> Answer:
    table = pooled.table(CORRELATION)
    names = [each.name for each in pooled.axes.numeric]
    rows: list[Row] = []
    if len(table.silos) and table.values[0, 0] > max(1.0, _CLEAR * table.noise):
        matrix = _matrix(table.values)
        errors = np.zeros_like(matrix)
        if table.noise:
            rng = np.random.default_rng(seed)
            drawn = [_matrix(_drawn(table, rng)) for _ in range(_DRAWS)]
            errors = np.nanstd(drawn, axis=0)
        for first, one in enumerate(names):
            for second in range(first + 1, len(names)):
                rows.append(
                    {
                        "column": one,
                        "other": names[second],
                        "count": float(table.values[0, 0]),
                        "correlation": float(matrix[first, second]),
                        **_error(float(errors[first, second]), table.noise),
                    }
                )
    return Answer(
        "correlations", "", "", tuple(rows), table.silos, table.lacking, {}, table.noise > 0
    )


def _drawn(table: Table, rng: np.random.Generator) -> Floats:
    noise = rng.normal(0, table.noise, table.values.shape)
    drawn: Floats = table.values + np.triu(noise) + np.triu(noise, 1).T
    return drawn


def _matrix(products: Floats) -> Floats:
    """Return Pearson's correlations of sums of products."""
    count = products[0, 0]
    mean = products[0, 1:] / count
    spread = products[1:, 1:] / count - np.outer(mean, mean)
    deviation = np.sqrt(np.maximum(np.diag(spread), 0.0))
    scale = np.outer(deviation, deviation)
    found: Floats = np.where(scale > 0, spread / np.where(scale > 0, scale, 1.0), np.nan)
    return np.clip(found, -1.0, 1.0)


_MAKERS: Mapping[str, Callable[[Pooled, Question, Axis, str, int], Answer]] = {
    "counts": _counts,
    "histogram": _histogram,
    "means": _means,
    "quantiles": _quantiles,
    "survival": _survival,
}
