"""The federation's pages, put together, and who may see them."""

from __future__ import annotations

import contextlib
import hmac
import secrets
from http import HTTPStatus
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response

from consilo.membership.keys import write_private
from consilo.pages.drawing import Drawing
from consilo.pages.guarded import loopback_origins
from consilo.pages.sessions import Session, Sessions
from consilo.pages.site import Form, Shown, Site
from dashboards.logins import Proxy, ProxySessions, Tries, Users, UserSessions, roles_of, said_by
from dashboards.measures import CONTENT_TYPE, Measures
from dashboards.reading.reading import Reading
from dashboards.views.compare import ComparePage
from dashboards.views.federation import FederationPage
from dashboards.views.promotion import PromotionPage
from dashboards.views.run import RunPage
from dashboards.views.runs import RunsPage
from dashboards.views.silo import SiloPage

TEMPLATES = Path(__file__).parent / "templates"
MENU = {"/": "Federation", "/runs": "Runs", "/promotion": "Promotion"}
DOOR = "/login"


def drawing() -> Drawing:
    """Return the templates of the federation's pages; ``d`` in them is ``pieces.html``."""
    made = Drawing(TEMPLATES)
    made.environment.globals["d"] = made.environment.get_template("pieces.html").module
    return made


def site_here(reading: Reading, *, port: int) -> Site:
    """Return the pages as whoever sits at this machine sees them: without a login.

    Args:
        reading: what is read.
        port: at which they are served on the loopback.
    """
    sessions = Sessions(f"consilo_{port}")
    made = Site(
        _name(reading), drawing(), loopback_origins(port), sessions, menu=MENU, open_to_all=True
    )
    return _with_pages(made, reading)


def site_with_login(
    reading: Reading,
    users: Users,
    *,
    port: int,
    origins: frozenset[str],
    tries: Tries | None = None,
) -> Site:
    """Return the pages for others, who say name and password; by TLS only.

    Args:
        reading: what is read.
        users: who may look.
        port: at which they are served.
        origins: how browsers name them.
        tries: counts logins that failed.
    """
    sessions = UserSessions(f"consilo_{port}", users)
    menu = {**MENU, DOOR: "Account"}
    made = Site(_name(reading), drawing(), origins, sessions, menu=menu, door=DOOR)
    counted = Tries() if tries is None else tries

    def door(request: Request) -> Shown:
        wrong = request.query_params.get("wrong") == "1"
        return Shown("login.html", {"title": "Log in", "wrong": wrong, "home": str(reading.home)})

    def log_in(request: Request, form: Form, _: Session) -> str | Response:
        name, password = said_by(form)
        who = request.client.host if request.client is not None else ""
        marks = (f"from {who}", f"as {name[:64]}")
        counted.require(*marks)
        role = users.role_of(name, password)
        if role is None:
            counted.failed(*marks)
            return f"{DOOR}?wrong=1"
        response = RedirectResponse("/", HTTPStatus.SEE_OTHER)
        sessions.begin(response, who=name, roles=roles_of(role))
        return response

    def log_out(request: Request, form: Form, session: Session) -> str:
        sessions.end(request)
        return DOOR

    made.page(DOOR, door, public=True)
    made.form(DOOR, log_in, public=True)
    made.form("/logout", log_out)
    return _with_pages(made, reading, metrics_token(reading.home))


def site_behind(reading: Reading, proxy: Proxy, *, origins: frozenset[str]) -> Site:
    """Return the pages for those whom a proxy knows; nobody else gets in.

    Args:
        reading: what is read.
        proxy: which one is believed.
        origins: how browsers name the proxy.
    """
    made = Site(_name(reading), drawing(), origins, ProxySessions(proxy), menu=MENU)
    return _with_pages(made, reading, metrics_token(reading.home))


def metrics_token(home: Path) -> str:
    """Return what says who asks for metrics from elsewhere: ``metrics.token``, made if missing."""
    path = home / "keys" / "metrics.token"
    if not path.exists():
        with contextlib.suppress(FileExistsError):  # another process was faster
            write_private(path, secrets.token_hex(32).encode())
    return path.read_text(encoding="ascii").strip()


def _name(reading: Reading) -> str:
    return f"Consilo · {reading.home.name}"


def _bearer(request: Request) -> str:
    kind, _, said = request.headers.get("authorization", "").partition(" ")
    return said.strip() if kind.lower() == "bearer" else ""


def _with_pages(made: Site, reading: Reading, token: str = "") -> Site:
    """Add the pages and what machines ask for; with a token, only who says it gets metrics."""
    measures = Measures(reading)
    made.page("/", FederationPage(reading), live=True)
    made.page("/runs", RunsPage(reading))
    made.page("/runs/{name}", RunPage(reading), live=True)
    made.page("/compare", ComparePage(reading), live=True)
    made.page("/promotion", PromotionPage(reading), live=True)
    made.page("/silos/{name}", SiloPage(reading), live=True)

    def healthz(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    def readyz(request: Request) -> Response:
        waits = reading.is_ready()
        if waits:
            return JSONResponse({"ready": False, "waits_for": waits}, 503)
        return JSONResponse({"ready": True, "waits_for": ""})

    def metrics(request: Request) -> Response:
        if token and not hmac.compare_digest(_bearer(request).encode(), token.encode()):
            return PlainTextResponse("say the token of metrics.token\n", 401)
        return Response(measures.text(), media_type=CONTENT_TYPE)

    made.route("/metrics", metrics)
    made.route("/healthz", healthz)
    made.route("/readyz", readyz)
    return made
