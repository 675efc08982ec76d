"""One run, while it goes on and when it is over."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request

from consilo.machine.leases import holder
from consilo.pages.drawing import in_bytes
from consilo.pages.site import Shown
from dashboards.reading.asked import Asked
from dashboards.reading.reading import Reading
from dashboards.reading.records import Checked
from dashboards.reading.story import Story, brief_of, kind_of, phases
from dashboards.reading.tracked import Tracked
from dashboards.views.changed import run_changes
from dashboards.views.drawn import (
    absences,
    contracts,
    curves_of,
    first_figure,
    gains,
    heat,
    metrics_of,
    silo_rows,
)
from dashboards.views.federation import STATUS
from dashboards.views.promotion import gain_of_votes
from dashboards.views.standing import pace, sentence, under_way
from flows.services.owning import OWNER


class RunPage:
    """Draws it.

    Args:
        reading: what is read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verifying")
        self._checks: dict[str, Asked[Checked | None]] = {}

    def __call__(self, request: Request) -> Shown:
        """Return the page.

        Raises:
            HTTPException: where there is no such run.
        """
        reading, name = self._reading, str(request.path_params["name"])
        story = reading.records.story(name)
        if story is None:
            raise HTTPException(404, f"there is no run '{name}' in {reading.home / 'runs'}")
        tracked = reading.tracking.run(name, story.job_name, is_over=story.is_over)
        # The verifier computes for a third of a second: it begins when the page is there.
        is_update = request.url.path.startswith("/live/")
        check = self._check(story) if is_update else None
        reading.freshen(tracked, *([check] if check is not None else []))
        told = tracked.told
        checked = reading.records.known_check(name) if story.is_over else None
        settled = story.is_over and checked is not None and (told.is_known or bool(told.error))
        values = {
            "title": name,
            "story": story,
            "kind": STATUS.get(story.status, "wait"),
            "word": story.status or self._going(story),
            "sentence": sentence(story),
            "facts": self._facts(story, told.value),
            "checked": checked,
            "heat": heat(story) if story.rounds else None,
            "absences": absences(story),
            "phases": sorted(phases(story).items(), key=lambda each: -each[1]),
            "now": under_way(
                story, self._reading.records.live(name), self._reading.now().timestamp()
            )
            if not story.is_over and self._reading.records.is_owned(name)
            else None,
            "pace": pace(story, self._reading.now()) if not story.is_over else None,
            "silos": silo_rows(story, told.value),
            "figure": first_figure(story, told.value),
            "curves": curves_of(told.value),
            "gains": gains(story, told.value),
            "voted": gain_of_votes(reading.decided.of_run(name)),
            "tracked_error": told.error,
            "tracked_known": told.is_known,
            "contracts": contracts(story.verdicts),
            "metrics": metrics_of(story),
            "changes": self._changes(story),
            "command": f"consilo job run … --resume {name} --dir {reading.home}"
            if not story.is_over
            else "",
            "prefect": self._prefect(story),
            "mlflow": told.value.url if told.value is not None else "",
            "home": str(reading.home),
        }
        return Shown("run.html", values | ({"live": ""} if settled else {}))

    def _check(self, story: Story) -> Asked[Checked | None] | None:
        """Return the verifier's question about a record; None where it is answered, or open."""
        if not story.is_over or self._reading.records.known_check(story.name) is not None:
            return None
        name = story.name
        records = self._reading.records
        asked = Asked(lambda: records.checked(name), fresh_s=1.0, pool=self._pool)
        return self._checks.setdefault(name, asked)

    def _going(self, story: Story) -> str:
        if not self._reading.records.is_owned(story.name):
            return "cut off"
        return "waits" if story.waiting else "runs"

    def _facts(self, story: Story, tracked: Tracked | None) -> list[tuple[str, Any]]:
        brief = brief_of(story)
        spent = max(brief.epsilon.values(), default=None)
        took = sum(part.seconds for parts in story.rounds.values() for part in parts.values())
        found: list[tuple[str, Any]] = [
            ("job", f"{story.job_name} ({kind_of(story)})"),
            ("contract", story.contract),
            ("rounds", f"{brief.done} of {story.planned}" if story.planned else "none"),
            ("silos that trained", f"{len(brief.trained)} of {len(story.asked)}"),
        ]
        if spent is not None:
            delta = (story.job.get("privacy") or {}).get("delta")
            at = f" at δ = {delta:g}" if isinstance(delta, float) else ""
            found.append(("ε spent, at most", f"{spent:.4g}{at}"))
        found += [
            ("to the silos", in_bytes(brief.bytes_down)),
            ("from the silos", in_bytes(brief.bytes_up)),
            ("seconds of all answers", f"{took:,.0f}"),
        ]
        if "version" in story.model:
            found.append(("model", f"{story.model['name']} version {story.model['version']}"))
        if story.interruptions:
            found.append(("interruptions", story.interruptions))
        return found

    def _changes(self, story: Story) -> dict[str, Any]:
        """Return what differs from the run of this job before; nothing where there is none."""
        earlier = [
            each
            for each in self._reading.records.briefs()
            if each.job == story.job_name and each.began < story.began and each.status
        ]
        if not earlier:
            return {"before": "", "rows": []}
        before = self._reading.records.story(earlier[0].name)
        rows = [] if before is None else run_changes(before, story)
        return {"before": earlier[0].name, "rows": rows}

    def _prefect(self, story: Story) -> str:
        addresses = self._reading.addresses
        owner = holder(story.path.with_name(OWNER)).about.get("flow_run", "")
        if addresses is None or not owner:
            return ""
        return f"{addresses.prefect_ui}/runs/flow-run/{owner}"
