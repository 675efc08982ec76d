"""Large bodies over a real SuperLink: who may, what a cut costs, and when they are gone."""

import contextlib
import http.client
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from consilo.errors import CoordinatorUnreachable, ReplyInvalid
from consilo.machine.processes import Supervisor, free_port
from consilo.membership import keys
from consilo.transports.flower.bodies import RUNTIME, Bodies, Quota
from consilo.transports.flower.bundle import build_bundle
from consilo.transports.flower.calls import NotAuthorised
from consilo.transports.flower.carrier import Carrier, Stored
from consilo.transports.flower.fleet import FleetLink
from consilo.transports.flower.superlink import SuperLink, start_superlink
from consilo.transports.flower.transport import FlowerTransport
from consilo.wire.buffers import Pieces, Spool
from silos.membership.enrol import enrol_here

pytestmark = pytest.mark.federation
MIB = 1024 * 1024


class Wire:
    """A TCP relay that counts what passes to the SuperLink, and cuts a connection where told."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        self.up = self.down = 0
        self.cut_up_at = self.cut_down_at = -1
        self.cuts = 0
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                near.close()
                continue
            self._open += [near, far]
            for pair in ((near, far, True), (far, near, False)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        try:
            while data := source.recv(65536):
                if up:
                    self.up += len(data)
                else:
                    self.down += len(data)
                if 0 <= self.cut_up_at < self.up or 0 <= self.cut_down_at < self.down:
                    self.cut_up_at = self.cut_down_at = -1
                    self.cuts += 1
                    break
                sink.sendall(data)
        except OSError:
            pass
        for each in (source, sink):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for each in self._open:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        time.sleep(0.05)  # threads that wait in recv come back first
        for each in self._open:
            each.close()


class Place:
    def __init__(self, root: Path, supervisor: Supervisor) -> None:
        self.root = root
        self.supervisor = supervisor
        self.nodes: list[FleetLink] = []
        self.home = root / "coordinator"
        self.authority = keys.load_or_create_authority(self.home / "keys")
        self.port = free_port()
        enrol_here(self.home, root, address=f"127.0.0.1:{self.port}", name="silo")
        self.link = self.start()

    def start(self) -> SuperLink:
        return start_superlink(self.supervisor, self.home, self.authority, port=self.port)

    def kill(self) -> None:
        for pid in self.link.service.pids():
            os.kill(pid, signal.SIGKILL)
        self.link.service.stop()

    def transport(self) -> FlowerTransport:
        return FlowerTransport.open(
            self.link.address, self.link.ca_certificate, build_bundle(), home=self.home
        )

    def node(self, key: str = "silo.key", *, port: int | None = None) -> Carrier:
        address = f"127.0.0.1:{port or self.port}"
        private = keys.load_silo_key(self.root / key)
        link = FleetLink(address, self.link.ca_certificate, private, self.root / "membership.crt")
        self.nodes.append(link)
        return link._carrier

    def files(self) -> list[Path]:
        return sorted(each for each in (self.home / "bodies").rglob("*") if each.is_file())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with Supervisor() as supervisor:
        yield Place(tmp_path_factory.mktemp("bodies"), supervisor)


@pytest.fixture(autouse=True)
def _let_go(place: Place) -> Iterator[None]:
    yield
    while place.nodes:
        place.nodes.pop().close()


def test_a_body_passes_both_ways_and_is_gone_with_its_run(place: Place) -> None:
    body = os.urandom(3 * MIB + 17)
    with place.transport() as transport:
        flow, node, run = transport._claimed.carrier, place.node(), transport.run_id
        stored = flow.put(run, Pieces(body[:1000], body[1000:]))
        with Spool.make() as spool:
            node.get(run, stored, spool)
            assert bytes(spool) == body
            back = node.put(run, spool)
        assert flow.get(run, back) == body
        assert len({stored.name, back.name}) == 2
        (file, other) = place.files()
        assert file.stat().st_mode & 0o777 == 0o600
        flow.drop(run, back)
        assert [each.name for each in place.files()] == [stored.name]
    deadline = time.monotonic() + 5
    while place.files() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not place.files()
    with pytest.raises(NotAuthorised):
        node.put(run, body)
    assert other != file


def test_a_silo_leaves_no_more_there_than_its_quota(tmp_path: Path) -> None:
    """Nothing bounded what one silo could leave lying of a run but 16 GiB a body."""
    kept = Bodies(None, tmp_path, Quota(bodies=3, bytes=1000))  # type: ignore[arg-type]
    run = tmp_path / "7"
    run.mkdir()

    def put(name: str, size: int, *, node: int = 5, complete: bool = True) -> Path:
        kept._admit(run / name, node, size)
        there = (run / name) if complete else (run / name).with_suffix(".part")
        there.write_bytes(b"x")  # what is announced counts, not what has come
        return there

    first = put("a", 600)
    with pytest.raises(Exception, match="507"):
        put("b", 401)
    put("b", 400, complete=False)
    put("b", 400, complete=False)  # it goes on
    put("c", 1000, node=6)
    for number in range(9):
        put(f"task-{number}", 1000, node=RUNTIME)
    put("d", 0)
    with pytest.raises(Exception, match="507"):
        put("e", 0)
    first.unlink()  # it was fetched
    put("e", 600)
    (tmp_path / "8").mkdir()
    kept._admit(tmp_path / "8" / "a", 5, 1000)


def test_only_who_may_take_an_object_of_the_run_may_take_a_body(place: Place) -> None:
    keys.load_or_create_silo_key(place.root / "stranger.key")
    body = os.urandom(100_000)
    with place.transport() as transport, place.transport() as other:
        stored = transport._claimed.carrier.put(transport.run_id, body)
        stranger = place.node("stranger.key")
        for carrier in (stranger, other._claimed.carrier):
            with pytest.raises(NotAuthorised):
                carrier.get(transport.run_id, stored)
            with pytest.raises(NotAuthorised):
                carrier.put(transport.run_id, body)
        with pytest.raises(ReplyInvalid, match="not at the SuperLink"):
            other._claimed.carrier.get(other.run_id, stored)
        guess = Stored("0" * 32, stored.size, stored.sha256)
        with pytest.raises(ReplyInvalid, match="not at the SuperLink"):
            place.node().get(transport.run_id, guess)
        odd = Stored(stored.name, stored.size, "0" * 64)
        with pytest.raises(ReplyInvalid, match="not the one"):
            place.node().get(transport.run_id, odd)
        long = Stored(stored.name, stored.size + 1, stored.sha256)
        with pytest.raises(ReplyInvalid, match="not as long"):
            place.node().get(transport.run_id, long)
        for method, path, status in (
            ("GET", f"/v1/consilo/fleet/{transport.run_id}/{stored.name}", 403),
            ("GET", f"/v1/consilo/runtime/{transport.run_id}/{stored.name}", 401),
            ("GET", "/v1/consilo/fleet/1/../../../superlink.db", 403),
            ("GET", "/v1/consilo/runtime/1/../../../superlink.db", 404),
            ("PUT", f"/v1/consilo/fleet/{transport.run_id}/{'1' * 32}", 403),
        ):
            assert bare(place, method, path) == status


@pytest.mark.slow
def test_half_a_gigabyte_goes_to_three_silos_and_back(place: Place) -> None:
    """What a node and a flow do with it, less the silo's own process: the benchmark does all."""
    body = os.urandom(500 * MIB)
    with place.transport() as transport:
        node, run = place.node(), transport.run_id
        stored = transport._claimed.carrier.put(run, body)
        for _ in range(3):
            with Spool.make() as spool:
                back = node.put(run, node.get(run, stored, spool))
            assert transport._claimed.carrier.get(run, back) == body
            transport._claimed.carrier.drop(run, back)


def bare(place: Place, method: str, path: str) -> int:
    context = ssl.create_default_context(cafile=str(place.link.ca_certificate))
    connection = http.client.HTTPSConnection("127.0.0.1", place.port, context=context)
    connection.request(method, path)
    status = connection.getresponse().status
    connection.close()
    return status


@pytest.mark.parametrize("up", [True, False])
def test_a_transfer_that_is_cut_goes_on_with_what_is_missing(place: Place, up: bool) -> None:
    body = os.urandom(40 * MIB)
    with place.transport() as transport:
        wire = Wire(place.port)
        node = place.node(port=wire.port)
        if up:
            wire.cut_up_at = 25 * MIB
            stored = node.put(transport.run_id, body)
            assert transport._claimed.carrier.get(transport.run_id, stored) == body
            passed = wire.up
        else:
            stored = transport._claimed.carrier.put(transport.run_id, body)
            wire.cut_down_at = 25 * MIB
            assert node.get(transport.run_id, stored) == body
            passed = wire.down
        wire.close()
    assert wire.cuts == 1
    assert 40 * MIB < passed < 50 * MIB  # what was on its way is sent again, and no more


def test_a_transfer_outlives_the_superlink(place: Place) -> None:
    body = os.urandom(60 * MIB)
    with place.transport() as transport:
        wire = Wire(place.port)
        node = place.node(port=wire.port)
        found: list[Stored] = []
        thread = threading.Thread(target=lambda: found.append(node.put(transport.run_id, body)))
        thread.start()
        while wire.up < 20 * MIB:
            time.sleep(0.001)
        place.kill()
        place.link = place.start()
        thread.join(60)
        passed = wire.up
        assert transport._claimed.carrier.get(transport.run_id, found[0]) == body
        wire.close()
    assert passed < 60 * MIB + 10 * MIB


def test_a_superlink_that_stays_away_is_an_error(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.transport() as transport:
        wire = Wire(free_port())
        node = place.node(port=wire.port)
        monkeypatch.setattr(node, "_retry_s", 0.5)
        with pytest.raises(CoordinatorUnreachable, match="cannot go on"):
            node.put(transport.run_id, b"x" * 100_000)
        wire.close()
