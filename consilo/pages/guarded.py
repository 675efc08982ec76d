"""What every request passes and every answer carries: Host, Origin, method, size; the headers.

It stands outermost, so that an answer that something inside made of an error has the headers too.
A page of this machine is reached by whatever a browser here has open: a foreign site that lets its
name resolve to 127.0.0.1 (the Host is another), or that sends a form here (the Origin is another).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # With no-referrer a browser sends "Origin: null" with a form, which would be refused.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Of every answer; without ``unsafe-inline`` no script or style can stand in a page."""

MOST_FORM_BYTES = 64 << 10
READING = frozenset({"GET", "HEAD"})


def loopback_origins(port: int, *, scheme: str = "http") -> frozenset[str]:
    """Return how a browser on this machine may name a page at ``port``."""
    return frozenset(f"{scheme}://{host}:{port}" for host in ("127.0.0.1", "localhost"))


@dataclass(frozen=True)
class Guarded:
    """An application behind the checks.

    Args:
        app: what answers a request that passes.
        origins: by which the page is reached, such as ``http://127.0.0.1:8411``; the ``Host`` of a
            request must be one of theirs, its ``Origin`` one of them.
    """

    app: ASGIApp
    origins: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            raise RuntimeError(f"a page speaks HTTP alone, not {scope['type']}")

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
            await send(message)

        refusal = self.refusal(scope["method"], Headers(scope=scope))
        if refusal is None:
            await self.app(scope, receive, with_headers)
        else:
            status, reason = refusal
            await PlainTextResponse(reason + "\n", status)(scope, receive, with_headers)

    def refusal(self, method: str, headers: Headers) -> tuple[int, str] | None:
        """Return the status and the reason of a refusal; None where a request may pass."""
        hosts = {each.partition("://")[2] for each in self.origins}
        if headers.getlist("host") not in [[each] for each in hosts]:
            return 421, f"refused: this page is reached as {' or '.join(sorted(self.origins))}"
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins:
            return 403, "refused: asked by a page of another site (Origin)"
        if method in READING:
            return None
        if method != "POST":
            return 405, f"refused: {method} is not spoken here"
        if origin is None:
            return 403, "refused: a form says which page it stands on (Origin)"
        length = headers.get("content-length", "")
        if not length.isdecimal() or int(length) > MOST_FORM_BYTES:
            return 413, f"refused: a form says its size, at most {MOST_FORM_BYTES} bytes"
        return None
