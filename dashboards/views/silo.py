"""One silo: how it stands, its contract checks, its part in runs, its keys."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.requests import Request

from consilo.pages.site import Shown
from dashboards.reading.reading import Reading
from dashboards.views.federation import silo_row

_MOST_RUNS = 20


class SiloPage:
    """Draws it.

    Args:
        reading: what is read.
    """

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def __call__(self, request: Request) -> Shown:
        """Return the page.

        Raises:
            HTTPException: where there is no such silo.
        """
        reading, name = self._reading, str(request.path_params["name"])
        reading.freshen()
        card = next((each for each in reading.silos() if each.name == name), None)
        if card is None:
            raise HTTPException(404, f"there is no silo '{name}' in this federation")
        runs = [each for each in reading.records.briefs() if name in each.asked][:_MOST_RUNS]
        return Shown(
            "silo.html",
            {
                "title": name,
                "row": silo_row(card),
                "card": card,
                "runs": [
                    (
                        each.name,
                        each.status or "runs",
                        "trained" if name in each.trained else "did not train",
                        each.epsilon.get(name),
                        ": ".join(filter(None, each.faults.get(name, ("", "")))),
                    )
                    for each in runs
                ],
                "calendar": [each for each in reading.members.calendar() if each[1] == name],
                "home": str(reading.home),
            },
        )
