"""Wait for a message at the SuperLink's door instead of asking again and again.

Flower's nodes and apps poll. A poll costs the SuperLink about 10 ms of CPU (middleware, SQLite)
whether or not there is anything to fetch. Our SuperLink has a *door* before its application that
knows only one thing: how often something was put in for silos and for the coordinator. A caller
that names the count it has seen is held at the door until the count moves or its wait is over.

Nothing else changes: authentication, storage and delivery are Flower's. Callers that do not name a
count (stock Flower) pass straight through, and a caller at a stock SuperLink gets no count back and
polls with an adaptive back-off.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

SEEN_HEADER = "x-consilo-seen"
WAIT_HEADER = "x-consilo-wait"
COUNT_HEADER = "x-consilo-count"
MAX_WAIT_S = 25.0  # below the 30 s after which Flower's HTTP clients give up

_SILOS, _COORDINATOR = "silos", "coordinator"
_WAITS = {
    "/v1/fleet/pull-messages": _SILOS,
    "/v1/runtime/pull-messages": _COORDINATOR,
}
_RINGS = {
    "/v1/runtime/push-messages": _SILOS,
    "/v1/fleet/push-messages": _COORDINATOR,
}
# Nothing new for a silo: an empty PullMessagesResponse is zero bytes of protobuf.
_ANSWERED_AT_THE_DOOR = {"/v1/fleet/pull-messages"}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Bell:
    """Counts what was put in, and wakes who waits for it."""

    def __init__(self) -> None:
        self._epoch = secrets.token_hex(4)  # a restarted SuperLink never repeats a count
        self._counts = {_SILOS: 0, _COORDINATOR: 0}
        self._changed = {_SILOS: asyncio.Event(), _COORDINATOR: asyncio.Event()}
        self.closing: Callable[[], bool] = lambda: False

    def count(self, side: str) -> str:
        """Return the present count as an opaque word."""
        return f"{self._epoch}.{self._counts[side]}"

    def ring(self, side: str) -> None:
        """Say that something was put in for a side."""
        self._counts[side] += 1
        self._changed[side].set()
        self._changed[side] = asyncio.Event()

    async def wait(self, side: str, seen: str, wait_s: float) -> bool:
        """Wait until the count differs from ``seen``; return whether it does."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait_s, MAX_WAIT_S)
        while self.count(side) == seen:
            left_s = deadline - loop.time()
            if left_s <= 0 or self.closing():
                return False
            try:
                async with asyncio.timeout(min(left_s, 0.5)):
                    await self._changed[side].wait()
            except TimeoutError:
                continue
        return True


class Door:
    """ASGI middleware around the SuperLink's application."""

    def __init__(self, app: Application, bell: Bell) -> None:
        self._app = app
        self._bell = bell

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hold, pass on, and ring."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path in _WAITS:
            await self._hold(path, scope, receive, send)
        elif scope["type"] == "http" and path in _RINGS:
            await self._app(scope, receive, send)
            self._bell.ring(_RINGS[path])
        else:
            await self._app(scope, receive, send)

    async def _hold(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        side = _WAITS[path]
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        seen = headers.get(SEEN_HEADER)
        if seen is not None:
            moved = await self._bell.wait(side, seen, _seconds(headers.get(WAIT_HEADER, "0")))
            if not moved and path in _ANSWERED_AT_THE_DOOR:
                await _answer_empty(send, self._bell.count(side))
                return
        # Read before the application looks: what comes in meanwhile makes the next count differ.
        count = self._bell.count(side).encode()

        async def send_with_count(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (COUNT_HEADER.encode(), count)]
            await send(message)

        await self._app(scope, receive, send_with_count)


class Only:
    """A middleware that acts on one API, and costs the others nothing.

    Every layer of Flower's costs each request about 0.7 ms of CPU and, for those that have nothing
    to do with it, does nothing: their own first line asks for the same prefix.
    """

    def __init__(self, app: Application, prefix: str, layer: Application) -> None:
        self._app = app
        self._prefix = prefix
        self._layer = layer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass through the layer, or around it."""
        around = scope["type"] == "http" and not scope["path"].startswith(self._prefix)
        await (self._app if around else self._layer)(scope, receive, send)


async def _answer_empty(send: Send, count: str) -> None:
    headers = [
        (b"content-type", b"application/x-protobuf"),
        (b"content-length", b"0"),
        (COUNT_HEADER.encode(), count.encode()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _seconds(text: str) -> float:
    try:
        return max(0.0, min(MAX_WAIT_S, float(text)))
    except ValueError:
        return 0.0


class Waiter:
    """The caller's side: an interceptor for Flower's HTTP clients, one state per thread.

    Call `expect` before a pull that may wait; after it, `held` says whether the other side has a
    door. Who takes one message per pull (a node) says `took` or `found_nothing` and asks `drained`
    whether it may wait, or whether more may be there already.
    """

    def __init__(self) -> None:
        self._state = threading.local()

    def expect(self, wait_s: float) -> None:
        """Let the next pull of this thread wait up to ``wait_s`` seconds for something new."""
        self._state.wait_s = wait_s

    def look(self) -> None:
        """Let the next pull of this thread come back at once."""
        self._state.wait_s = 0.0

    @property
    def held(self) -> bool:
        """Whether the other side knows this protocol."""
        return getattr(self._state, "seen", None) is not None

    @property
    def drained(self) -> bool:
        """Whether everything that was put in before the last pull has been taken."""
        return getattr(self._state, "drained", False)

    def found_nothing(self) -> None:
        """Say that the last pull found nothing."""
        self._state.drained = True

    def took(self) -> None:
        """Say that the last pull took one message.

        If exactly one thing was put in since there was nothing, nothing is left.
        """
        before, now = getattr(self._state, "before", None), getattr(self._state, "seen", None)
        self._state.drained = self.drained and _one_more(before, now)

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        """Name the count seen so far, and remember the one that comes back."""
        if not context.rpc_method.endswith("/PullMessages"):
            return call_next(context)
        seen = getattr(self._state, "seen", None)
        wait_s = getattr(self._state, "wait_s", 0.0)
        if seen is not None and wait_s > 0:
            context.request.headers[SEEN_HEADER] = seen
            context.request.headers[WAIT_HEADER] = f"{wait_s:.3f}"
        response = call_next(context)
        self._state.before, self._state.seen = seen, response.headers.get(COUNT_HEADER)
        return response


def _one_more(before: str | None, now: str | None) -> bool:
    if before is None or now is None:
        return False
    (epoch, _, count), (epoch_now, _, count_now) = before.partition("."), now.partition(".")
    return epoch == epoch_now and int(count_now) == int(count) + 1
