"""The answers to people's questions, with the run that found them: a table, a page, files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from consilo.errors import RunFailed
from consilo.horizontal.asked.answers import Answer, Answers
from consilo.machine.files import write_atomic
from consilo.pages.drawing import STATIC, Drawing
from consilo.pages.pictures.bars import Bar, bars
from consilo.pages.pictures.lines import curves
from consilo.pages.pictures.picture import Picture, told
from consilo.runs.outcome import RunResult, fresh

if TYPE_CHECKING:
    import pandas as pd

HTML, JSON, CSV = "analytics.html", "analytics.json", "analytics.csv"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Report:
    """What people asked, and what was answered.

    Args:
        answers: one a question and column.
        status: of the run: complete, or degraded where a silo was missing.
        sentence: how it ended, in words.
        result: the run; None where the answers come from a summary.
    """

    answers: Answers
    status: str
    sentence: str
    result: RunResult | None = None

    @classmethod
    def of(cls, result: RunResult) -> Report:
        """Return the report of a run.

        Raises:
            RunFailed: where it has no answers, with its reason.
        """
        if "answers" not in result.extra:
            raise RunFailed(result.reason or "the run asked no questions")
        found = Answers.from_json(result.extra["answers"])
        return cls(found, result.status, result.sentence, result)

    @classmethod
    def of_summary(cls, summary: Mapping[str, Any]) -> Report | None:
        """Return the report of a run's summary; None where it has no answers."""
        if not summary.get("answers"):
            return None
        found = Answers.from_json(summary["answers"])
        return cls(found, str(summary["status"]), str(summary["sentence"]))

    @property
    def frame(self) -> pd.DataFrame:
        """All answers below each other: see `Answers.frame`."""
        return self.answers.frame

    def html(self) -> str:
        """Return the report as one page: no script, no other file, every picture with its numbers.

        It holds what was told of the silos' rows, and nothing else of them.
        """
        about = dict(self.answers.about)
        values = {
            "title": f"{about.get('contract', '')}: what the silos' rows say",
            "style": Markup(STATIC["page.css"].read_text()),  # our own file
            "sentence": self.sentence,
            "status": self.status,
            "facts": list(_facts(about)),
            "noisy": bool(about.get("noisy")),
            "epsilon": about.get("epsilon"),
            "delta": about.get("delta"),
            "absent": list(dict(about.get("absent") or {}).items()),
            "answers": [_shown(each) for each in self.answers],
        }
        return Drawing(_HERE / "templates").page("asked.html", values)

    def save(self, directory: Path | str) -> dict[str, str]:
        """Write page, table and plain values to a fresh directory; return where each is.

        Raises:
            ConfigInvalid: where the directory holds something already.
        """
        place = fresh(directory)
        place.mkdir(parents=True, exist_ok=True)
        for name, content in self.files().items():
            write_atomic(place / name, content, mode=0o644)
        return {name.rpartition(".")[2]: str(place / name) for name in (HTML, JSON, CSV)}

    def files(self) -> dict[str, bytes]:
        """Return name → content of page, plain values and table."""
        return {
            HTML: self.html().encode(),
            JSON: json.dumps(self.answers.to_json(), indent=1).encode(),
            CSV: self.frame.to_csv(index=False).encode(),
        }

    def _repr_html_(self) -> str:
        return str(self.frame.to_html(index=False))


def _facts(about: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    unit = str(about.get("unit", "rows"))
    rows = dict(about.get("rows") or {})
    yield "contract", str(about.get("contract", ""))
    yield "job", str(about.get("job", ""))
    yield "purpose", str(about.get("purpose", ""))
    yield "run", str(about.get("run", ""))
    yield unit, f"{sum(rows.values())} in {len(rows)} silos"
    for name, count in rows.items():
        yield name, f"{count} {unit}"


def _shown(answer: Answer) -> dict[str, Any]:
    rows = list(answer.rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    numbers = [
        place
        for place, key in enumerate(columns)
        if any(isinstance(row.get(key), int | float) for row in rows)
    ]
    unit = f" in {answer.unit}" if answer.unit else ""
    return {
        "title": answer.title + unit,
        "columns": [key.replace("_", " ") for key in columns],
        "rows": [[_cell(row.get(key)) for key in columns] for row in rows],
        "numeric": numbers,
        "picture": _picture(answer),
        "test": [(key, _cell(value)) for key, value in answer.test.items()],
        "lacking": list(answer.lacking.items()),
        "silos": len(answer.silos),
        "noisy": answer.is_noisy,
    }


def _cell(value: Any) -> str:
    return told(value if value is None or isinstance(value, str | int | float) else str(value))


def _number(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None


def _picture(answer: Answer) -> Picture | None:
    if not answer.rows or answer.ask == "correlations":
        return None
    if answer.ask == "survival":
        return _curves(answer)
    value, label = {
        "counts": ("count", answer.column),
        "histogram": ("share" if answer.by else "count", answer.column),
        "means": ("mean", answer.by),
        "quantiles": ("about", "quantile"),
    }[answer.ask]
    interval = answer.ask in ("means", "quantiles")
    found = [
        Bar(
            " ".join(str(row[key]) for key in dict.fromkeys((answer.by, label)) if key in row)
            or answer.column,
            _number(row[value]),
            _number(row["low"]) if interval else None,
            _number(row["high"]) if interval else None,
        )
        for row in answer.rows
    ]
    return bars(answer.title, found, across=value, from_zero=not interval)


def _curves(answer: Answer) -> Picture:
    series: dict[str, list[tuple[float, float]]] = {}
    for row in answer.rows:
        points = series.setdefault(str(row.get(answer.by, "all rows")), [(0.0, 1.0)])
        points += [(row[answer.column], points[-1][1]), (row[answer.column], row["survival"])]
    title = f"{answer.title}: share without the event"
    return curves(title, series, across=answer.column, from_zero=True)
