"""What changes of an open page, as server-sent events: the page's parts, when they differ.

Each stream draws its parts again every so often, from what is cached, and sends those whose text is
another. So whatever changes what a page shows is seen within the interval, and no page needs to
know where its figures come from.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping

from starlette.concurrency import run_in_threadpool

INTERVAL_S = 1.0
MOST_STREAMS = 32
_ALIVE_S = 15.0


def event(name: str, value: object) -> bytes:
    r"""Return one event on the wire.

    >>> event("part", {"id": "silos", "html": "<p>a\nb</p>"})
    b'event: part\ndata: {"id": "silos", "html": "<p>a\\nb</p>"}\n\n'
    """
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()


async def changes(
    draw: Callable[[], Mapping[str, str] | None],
    *,
    interval_s: float = INTERVAL_S,
    sleep: Callable[[float], object] | None = None,
) -> AsyncIterator[bytes]:
    """Yield an event ``part`` for each part that changed; all of them at first.

    Args:
        draw: returns id → HTML, in a thread; None ends the stream, with an event ``end``.
        interval_s: between two drawings.
        sleep: in place of ``asyncio.sleep``; a coroutine function.
    """
    wait = asyncio.sleep if sleep is None else sleep
    sent: dict[str, str] = {}
    quiet_s = 0.0
    while True:
        drawn = await run_in_threadpool(draw)
        if drawn is None:
            yield event("end", {})
            return
        changed = {name: html for name, html in drawn.items() if sent.get(name) != html}
        for name, html in changed.items():
            yield event("part", {"id": name, "html": html})
        sent |= changed
        quiet_s = 0.0 if changed else quiet_s + interval_s
        if quiet_s >= _ALIVE_S:
            yield b": still here\n\n"
            quiet_s = 0.0
        await wait(interval_s)  # type: ignore[misc]
