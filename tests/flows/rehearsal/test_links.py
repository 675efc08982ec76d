"""The way between a silo and the SuperLink: cut, narrow, losing packets."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from flows.rehearsal.links import FAIR, Link, Weather, links


@pytest.fixture
def way() -> Iterator[Link]:
    """A link to somebody who sends back whatever comes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer(connection: socket.socket) -> None:
            with contextlib.suppress(OSError), connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    threading.Thread(target=answer, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        with links(["north"], server.getsockname()[1]) as ways:
            yield ways["north"]
        server.shutdown(socket.SHUT_RDWR)


def echoed(client: socket.socket, content: bytes) -> float:
    """Send bytes, wait until all are back, return how long it took."""
    begun, back = time.monotonic(), b""
    client.sendall(content)
    while len(back) < len(content):
        back += client.recv(65536)
    assert back == content
    return time.monotonic() - begun


def test_what_is_sent_comes_through_whatever_the_weather(way: Link) -> None:
    with socket.create_connection(("127.0.0.1", way.port), 60) as client:
        assert echoed(client, b"x" * 100_000)
        way.weather = Weather(bytes_per_s=50_000)
        assert echoed(client, b"x" * 20_000) > 0.6  # 0.4 s there, 0.4 s back
        way.weather = Weather(loss=0.2)
        assert echoed(client, b"x" * 30_000) > 0.2  # some of 42 segments came later


def test_a_link_that_was_cut_is_silent_and_goes_on_where_it_was(way: Link) -> None:
    with socket.create_connection(("127.0.0.1", way.port), 20) as client:
        echoed(client, b"before")
        way.weather = Weather(is_cut=True)
        client.sendall(b"meanwhile")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(1)
        with socket.create_connection(("127.0.0.1", way.port), 20) as other:
            other.settimeout(0.5)
            other.sendall(b"new")
            with pytest.raises(TimeoutError):
                other.recv(1)
        way.weather = FAIR
        client.settimeout(20)
        assert client.recv(65536) == b"meanwhile"
