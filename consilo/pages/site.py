"""A site of pages: who may look, pages that are read, forms that change something."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp

from consilo.errors import ConsiloError
from consilo.pages.drawing import STATIC, Drawing
from consilo.pages.events import INTERVAL_S, MOST_STREAMS, changes
from consilo.pages.guarded import MOST_FORM_BYTES, Guarded
from consilo.pages.sessions import OneTimeToken, Session, Sessions

Form = Mapping[str, str]
_LIVE = "/live"


@dataclass(frozen=True)
class Shown:
    """What a page shows.

    Args:
        template: its file.
        values: what that draws.
        status: of the answer.
    """

    template: str
    values: Mapping[str, Any]
    status: int = 200


Page = Callable[[Request], Shown | Response]
"""Reads, in a thread; it changes nothing."""
Change = Callable[[Request, Form, Session], str | Response]
"""Does what a form says, in a thread; returns the address of the page that is shown then, or an
answer of its own, such as one that carries a cookie."""


@dataclass
class Site:
    """The pages of one process.

    Args:
        name: what it is, such as ``silo north``; in the title of every page.
        drawing: its templates.
        origins: how a browser may name it (`consilo.pages.guarded`).
        sessions: who looks; `Sessions.of` a request must be somebody, or the door is shown.
        menu: address → word, for the navigation.
        token: what lets the first one in; None where a page has another door, see ``door``.
        door: an address that everybody may see, where those without a session are sent to.
        open_to_all: whether who has no session is given one, so that their forms have a token.
    """

    name: str
    drawing: Drawing
    origins: frozenset[str]
    sessions: Sessions
    menu: Mapping[str, str] = field(default_factory=dict)
    token: OneTimeToken | None = None
    door: str = ""
    open_to_all: bool = False
    _routes: list[Route] = field(default_factory=list)
    _streams: int = 0

    def page(self, path: str, page: Page, *, live: bool = False, public: bool = False) -> None:
        """Add a page.

        Args:
            path: its address, in Starlette's form.
            page: what draws it.
            live: its parts (``{% block part_… %}``) are drawn anew while it is open.
            public: seen without a session.
        """

        async def answer(request: Request) -> Response:
            session, fresh = self._who(request)
            if session is None and not public:
                return self._outside(request)
            shown = await run_in_threadpool(page, request)
            if isinstance(shown, Response):
                return shown
            response = self._drawn(request, shown, session, live=live)
            return self._carrying(response, fresh)

        self._routes.append(Route(path, answer, methods=["GET"]))
        if live:
            self._routes.append(Route(_LIVE + path, self._stream(page), methods=["GET"]))

    def form(self, path: str, change: Change, *, public: bool = False) -> None:
        """Add what a form is sent to; it is refused without the token of its session.

        Args:
            path: its address.
            change: what does it.
            public: sent without a session, as a login is; ``change`` gets an empty one.
        """

        async def answer(request: Request) -> Response:
            session, _ = self._who(request)
            if session is None:
                if not public:
                    return self._outside(request)
                session = Session("", frozenset(), "", 0.0)
            form = await _form(request)
            if not public and not session.wrote(form.get("csrf", "")):
                raise HTTPException(403, "this form was not drawn for you; open the page anew")
            target = await run_in_threadpool(change, request, form, session)
            if isinstance(target, Response):
                return target
            return RedirectResponse(target, HTTPStatus.SEE_OTHER)

        self._routes.append(Route(path, answer, methods=["POST"]))

    def route(self, path: str, answer: Callable[[Request], Any]) -> None:
        """Add an address for machines, such as ``/metrics``: GET, and nobody is asked who it is."""
        self._routes.append(Route(path, answer, methods=["GET"]))

    def application(self) -> ASGIApp:
        """Return it all, guarded."""
        app = Starlette(
            routes=[
                Route("/static/{name}", _static, methods=["GET"]),
                *([Route("/enter", self._enter, methods=["GET"])] if self.token else []),
                *self._routes,
            ],
            exception_handlers={
                HTTPException: self._failed,
                ConsiloError: self._failed,
            },
        )
        app.router.redirect_slashes = False
        return Guarded(app, self.origins)

    def _who(self, request: Request) -> tuple[Session | None, Response | None]:
        """Return who asks and, where a session began just now, a response with its cookie."""
        session = self.sessions.of(request)
        if session is not None or not self.open_to_all:
            return session, None
        fresh = Response()
        return self.sessions.begin(fresh, roles=frozenset()), fresh

    def _carrying(self, response: Response, fresh: Response | None) -> Response:
        if fresh is not None:
            response.headers.append("set-cookie", fresh.headers["set-cookie"])
        return response

    def _outside(self, request: Request) -> Response:
        if self.door:
            return RedirectResponse(self.door, HTTPStatus.SEE_OTHER)
        said = (
            "This page is for whoever started it. Open the address that the command printed; it "
            "opens once. If it was opened before, stop the command and start it again."
        )
        return self._drawn(request, Shown("said.html", {"title": "Not open", "said": said}, 401))

    async def _enter(self, request: Request) -> Response:
        # The next page is asked for by this one: a redirect would still be the foreign site's,
        # where the address was clicked there, and the cookie would not be sent with it.
        shown = Shown("entered.html", {"title": "Come in"})
        response = self._drawn(request, shown)
        offered = request.query_params.get("token", "")
        if self.token is None or not self.token.take(offered, response):
            return self._outside(request)
        return response

    def _drawn(
        self, request: Request, shown: Shown, session: Session | None = None, *, live: bool = False
    ) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        address = _LIVE + request.url.path + query if live else ""
        values = {**self._common(request, session), "live": address, **shown.values}
        return HTMLResponse(self.drawing.page(shown.template, values), shown.status)

    def _common(self, request: Request, session: Session | None) -> dict[str, Any]:
        """Return what every template may name, besides what its page gives it."""
        return {
            "site": self.name,
            "menu": self.menu if session is not None else {},
            "here": request.url.path.removeprefix(_LIVE),
            "session": session,
            "csrf": "" if session is None else session.csrf,
        }

    def _stream(self, page: Page) -> Callable[[Request], Any]:
        async def answer(request: Request) -> Response:
            session, _ = self._who(request)
            if session is None:
                raise HTTPException(401, "no session")
            if self._streams >= MOST_STREAMS:
                raise HTTPException(503, f"{MOST_STREAMS} pages are open at once; close some")

            def draw() -> Mapping[str, str] | None:
                still = self.open_to_all or self.sessions.of(request) is not None
                shown = page(request) if still else None
                if not isinstance(shown, Shown):
                    return None
                values = {**self._common(request, session), **shown.values}
                return self.drawing.parts(shown.template, values)

            async def events() -> AsyncIterator[bytes]:
                self._streams += 1
                try:
                    async for each in changes(draw, interval_s=INTERVAL_S):
                        yield each
                finally:
                    self._streams -= 1

            return StreamingResponse(events(), media_type="text/event-stream")

        return answer

    def _failed(self, request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            status, said = error.status_code, error.detail
        else:
            status, said = HTTPStatus.CONFLICT, str(error)
        title = HTTPStatus(status).phrase
        shown = Shown("said.html", {"title": title, "said": said}, int(status))
        return self._drawn(request, shown, self.sessions.of(request))


async def _form(request: Request) -> dict[str, str]:
    """Return the fields of a form; of a field that is said twice, none is taken.

    ``request.form()`` would need another package for what the standard library reads.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip()
    if kind != "application/x-www-form-urlencoded":
        raise HTTPException(415, "a form is sent as application/x-www-form-urlencoded")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_FORM_BYTES:
            raise HTTPException(413, f"a form has at most {MOST_FORM_BYTES} bytes")
    try:
        pairs = parse_qsl(
            body.decode(), keep_blank_values=True, strict_parsing=bool(body), max_num_fields=100
        )
    except ValueError:
        raise HTTPException(400, "this is no form") from None
    if len(dict(pairs)) < len(pairs):
        raise HTTPException(400, "a field is said twice")
    return dict(pairs)


async def _static(request: Request) -> Response:
    path = STATIC.get(request.path_params["name"])
    if path is None:
        raise HTTPException(404, "no such file")
    kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    lasting = {"cache-control": "public, max-age=31536000, immutable"}
    return Response(path.read_bytes(), media_type=kind, headers=lasting)
