"""Wait for a message at the SuperLink's door instead of asking again and again.

Flower's nodes and apps poll. A poll costs the SuperLink about 10 ms of CPU (middleware, SQLite)
whether or not there is anything to fetch. Our SuperLink has a *door* before its application that
knows only one thing: how often something was put in for each silo, and for each run. A caller that
names the count it has seen is held at the door until the count moves or its wait is over. So what
is sent to one silo wakes no other, and a round costs the door as many wake-ups as it has messages.

Nothing else changes: authentication, storage and delivery are Flower's. Flower's own routes are
never held. Who puts a message in by one of them (stock Flower) says at the door neither whom it is
for nor how many there are, so that it wakes its whole side and lets everybody look once more.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

SEEN_HEADER = "x-consilo-seen"
WAIT_HEADER = "x-consilo-wait"
WHO_HEADER = "x-consilo-who"
COUNT_HEADER = "x-consilo-count"
MAX_WAIT_S = 25.0  # below the 30 s after which Flower's HTTP clients give up

SILOS, COORDINATOR = "silos", "coordinator"
TAKE = {"fleet": "/v1/consilo/fleet/take", "runtime": "/v1/consilo/runtime/take"}
_WAITS = {TAKE["fleet"]: SILOS, TAKE["runtime"]: COORDINATOR}
_RINGS = {
    "/v1/runtime/push-messages": SILOS,
    "/v1/fleet/push-messages": COORDINATOR,
}
_CLOSING_LOOK_S = 0.5

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class Bell:
    """Counts what was put in for each of a side, and wakes who waits for it."""

    def __init__(self) -> None:
        self._epoch = secrets.token_hex(4)  # a restarted SuperLink never repeats a count
        self._everybody = {SILOS: 0, COORDINATOR: 0}
        self._counts: dict[tuple[str, str], int] = {}  # one number per node and run
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._looking: asyncio.Task[None] | None = None
        self.closing: Callable[[], bool] = lambda: False

    def count(self, side: str, who: str) -> str:
        """Return the present count of one of a side as an opaque word."""
        return f"{self._epoch}.{self._everybody[side] + self._counts.get((side, who), 0)}"

    def ring(self, side: str, who: str) -> None:
        """Say that one thing was put in for one of a side."""
        self._counts[side, who] = self._counts.get((side, who), 0) + 1
        self._wake(side, who)

    def ring_all(self, side: str) -> None:
        """Say that something was put in for a side, who knows how much for whom."""
        self._everybody[side] += 2  # not one more: whoever takes one thing looks again
        for of, who in list(self._waiting):
            if of == side:
                self._wake(side, who)

    def _wake(self, side: str, who: str) -> None:
        for each in self._waiting.get((side, who), ()):
            each.set()

    async def wait(self, side: str, who: str, seen: str, wait_s: float) -> bool:
        """Wait until the count of one of a side differs from ``seen``; return whether it does."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(wait_s, MAX_WAIT_S)
        moved = asyncio.Event()
        waiting = self._waiting.setdefault((side, who), set())
        waiting.add(moved)
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look())
        try:
            while self.count(side, who) == seen and not self.closing():
                moved.clear()
                try:
                    async with asyncio.timeout_at(deadline):
                        await moved.wait()
                except TimeoutError:
                    break
            return self.count(side, who) != seen
        finally:
            waiting.discard(moved)
            if not waiting and self._waiting.get((side, who)) is waiting:
                del self._waiting[side, who]

    async def _look(self) -> None:
        """While anybody waits, see whether the server closes; one look for all of them."""
        while self._waiting:
            if self.closing():
                for side, who in list(self._waiting):
                    self._wake(side, who)
            await asyncio.sleep(_CLOSING_LOOK_S)


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
            self._bell.ring_all(_RINGS[path])
        else:
            await self._app(scope, receive, send)

    async def _hold(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        side = _WAITS[path]
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        seen, who = headers.get(SEEN_HEADER), headers.get(WHO_HEADER, "")
        if seen is not None:
            wait_s = _seconds(headers.get(WAIT_HEADER, "0"))
            if not await self._bell.wait(side, who, seen, wait_s):
                await _answer_empty(send, self._bell.count(side, who))
                return
        # Read before the application looks: what comes in meanwhile makes the next count differ.
        count = self._bell.count(side, who).encode()

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

    Call `expect` before a pull that may wait. Who takes one message per pull (a node) says `took`
    or `found_nothing` and asks `drained` whether it may wait, or whether more may be there already.

    Args:
        who: the node, or the run; known before the first pull.
    """

    def __init__(self, who: str = "") -> None:
        self.who = who
        self._state = threading.local()

    def expect(self, wait_s: float) -> None:
        """Let the next pull of this thread wait up to ``wait_s`` seconds for something new."""
        self._state.wait_s = wait_s

    def look(self) -> None:
        """Let the next pull of this thread come back at once."""
        self._state.wait_s = 0.0

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
        if not context.rpc_method.endswith("/Take"):
            return call_next(context)
        self.ask(context.request.headers)
        response = call_next(context)
        self.heard(response.headers)
        return response

    def ask(self, headers: MutableMapping[str, str]) -> None:
        """Name who we are and the count seen so far."""
        headers[WHO_HEADER] = self.who
        seen = getattr(self._state, "seen", None)
        wait_s = getattr(self._state, "wait_s", 0.0)
        if seen is not None and wait_s > 0:
            headers[SEEN_HEADER] = seen
            headers[WAIT_HEADER] = f"{wait_s:.3f}"

    def heard(self, headers: Mapping[str, str]) -> None:
        """Remember the count that came back."""
        self._state.before = getattr(self._state, "seen", None)
        self._state.seen = headers.get(COUNT_HEADER)


def _one_more(before: str | None, now: str | None) -> bool:
    if before is None or now is None:
        return False
    (epoch, _, count), (epoch_now, _, count_now) = before.partition("."), now.partition(".")
    return epoch == epoch_now and int(count_now) == int(count) + 1
