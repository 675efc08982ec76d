"""The way between a silo and the SuperLink, which a rehearsal cuts, narrows or lets lose packets.

Each silo's node reaches the SuperLink through a `Link`, a TCP proxy in the rehearsal's process. It
acts on what TCP makes of a bad line: a lost packet is a segment that comes later, by the time after
which a kernel sends it again; a lost link is a silence on connections that stay open.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from consilo.machine.processes import free_port

_BLOCK = 16 << 10
_SEGMENT = 1448
"""Bytes of one packet of Ethernet, by which packets are counted."""
_AGAIN_S = 0.2
"""Linux sends a lost segment again after this at least, then after twice as long each time."""


@dataclass(frozen=True)
class Weather:
    """What a link is like.

    Args:
        is_cut: nothing passes, in either direction.
        loss: share of packets that are lost, in [0, 1).
        bytes_per_s: of each direction of each connection; 0 for as fast as it goes.
    """

    is_cut: bool = False
    loss: float = 0.0
    bytes_per_s: float = 0.0


FAIR = Weather()


class Link:
    """One silo's way to the SuperLink.

    Args:
        port: of 127.0.0.1, where the silo's node finds it.
        target: port of 127.0.0.1, where the SuperLink listens.
    """

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self.weather = FAIR
        self._target = target
        self._chance = random.Random(port)

    async def serve(self) -> asyncio.Server:
        """Start to listen."""
        return await asyncio.start_server(self._pass, "127.0.0.1", self.port)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Python 3.11 reports a server's task that was cancelled as an error of its own.
        with contextlib.suppress(OSError, asyncio.CancelledError), contextlib.closing(writer):
            await self._while_cut()
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
            with contextlib.closing(back):
                ways = [self._pump(reader, back), self._pump(there, writer)]
                tasks = [asyncio.ensure_future(way) for way in ways]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in tasks:
                        task.cancel()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_BLOCK):
                await self._while_cut()
                if delay_s := self._delay(len(data)):
                    await asyncio.sleep(delay_s)
                writer.write(data)
                await writer.drain()

    async def _while_cut(self) -> None:
        while self.weather.is_cut:
            await asyncio.sleep(0.05)

    def _delay(self, num_bytes: int) -> float:
        weather = self.weather
        delay_s = num_bytes / weather.bytes_per_s if weather.bytes_per_s else 0.0
        if weather.loss:
            for _ in range(-(-num_bytes // _SEGMENT)):
                wait_s = _AGAIN_S
                while self._chance.random() < weather.loss:
                    delay_s += wait_s
                    wait_s *= 2
        return delay_s


@contextmanager
def links(silos: list[str], target: int) -> Iterator[dict[str, Link]]:
    """Yield silo → its link, open for the block.

    Args:
        silos: names.
        target: port of 127.0.0.1, where the SuperLink listens.
    """
    ports: set[int] = set()
    while len(ports) < len(silos):
        ports.add(free_port())
    made = {name: Link(port, target) for name, port in zip(silos, sorted(ports), strict=True)}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="links", daemon=True)
    thread.start()
    servers: list[asyncio.Server] = []
    serving = [asyncio.run_coroutine_threadsafe(each.serve(), loop) for each in made.values()]
    try:
        servers = [each.result(10.0) for each in serving]
        yield made
    finally:
        asyncio.run_coroutine_threadsafe(_end(servers), loop).result(10.0)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10.0)
        loop.close()


async def _end(servers: Sequence[asyncio.Server]) -> None:
    for server in servers:
        server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
