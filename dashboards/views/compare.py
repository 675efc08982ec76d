"""Two to six runs side by side: what was asked, the curves on one axis, each silo's part."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from consilo.pages.pictures.lines import curves
from consilo.pages.pictures.picture import Picture
from consilo.pages.site import Shown
from dashboards.reading.reading import Reading
from dashboards.reading.story import Story, brief_of
from dashboards.reading.tracked import Tracked
from dashboards.views.changed import flat
from dashboards.views.drawn import first_figure
from dashboards.views.federation import STATUS
from flows.registry import names

FEWEST, MOST = 2, 6


class ComparePage:
    """Draws it.

    Args:
        reading: what is read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __call__(self, request: Request) -> Shown:
        """Return the page of ``?run=…&run=…``.

        Raises:
            HTTPException: where these are not two to six runs that are there.
        """
        reading = self._reading
        chosen = list(dict.fromkeys(request.query_params.getlist("run")))
        if not FEWEST <= len(chosen) <= MOST:
            raise HTTPException(400, f"choose {FEWEST} to {MOST} runs; {len(chosen)} are chosen")
        stories = [_known(reading.records.story(name), name) for name in chosen]
        questions = [
            reading.tracking.run(each.name, each.job_name, is_over=each.is_over) for each in stories
        ]
        reading.freshen(*questions)
        tracked = [each.told.value for each in questions]
        errors = sorted({each.told.error for each in questions if each.told.error})
        settled = all(q.told.is_known or q.told.error for q in questions) and all(
            each.is_over for each in stories
        )
        figure = first_figure(stories[-1], tracked[-1])
        values: dict[str, Any] = {
            "title": f"{len(stories)} runs side by side",
            "runs": [
                (each.name, each.status or "runs", STATUS.get(each.status, "wait"))
                for each in stories
            ],
            "summary": _summary(stories),
            "settings": _settings(stories),
            "curves": _curves(stories, tracked),
            "figure": figure,
            "silos": _silos(stories, tracked, figure),
            "error": "; ".join(errors),
            "asking": not settled and not errors,
        }
        return Shown("compare.html", values | ({"live": ""} if settled else {}))


def _known(story: Story | None, name: str) -> Story:
    if story is None:
        raise HTTPException(404, f"there is no run '{name}' here")
    return story


def _summary(stories: list[Story]) -> list[tuple[str, ...]]:
    briefs = [brief_of(each) for each in stories]
    rows = [
        ("began", *(each.began[:19].replace("T", " ") for each in briefs)),
        ("rounds", *(f"{each.done} of {each.planned}" for each in briefs)),
        ("silos that trained", *(f"{len(b.trained)} of {len(b.asked)}" for b in briefs)),
        ("ε, at most", *(_number(max(b.epsilon.values(), default=None)) for b in briefs)),
        ("seconds", *(f"{sum(each.seconds.values()):.0f}" for each in briefs)),
    ]
    shown = list(dict.fromkeys(name for each in stories for name in each.metrics))
    rows += [(name, *(_number(each.metrics.get(name)) for each in stories)) for name in shown[:12]]
    return rows


def _settings(stories: list[Story]) -> list[tuple[str, ...]]:
    """Return the settings that are not the same in all of them."""
    told = [dict(flat(each.job)) for each in stories]
    for each, story in zip(told, stories, strict=True):
        each["contract's digest"] = str(story.opened.get("contract_digest", ""))[:12]
        each["code"] = str(story.opened.get("bundle", ""))[:12]
    every = list(dict.fromkeys(name for each in told for name in each))
    return [
        (name, *(each.get(name, "–") for each in told))
        for name in every
        if len({each.get(name) for each in told}) > 1
    ]


def _curves(stories: list[Story], tracked: list[Tracked | None]) -> list[Picture]:
    keys = list(dict.fromkeys(key for each in tracked if each for key in each.curves))
    found = []
    for key in keys:
        series = {
            story.name: each.curves[key]
            for story, each in zip(stories, tracked, strict=True)
            if each is not None and len(each.curves.get(key, ())) > 1
        }
        if series:
            figure = key.removeprefix(names.global_metric(""))
            found.append(curves(f"{figure}, over all silos", series))
    return found


def _silos(
    stories: list[Story], tracked: list[Tracked | None], figure: str
) -> list[tuple[str, ...]]:
    """Return each silo's rounds and figure in each run."""
    every = sorted({silo for each in stories for silo in each.asked})
    rows = []
    for silo in every:
        cells = []
        for story, each in zip(stories, tracked, strict=True):
            if silo not in story.asked:
                cells.append("not asked")
                continue
            took = sum(
                parts[silo].outcome == "trained" for parts in story.rounds.values() if silo in parts
            )
            own = None if each is None else each.of_silo(silo).get(figure)
            cells.append(f"{took} rounds" + ("" if own is None else f", {own:.4f}"))
        rows.append((silo, *cells))
    return rows


def _number(value: float | None) -> str:
    return "–" if value is None or isinstance(value, str) else f"{value:.4g}"
