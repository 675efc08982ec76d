"""The federation's pages, put together."""

from __future__ import annotations

from pathlib import Path

from consilo.pages.drawing import Drawing
from consilo.pages.guarded import loopback_origins
from consilo.pages.sessions import Sessions
from consilo.pages.site import Site
from dashboards.reading.reading import Reading
from dashboards.views.federation import FederationPage
from dashboards.views.run import RunPage
from dashboards.views.runs import RunsPage
from dashboards.views.silo import SiloPage

TEMPLATES = Path(__file__).parent / "templates"
MENU = {"/": "Federation", "/runs": "Runs"}


def drawing() -> Drawing:
    """Return the templates of the federation's pages; ``d`` in them is ``pieces.html``."""
    made = Drawing(TEMPLATES)
    made.environment.globals["d"] = made.environment.get_template("pieces.html").module
    return made


def site(reading: Reading, *, port: int) -> Site:
    """Return the pages as whoever sits at this machine sees them: without a login.

    Args:
        reading: what is read.
        port: at which they are served on the loopback.
    """
    made = Site(
        f"Consilo · {reading.home.name}",
        drawing(),
        loopback_origins(port),
        Sessions(f"consilo_{port}"),
        menu=MENU,
        open_to_all=True,
    )
    made.page("/", FederationPage(reading), live=True)
    made.page("/runs", RunsPage(reading))
    made.page("/runs/{name}", RunPage(reading), live=True)
    made.page("/silos/{name}", SiloPage(reading), live=True)
    return made
