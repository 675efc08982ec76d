"""All runs, a page of them at a time; from here several are chosen to be compared."""

from __future__ import annotations

from starlette.requests import Request

from consilo.pages.site import Shown
from dashboards.reading.reading import Reading
from dashboards.views.federation import run_row, running_row

_A_PAGE = 50


class RunsPage:
    """Draws it.

    Args:
        reading: what is read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __call__(self, request: Request) -> Shown:
        """Return the page; ``?job=`` shows those of one job, ``?page=`` older ones."""
        briefs = self._reading.records.briefs()
        jobs = sorted({each.job for each in briefs if each.job})
        job = request.query_params.get("job", "")
        chosen = [each for each in briefs if not job or each.job == job]
        said = request.query_params.get("page", "1")
        last = max(1, -(-len(chosen) // _A_PAGE))
        page = min(max(1, int(said)), last) if said.isdecimal() and len(said) < 6 else 1
        shown = chosen[(page - 1) * _A_PAGE : page * _A_PAGE]
        return Shown(
            "runs.html",
            {
                "title": "Runs",
                "jobs": jobs,
                "job": job,
                "page": page,
                "last": last,
                "number": len(chosen),
                "running": [running_row(self._reading, each) for each in shown if not each.status],
                "rows": [run_row(self._reading, each) for each in shown if each.status],
            },
        )
