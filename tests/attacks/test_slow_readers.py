"""Whoever reads slowly or puts in without end, at a real port with a shortened patience."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import uvicorn

from consilo.machine.processes import free_port
from consilo.membership.connections import Connection, Crowd, Limits
from consilo.membership.quota import Allowance, Pushes

LIMITS = Limits(body_s=1.0, body_bytes=16 * 1024, connections=6)
ASK = b"GET /%d HTTP/1.1\r\nhost: x\r\n\r\n"
MIB = 1024**2


async def answers(scope: Any, receive: Any, send: Any) -> None:
    """Send as many bytes as the path says, in blocks; wait a while first if it says so."""
    size = int(scope["path"].lstrip("/"))
    headers = [(b"content-length", b"%d" % size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    while size > 0:
        block = min(size, MIB // 2)
        size -= block
        message = {"type": "http.response.body", "body": bytes(block), "more_body": size > 0}
        await send(message)


@pytest.fixture(params=["asyncio", "uvloop"])
def port(request: pytest.FixtureRequest) -> Iterator[tuple[int, Crowd]]:
    found, crowd = free_port(), Crowd(LIMITS)
    http: Any = partial(Connection, limits=LIMITS, crowd=crowd)
    config = uvicorn.Config(
        answers,
        port=found,
        http=http,
        loop=request.param,
        lifespan="off",
        ws="none",
        log_config=None,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    yield found, crowd
    server.should_exit = True
    thread.join()


def ask(port: int, size: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.settimeout(10)
    one.connect(("127.0.0.1", port))
    one.sendall(ASK % size)
    return one


def gone(crowd: Crowd, within_s: float) -> bool:
    until = time.monotonic() + within_s
    while len(crowd) and time.monotonic() < until:
        time.sleep(0.05)
    return not len(crowd)


@pytest.mark.parametrize("size", [64 * MIB, 2 * MIB], ids=["a model", "what buffers hold"])
def test_one_byte_a_time_is_cut_off_and_holds_no_place(port, size) -> None:
    number, crowd = port
    until = time.monotonic() + 6.0
    with ask(number, size) as one, contextlib.suppress(ConnectionResetError):
        while len(crowd) and time.monotonic() < until:
            assert one.recv(1)
            time.sleep(0.02)
    assert time.monotonic() < until
    assert gone(crowd, 1.0)


def test_who_reads_nothing_is_cut_off(port) -> None:
    number, crowd = port
    with ask(number, 64 * MIB):
        time.sleep(0.3)
        assert len(crowd) == 1
        assert gone(crowd, 2.5 * LIMITS.body_s), "a place is held"


def test_an_honest_slow_link_is_not_cut_however_long_it_takes(port) -> None:
    """About 1 Mbit/s: 128 KiB a second, for many times the patience."""
    number, _ = port
    size = 1 * MIB
    with ask(number, size) as one:
        head, _, body = one.recv(4096).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        got = len(body)
        while got < size:
            part = one.recv(8 * 1024)
            assert part, f"cut off after {got} bytes"
            got += len(part)
            time.sleep(len(part) / (128 * 1024))


def test_who_waits_for_nothing_is_left_alone(port) -> None:
    number, crowd = port
    with ask(number, 10) as one:
        assert one.recv(1000)
        time.sleep(2.5 * LIMITS.body_s)
        assert len(crowd) == 1
        one.sendall(ASK % 10)
        assert one.recv(1000)


def test_an_allowance_ends_and_fills_again() -> None:
    now = [0.0]
    pushes = Pushes(Allowance(bytes=1000, calls=10), clock=lambda: now[0])
    assert [pushes.fault("a", 300) for _ in range(3)] == ["", "", ""]
    refused = pushes.fault("a", 300)
    assert "which is all that it may; the next is taken in 720 s" in refused
    assert pushes.fault("b", 300) == ""
    now[0] = 721.0
    assert pushes.fault("a", 300) == ""
    assert pushes.fault("a", 300)
    assert all(pushes.fault("c", 1) == "" for _ in range(10))
    assert pushes.fault("c", 1)
    now[0] = -5000.0  # of another origin: nothing comes back
    assert pushes.fault("c", 1)
