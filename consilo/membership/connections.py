"""Connections at the SuperLink's port: none is kept for a request that does not come.

The server knows no time for the head of a request, and as many connections as descriptors. Here
each has a few seconds for a TLS handshake and for each head, bounds the head, and wants a body to
come at some speed, and an answer to be taken at some speed, however long it is in all. Where there
are too many, the one gives way that has waited longest without a request under way; who is being
answered, or waits for a message, is left alone.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import sys
import termios
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_ACKNOWLEDGED = slice(120, 128)
"""``tcpi_bytes_acked`` of ``struct tcp_info`` (linux/tcp.h, since Linux 4.1)."""


@dataclass(frozen=True)
class Limits:
    """What a connection is given.

    Args:
        head_s: seconds for the TLS handshake, and from then on for each head of a request.
        head_bytes: of a head.
        body_s: seconds in which a body must bring ``body_bytes``, or end; and in which whoever
            reads must take as many of what lies ready, or all of it.
        body_bytes: see ``body_s``.
        connections: how many there may be; one address has half of them at most.
    """

    head_s: float = 10.0
    head_bytes: int = 64 * 1024
    body_s: float = 30.0
    body_bytes: int = 16 * 1024
    connections: int = 2000


class Crowd:
    """The connections that are open.

    Args:
        limits: how many there may be.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._waiting: dict[Connection, None] = {}  # in the order in which they began to wait
        self._peers: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many are open."""
        return self._peers.total()

    def join(self, one: Connection) -> bool:
        """Count a new connection; return whether there is place for it, made or found."""
        most = self._limits.connections
        if self._peers[one.peer] >= max(1, most // 2) and not self._make_place(one.peer):
            return False
        if len(self) >= most and not self._make_place(None):
            return False
        self._peers[one.peer] += 1
        self._waiting[one] = None
        return True

    def waits(self, one: Connection) -> None:
        """Note that a connection has no request under way from now on."""
        self._waiting.pop(one, None)
        self._waiting[one] = None

    def is_busy(self, one: Connection) -> None:
        """Note that the head of a request has come whole."""
        self._waiting.pop(one, None)

    def leave(self, one: Connection) -> None:
        """Forget a connection that `join` counted."""
        self._waiting.pop(one, None)
        self._peers[one.peer] -= 1
        if not self._peers[one.peer]:
            del self._peers[one.peer]

    def _make_place(self, peer: str | None) -> bool:
        for each in self._waiting:
            if peer in (None, each.peer):
                each.drop()
                return True
        return False


class Connection(HttpToolsProtocol):
    """One connection of uvicorn's server, with a bound on how long it may keep it waiting.

    Args:
        limits: what it is given.
        crowd: the others.
        opened: told of each that was let in: whose it is.
        closed: told of each that has closed: whose it was, and whether its side closed it.
        settings: uvicorn's own.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        crowd: Crowd,
        opened: Callable[[tuple[str, int]], None] = lambda peer: None,
        closed: Callable[[tuple[str, int], bool], None] = lambda peer, by_peer: None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self._opened, self._closed = opened, closed
        self._is_ours_to_close = False
        self.peer = ""
        self._limits = limits
        self._crowd = crowd
        self._counted = False
        self._timer: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None
        self._taken: int | None = None  # bytes so far, at a look when some lay ready; None else
        self._head_bytes: int | None = 0  # of the head that is coming; None where none is
        self._body_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self.peer = self.client[0] if self.client else ""
        self._counted = self._crowd.join(self)
        if not self._counted:
            transport.abort()
            return
        if self.client is not None:
            self._opened(self.client)
        self._await_head()
        self._watch_reader()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of it."""
        self._stop()
        self._stop_watching()
        self._leave()
        super().connection_lost(exc)
        if self.client is not None:
            self._closed(self.client, not self._is_ours_to_close)

    def drop(self) -> None:
        """Close the connection at once, whatever has come."""
        self._is_ours_to_close = True
        self._stop()
        self._stop_watching()
        self._leave()
        self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that nothing came over for long."""
        self._is_ours_to_close = True
        super().timeout_keep_alive_handler()

    def shutdown(self) -> None:
        """Close the connection, since the server ends."""
        self._is_ours_to_close = True
        super().shutdown()

    def data_received(self, data: bytes) -> None:
        """Count what comes, and read it."""
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._head_bytes is not None:
            self._head_bytes += len(data)
            if self._head_bytes > self._limits.head_bytes:
                self.drop()

    def on_message_begin(self) -> None:
        """Begin to wait for the rest of a head."""
        super().on_message_begin()
        if self._head_bytes is None:
            self._await_head()

    def on_headers_complete(self) -> None:
        """Go over to the body."""
        self._head_bytes = None
        self._crowd.is_busy(self)
        super().on_headers_complete()
        self._body_bytes = 0
        self._arm(self._limits.body_s, self._judge_body)

    def on_body(self, body: bytes) -> None:
        """Count what comes."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing more: now it is the server that is waited for."""
        self._stop()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Note that the connection waits for another request; uvicorn gives it a few seconds."""
        super().on_response_complete()
        if self._counted and self._head_bytes is None:
            self._crowd.waits(self)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._arm(self._limits.head_s, self.drop)

    def _judge_body(self) -> None:
        # Where the server itself does not read on, nothing can come.
        if self._body_bytes < self._limits.body_bytes and not self.flow.read_paused:
            self.drop()
            return
        self._body_bytes = 0
        self._arm(self._limits.body_s, self._judge_body)

    def _watch_reader(self) -> None:
        self._reader = self.loop.call_later(self._limits.body_s, self._judge_reader)

    def _stop_watching(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _judge_reader(self) -> None:
        """Drop whoever took too little since the last look, at which something lay ready too."""
        taken, waits = _acknowledged(self.transport.get_extra_info("socket"))
        late = waits and self._taken is not None
        if late and taken - (self._taken or 0) < self._limits.body_bytes:
            self.drop()
            return
        self._taken = taken if waits else None
        self._watch_reader()

    def _arm(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop()
        self._timer = self.loop.call_later(seconds, then)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        if self._counted:
            self._counted = False
            self._crowd.leave(self)


def _acknowledged(sock: socket.socket) -> tuple[int, bool]:
    """Return how many bytes the other side has taken so far, and whether any wait for it.

    By the kernel's own count, since what a server has written may lie in buffers for long. Linux
    alone says it; elsewhere nothing ever waits.
    """
    if not hasattr(socket, "TCP_INFO") or sys.platform != "linux":
        return 0, False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.stop)
        waiting = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):  # closed meanwhile
        return 0, False
    return int.from_bytes(info[_ACKNOWLEDGED], sys.byteorder), any(waiting)
