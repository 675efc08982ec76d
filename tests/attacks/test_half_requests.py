"""Connections that bring half a request, or none, at a real SuperLink with a shortened patience."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consilo.machine.processes import Supervisor, free_port
from consilo.membership import keys
from consilo.membership.connections import Crowd, Limits
from consilo.transports.flower.superlink import start_superlink

pytestmark = pytest.mark.federation
HEAD_S = 4.0
MOST = 60
HALF = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: x\r\nx-a: "
WHOLE = b"GET /v1/consilo/ca HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    home: Path = tmp_path_factory.mktemp("coordinator")
    authority = keys.load_or_create_authority(home / "keys")
    with Supervisor() as supervisor:
        link = start_superlink(
            supervisor, home, authority, port=free_port(), head_within_s=HEAD_S, connections=MOST
        )
        host, _, port = link.address.rpartition(":")
        yield host, int(port)


@pytest.fixture
def sockets() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def plain(address: tuple[str, int], sockets: contextlib.ExitStack) -> socket.socket:
    return sockets.enter_context(socket.create_connection(address, timeout=10))


def secure(address: tuple[str, int], sockets: contextlib.ExitStack) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return sockets.enter_context(context.wrap_socket(plain(address, sockets)))


def is_open(one: socket.socket) -> bool:
    one.settimeout(0.0)
    try:
        return one.recv(1) != b""
    except (BlockingIOError, ssl.SSLWantReadError):
        return True
    except OSError:
        return False


def still_open(those: list[socket.socket], *, after_s: float) -> int:
    until = time.monotonic() + after_s
    while time.monotonic() < until:
        time.sleep(0.1)
    return sum(map(is_open, those))


def asked(address: tuple[str, int], sockets: contextlib.ExitStack) -> bytes:
    one = secure(address, sockets)
    one.sendall(WHOLE)
    one.settimeout(10)
    return one.recv(64)


@pytest.mark.parametrize(
    "sent", [HALF, b"", b"G", WHOLE[:-2]], ids=["the attack", "nothing", "one byte", "no end"]
)
def test_half_a_request_is_not_waited_for(address, sockets, sent):
    held = []
    for _ in range(8):
        one = secure(address, sockets)
        one.sendall(sent)
        held.append(one)
    assert sum(map(is_open, held)) == len(held)
    assert still_open(held, after_s=HEAD_S + 1.0) == 0


def test_a_head_that_trickles_is_not_waited_for(address, sockets):
    one = secure(address, sockets)
    one.sendall(HALF)
    began = time.monotonic()
    with contextlib.suppress(OSError):
        while time.monotonic() - began < 3 * HEAD_S and is_open(one):
            one.settimeout(1)
            one.sendall(b"a")
            time.sleep(0.1)
    assert time.monotonic() - began < 2 * HEAD_S


def test_what_is_no_request_is_a_line_a_minute_in_the_log(address, sockets, tmp_path_factory):
    for _ in range(40):
        one = secure(address, sockets)
        with contextlib.suppress(OSError):
            one.sendall(b"\x00nonsense\r\n\r\n")
            one.recv(64)
        one.close()
    (log,) = tmp_path_factory.getbasetemp().rglob("superlink.log")
    assert log.read_text().count("Invalid HTTP request") == 1


def test_a_head_without_an_end_is_cut(address, sockets):
    one = secure(address, sockets)
    one.settimeout(10)
    one.sendall(HALF)
    sent = 0
    with contextlib.suppress(OSError):  # reset, or a broken pipe
        for _ in range(200):
            sent += len(b"a" * 65_536)
            one.sendall(b"a" * 65_536)
            time.sleep(0.005)
    assert sent < 200 * 65_536


def test_a_handshake_is_not_waited_for(address, sockets):
    held = [plain(address, sockets) for _ in range(8)]
    assert still_open(held, after_s=HEAD_S + 1.0) == 0


def test_who_asks_is_answered_while_others_fill_the_port(address, sockets):
    held = []
    for _ in range(2 * MOST):
        one = secure(address, sockets)
        with contextlib.suppress(OSError):
            one.sendall(HALF)
        held.append(one)
    # Who gives way is told in its own time, and well before a head is waited for no longer.
    until = time.monotonic() + HEAD_S / 2
    while (left := sum(map(is_open, held))) > MOST // 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert left <= MOST // 2
    assert asked(address, sockets).startswith(b"HTTP/1.1 200")


class Stub:
    """A connection as `Crowd` sees it."""

    def __init__(self, crowd: Crowd, peer: str) -> None:
        self.crowd, self.peer, self.dropped = crowd, peer, False

    def drop(self) -> None:
        self.dropped = True
        self.crowd.leave(self)


def test_who_waits_longest_gives_way_and_who_is_answered_does_not():
    crowd = Crowd(Limits(connections=4))
    busy, idle, *others = (Stub(crowd, peer) for peer in "aabbcd")
    assert crowd.join(busy)
    crowd.is_busy(busy)
    assert crowd.join(idle)
    assert all(map(crowd.join, others[:2]))
    assert crowd.join(others[2])
    assert idle.dropped
    assert not busy.dropped
    assert len(crowd) == 4
    crowd.waits(busy)
    assert crowd.join(others[3])
    assert [each.dropped for each in (busy, *others)] == [False, True, False, False, False]


def test_one_address_has_half_of_the_places_and_nobody_is_cut_off_in_an_answer():
    crowd = Crowd(Limits(connections=4))
    for peer in "aab":
        one = Stub(crowd, peer)
        assert crowd.join(one)
        crowd.is_busy(one)
    assert not crowd.join(Stub(crowd, "a"))
    assert crowd.join(Stub(crowd, "b"))
    assert len(crowd) == 4
