"""The pages of `consilo silo page`, put together."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from consilo.config import parse, read_yaml
from consilo.pages.drawing import Drawing
from consilo.pages.guarded import loopback_origins
from consilo.pages.sessions import OneTimeToken, Sessions
from consilo.pages.site import Site
from silos.page.decisions import Decisions
from silos.page.reading import Reading
from silos.page.views import Views
from silos.page.work import Work
from silos.silo_config import SiloConfig

TEMPLATES = Path(__file__).parent / "templates"
MENU = {
    "/": "Overview",
    "/bundles": "Code",
    "/policy": "Policy",
    "/checks": "Checks",
    "/consents": "Consents",
    "/ledger": "Privacy ledger",
    "/runs": "Runs",
    "/log": "Audit log",
    "/keys": "Keys",
}


def made(directory: Path, port: int, *, sessions: Sessions | None = None) -> Site:
    """Return the pages of the silo in ``directory``.

    Args:
        directory: the silo's.
        port: at which they are served, on 127.0.0.1.
        sessions: who looks; made here unless given.

    Raises:
        ConfigInvalid: where ``silo.yaml`` is not valid.
    """
    path = directory / "silo.yaml"
    name = parse(SiloConfig, read_yaml(path), where=str(path)).name
    known = sessions or Sessions(f"consilo_silo_{port}")

    def now() -> datetime:
        return datetime.now(UTC)

    reading, work = Reading(directory, now), Work(now)
    views, decisions = Views(reading, work, now), Decisions(reading, work)
    site = Site(
        f"silo {name}",
        Drawing(TEMPLATES),
        loopback_origins(port),
        known,
        menu=MENU,
        token=OneTimeToken(known),
    )
    site.page("/", views.overview, live=True)
    site.page("/bundles", views.bundles, live=True)
    site.page("/bundles/{digest}", views.bundle)
    site.page("/policy", views.policy)
    site.page("/checks", views.checks, live=True)
    site.page("/consents", views.consents, live=True)
    site.page("/ledger", views.ledger, live=True)
    site.page("/runs", views.runs, live=True)
    site.page("/runs/{run}", views.run, live=True)
    site.page("/log", views.log, live=True)
    site.page("/keys", views.keys, live=True)
    site.form("/bundles/{digest}/decide", decisions.of_bundle)
    site.form("/runs/{run}/vote", decisions.vote)
    site.form("/checks/run", decisions.check)
    site.form("/consents/count", decisions.count)
    return site
