"""A page that is open is told of what changed, once, and of its end."""

from __future__ import annotations

import asyncio
import json

from consilo.pages.events import changes


def test_only_what_changed_is_sent() -> None:
    drawn = [{"a": "1", "b": "x"}, {"a": "1", "b": "x"}, {"a": "2", "b": "x"}, None]
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    async def collected() -> list[bytes]:
        found = changes(lambda: drawn.pop(0), interval_s=0.5, sleep=sleep)
        return [each async for each in found]

    events = asyncio.run(collected())
    said = [
        (
            event.split(b"\n")[0].removeprefix(b"event: ").decode(),
            json.loads(event[event.index(b"{") :]),
        )
        for event in events
    ]
    assert said == [
        ("part", {"id": "a", "html": "1"}),
        ("part", {"id": "b", "html": "x"}),
        ("part", {"id": "a", "html": "2"}),
        ("end", {}),
    ]
    assert waited == [0.5, 0.5, 0.5]


def test_a_quiet_stream_says_that_it_is_there() -> None:
    drawn = [*[{"a": "1"}] * 31, None]

    async def sleep(seconds: float) -> None:
        return None

    async def collected() -> list[bytes]:
        found = changes(lambda: drawn.pop(0), interval_s=1.0, sleep=sleep)
        return [each async for each in found]

    events = asyncio.run(collected())
    assert [each[:6] for each in events] == [b"event:", b": stil", b": stil", b"event:"]
