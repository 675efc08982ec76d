"""A node whose process was killed is gone at once, and its successor is let in at once."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from consilo.errors import TransportError
from consilo.machine.processes import Supervisor, free_port
from consilo.membership import keys
from consilo.transports.flower.alive import IDLE_S, Alive
from consilo.transports.flower.bundle import build_bundle
from consilo.transports.flower.calls import KEPT_S
from consilo.transports.flower.doorbell import Bell
from consilo.transports.flower.fleet import _HEARTBEAT_EVERY_S, _HEARTBEAT_INTERVAL_S, FleetLink
from consilo.transports.flower.superlink import Registry, start_superlink
from consilo.transports.flower.transport import FlowerTransport
from consilo.wire.parcel import Parcel
from silos.membership.enrol import enrol_here

pytestmark = pytest.mark.federation


class Place:
    """A SuperLink, and one silo that has enrolled."""

    def __init__(self, root: Path, supervisor: Supervisor) -> None:
        self.home, self.root = root / "coordinator", root
        port = free_port()
        authority = keys.load_or_create_authority(self.home / "keys")
        enrol_here(self.home, root, address=f"127.0.0.1:{port}", name="silo")
        self.link = start_superlink(supervisor, self.home, authority, port=port)

    def node(self) -> FleetLink:
        key = keys.load_silo_key(self.root / "silo.key")
        certificate = self.root / "membership.crt"
        return FleetLink(self.link.address, self.link.ca_certificate, key, certificate)

    def state(self) -> str:
        with Registry(self.link.address, self.link.ca_certificate) as registry:
            return registry.presences()["silo"].state

    def transport(self) -> FlowerTransport:
        return FlowerTransport.open(
            self.link.address, self.link.ca_certificate, build_bundle(), home=self.home
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Supervisor() as supervisor:
        yield Place(tmp_path_factory.mktemp("alive"), supervisor)


def kill(node: FleetLink) -> None:
    """Close a node's connections without a goodbye, as the kernel does with a killed process."""
    node._closed.set()
    node._client.close()
    node._carrier.close()


def until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        if is_so():
            return True
        time.sleep(0.1)
    return False


def test_a_killed_node_is_gone_long_before_its_heartbeats_have_run_out(place: Place) -> None:
    node = place.node()
    node.activate()
    assert place.state() == "online"
    kill(node)
    assert until(lambda: place.state() == "gone")
    with Registry(place.link.address, place.link.ca_certificate) as registry:
        (found,) = registry._nodes()
    came = datetime.fromisoformat(found.last_activated_at).timestamp()
    assert found.online_until - came != 2 * _HEARTBEAT_INTERVAL_S  # when heartbeats run out


def test_a_second_node_of_one_key_is_refused_while_the_first_lives(place: Place) -> None:
    first, second = place.node(), place.node()
    first.activate()
    with pytest.raises(TransportError, match="Failed to activate"):
        second.activate()
    kill(second)
    kill(first)


def test_what_a_killed_node_had_taken_is_answered_as_soon_as_its_successor_starts(
    place: Place,
) -> None:
    node, successor = place.node(), place.node()
    node.activate()
    with place.transport() as transport:
        arrivals = transport.exchange({"silo": Parcel(b"head", b"body")}, deadline_s=100)
        assert node.receive() is not None
        kill(node)
        assert until(lambda: _starts(successor))
        (arrival,) = arrivals
        assert arrival.fault is not None
        assert arrival.fault.code == "unreachable"
        assert transport.online() == ("silo",)
        again = transport.exchange({"silo": Parcel(b"head", b"again")}, deadline_s=100)
        request = successor.receive()
        assert request is not None
        successor.answer(request, Parcel(b"reply", b"done"), seconds=0.1)
        (answered,) = again
        assert answered.parcel is not None
    successor.close()


def _starts(node: FleetLink) -> bool:
    try:
        node.activate()
    except TransportError:  # the server has not seen yet that the other one's line is closed
        return False
    return True


def test_a_node_that_computes_keeps_a_connection_from_heartbeat_to_heartbeat() -> None:
    assert 1.2 * _HEARTBEAT_EVERY_S < KEPT_S < IDLE_S


def test_a_connection_that_the_server_closed_says_nothing_of_its_node() -> None:
    alive, peer = Alive(Bell()), ("127.0.0.1", 4000)
    scope: dict[str, Any] = {
        "client": peer,
        "headers": [(b"key", b64encode(b"its key"))],
        "app": SimpleNamespace(state=SimpleNamespace(linkstate_factory=SimpleNamespace(state=0))),
    }
    alive.opened(peer)
    alive.heard(scope, "key")
    assert alive._open == {b"its key": {peer}}
    alive.closed(peer, False)  # outside of any event loop: nothing is begun
    alive.heard(scope, "key")  # a call that was under way
    assert (alive._open, alive._node_of) == ({}, {})
    alive.opened(peer)
    alive.closed(peer, True)  # one that is no node's
    assert not alive._doubted
