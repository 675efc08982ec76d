"""A federation of real processes: TLS, node authentication, one folder and key per silo."""

import contextlib
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import httpx
import psutil
import pytest
import yaml
from flwr.common.constant import ErrorCode
from flwr.proto.control_pb2 import StopRunRequest
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import GetNodesRequest, GetNodesResponse, PushTaskOutputRequest
from flwr.supercore.runtime import RuntimeHttpClient
from isolated import interpreter

from consilo.errors import (
    CoordinatorUnreachable,
    JobInvalid,
    MessagesLost,
    Refused,
    RunCancelled,
)
from consilo.machine.environment import child_environment
from consilo.machine.processes import Service, Supervisor, free_port
from consilo.membership import keys
from consilo.transports.flower.bundle import (
    build_bundle,
    bundle_hash,
    keep_bundle,
    read_modules,
)
from consilo.transports.flower.calls import call, connect
from consilo.transports.flower.claim import Claimed
from consilo.transports.flower.doorbell import MAX_WAIT_S
from consilo.transports.flower.fleet import _HOLD_S
from consilo.transports.flower.superlink import Registry, SuperLink, start_superlink
from consilo.transports.flower.transport import FlowerTransport, _Replies
from consilo.wire.parcel import Arrival, Fault, Parcel, Transport
from silos.gate.bundles import approve
from silos.membership.enrol import enrol_here

ANSWERER = """
import os, time
from consilo.wire.parcel import Parcel

def answerer(silo, bundle, elsewhere=None):
    def answer(parcel):
        if b"sleep" in parcel.header and b"silo1" in parcel.header:
            time.sleep(30)
        if b"die" in parcel.header and b"silo2" in parcel.header:
            os._exit(1)
        if b"module" in parcel.header:
            from consilo.learners.modules import resolve
            return Parcel(resolve("brought:name", [bundle])().encode(), b"")
        return Parcel(silo.name.encode() + b" " + parcel.header, parcel.body)
    return answer
"""
SILOS = ("silo0", "silo1", "silo2")
LOOKS_AGAIN_S = 24.0
"""After so long a node asks again by itself."""
WOKEN_WITHIN_S = 20.0
"""An answer takes 0.4 s on a quiet machine."""
PLAIN = build_bundle()
WITH_MODULE = build_bundle({"brought.py": b"def name():\n    return 'brought along'\n"})


@dataclass
class Federation:
    root: Path
    mark: str
    link: SuperLink
    supervisor: Supervisor
    nodes: dict[str, Service]
    python: str

    def transport(
        self, bundle: bytes = PLAIN, cancelled: threading.Event | None = None
    ) -> FlowerTransport:
        return FlowerTransport.open(
            self.link.address,
            self.link.ca_certificate,
            bundle,
            home=self.root / "coordinator",
            cancelled=cancelled,
        )

    def start_node(self, name: str) -> None:
        folder = self.root / name
        self.nodes[name] = self.supervisor.start(
            name,
            [
                *(self.python, "-I", "-m", "silos.node", "--dir", str(folder)),
                *("--answerer", "test_answerer:answerer"),
            ],
            log=folder / "node.log",
            env=child_environment(home=folder / "flwr", CONSILO_TEST_MARK=self.mark),
        )

    def wait_online(self, names: tuple[str, ...], within_s: float = 120.0) -> None:
        with Registry(self.link.address, self.link.ca_certificate) as registry:
            wait_until(lambda: set(names) <= set(registry.online()), within_s)


def wait_until(condition: Callable[[], bool], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def marked(mark: str) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("CONSILO_TEST_MARK") == mark:
                found.append(" ".join(process.cmdline()))
        except (psutil.Error, OSError):
            continue
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    root = tmp_path_factory.mktemp("federation")
    mark = root.as_posix()
    (root / "library").mkdir()
    (root / "library" / "test_answerer.py").write_text(ANSWERER)
    home = root / "coordinator"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILO_TEST_MARK", mark)
        with Supervisor() as supervisor:
            authority = keys.load_or_create_authority(home / "keys")
            link = start_superlink(supervisor, home, authority, port=free_port())
            federation = Federation(
                root, mark, link, supervisor, {}, interpreter(root / "python", root / "library")
            )
            for name in SILOS:
                folder = root / name
                folder.mkdir()
                node = {
                    "name": name,
                    "superlink": link.address,
                    "preload": [],
                }
                (folder / "node.yaml").write_text(yaml.safe_dump(node))
                enrol_here(home, folder, address=link.address, name=name)
                approve(folder, bundle_hash(PLAIN))
                federation.start_node(name)
            federation.wait_online(SILOS)
            yield federation
    left = [command for command in marked(mark) if "pytest" not in command]
    assert not left


def parcels(order: str, body: bytes = b"", silos: tuple[str, ...] = SILOS) -> dict[str, Parcel]:
    return {
        silo: Parcel(json.dumps({"silo": silo, "order": order}).encode(), body) for silo in silos
    }


def check(arrivals: list[Arrival], sent: dict[str, Parcel]) -> None:
    assert [arrival.silo for arrival in arrivals] == list(sent)
    for arrival in arrivals:
        assert arrival.fault is None
        expected = arrival.silo.encode() + b" " + sent[arrival.silo].header
        assert arrival.parcel == Parcel(expected, sent[arrival.silo].body)


@pytest.mark.federation
def test_parcels_reach_the_silos_they_name_and_come_back_unchanged(federation: Federation) -> None:
    with federation.transport() as transport:
        assert isinstance(transport, Transport)
        assert transport.online() == SILOS
        for body in (b"", os.urandom(50_000), os.urandom(9_000_000), bytes(9_000_000)):
            sent = parcels("echo", body)
            check(list(transport.exchange(sent, deadline_s=30)), sent)
        transport.finish(ok=True)


@pytest.mark.federation
def test_a_node_is_woken_by_what_is_sent_and_does_not_come_by_itself(
    federation: Federation,
) -> None:
    # A node that has answered asks for more at once, and is held for `_HOLD_S` where nothing
    # rings. So whoever answers the next question before that was woken by it.
    assert LOOKS_AGAIN_S == min(_HOLD_S, MAX_WAIT_S) > WOKEN_WITHIN_S
    with federation.transport() as transport:
        for _ in range(4):
            sent = parcels("echo", os.urandom(8_000))
            check(list(transport.exchange(sent, deadline_s=WOKEN_WITHIN_S)), sent)
        transport.finish(ok=True)


@pytest.mark.federation
def test_exchanges_run_side_by_side_and_flows_do_not_mix(federation: Federation) -> None:
    with federation.transport() as one, federation.transport() as other:
        assert one.run_id != other.run_id
        failures: list[BaseException] = []

        def work(transport: FlowerTransport, size: int) -> None:
            try:
                for _ in range(3):
                    sent = parcels("echo", os.urandom(size))
                    check(list(transport.exchange(sent, deadline_s=60)), sent)
            except BaseException as cause:
                failures.append(cause)

        pairs = [(one, 10), (one, 200_000), (other, 10)]
        threads = [threading.Thread(target=work, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures


@pytest.mark.federation
def test_a_bundle_is_refused_until_the_operator_approves_its_hash(federation: Federation) -> None:
    digest = bundle_hash(WITH_MODULE)
    with federation.transport(WITH_MODULE) as transport:
        assert transport.bundle_hash == digest
        for arrival in transport.exchange(parcels("module"), deadline_s=30):
            assert arrival.fault is not None
            assert arrival.fault.code == "bundle_not_approved"
            assert digest in arrival.fault.reason
            assert not (federation.root / arrival.silo / "bundles" / digest).exists()
        approve(federation.root / "silo1", digest)
        codes = {}
        for arrival in transport.exchange(parcels("module"), deadline_s=30):
            codes[arrival.silo] = arrival.fault.code if arrival.fault else arrival.parcel
        assert codes.pop("silo1") == Parcel(b"brought along", b"")
        assert set(codes.values()) == {"bundle_not_approved"}


@pytest.mark.federation
def test_faults_are_arrivals_and_the_others_answer(federation: Federation) -> None:
    with federation.transport() as transport:
        sent = parcels("die", silos=("silo2", "nobody", "silo0"))
        arrivals = {each.silo: each for each in transport.exchange(sent, deadline_s=300)}
        faults = {silo: each.fault.code for silo, each in arrivals.items() if each.fault}
        assert faults == {"silo2": "crashed", "nobody": "unreachable"}


@pytest.mark.federation
def test_a_cancelled_run_does_not_wait_for_the_deadline(federation: Federation) -> None:
    cancelled = threading.Event()
    with federation.transport(cancelled=cancelled) as transport:
        arrivals = transport.exchange(parcels("echo", silos=("silo0",)), deadline_s=60)
        next(arrivals)
        os.kill(node_pid(federation, "silo0"), signal.SIGSTOP)
        try:
            arrivals = transport.exchange(parcels("echo", silos=("silo0",)), deadline_s=60)
            threading.Timer(0.5, cancelled.set).start()
            with pytest.raises(RunCancelled):  # at the deadline it would be a fault
                next(arrivals)
        finally:
            os.kill(node_pid(federation, "silo0"), signal.SIGCONT)


@pytest.mark.federation
def test_a_run_that_is_stopped_from_outside_ends_as_cancelled(federation: Federation) -> None:
    with federation.transport() as transport:
        transport.stop()
        with pytest.raises(RunCancelled):
            list(transport.exchange(parcels("echo"), deadline_s=5))


@pytest.mark.federation
def test_a_node_that_is_killed_costs_the_deadline_and_comes_back(federation: Federation) -> None:
    with federation.transport() as transport:
        exchange = transport.exchange(parcels("sleep"), deadline_s=5)
        assert next(exchange).fault is None
        os.kill(node_pid(federation, "silo1"), signal.SIGKILL)
        killed, other = list(exchange)
        assert killed.fault is not None
        assert killed.fault.code in ("deadline", "unreachable")
        assert other.fault is None
        wait_until(lambda: federation.nodes["silo1"].returncode is not None, 5)
        assert not federation.nodes["silo1"].pids()
        federation.start_node("silo1")
        wait_until(lambda: "is online as" in federation.nodes["silo1"].last_lines(1), 40)
        federation.wait_online(SILOS)
        sent = parcels("echo")
        check(list(transport.exchange(sent, deadline_s=30)), sent)


@pytest.mark.federation
def test_a_node_goes_at_once_when_asked_and_says_goodbye(federation: Federation) -> None:
    node = federation.nodes["silo2"]
    node.stop(grace_s=60.0)
    assert node.signal_number != signal.SIGKILL
    with federation.transport() as transport:
        assert transport.online() == ("silo0", "silo1")
        (arrival,) = transport.exchange(parcels("echo", silos=("silo2",)), deadline_s=10)
        assert arrival.fault is not None
        assert arrival.fault.code == "unreachable"
    federation.start_node("silo2")
    federation.wait_online(SILOS)


@pytest.mark.federation
def test_a_run_outlives_its_superlink(federation: Federation) -> None:
    with federation.transport() as transport:
        sent = parcels("echo")
        check(list(transport.exchange(sent, deadline_s=30)), sent)
        arrivals: list[Arrival] = []

        def work() -> None:
            arrivals.extend(transport.exchange(sent, deadline_s=60))

        thread = threading.Thread(target=work)
        restart(federation, meanwhile=thread.start)
        thread.join()
        check(arrivals, sent)


@pytest.mark.federation
def test_a_run_that_the_superlink_gave_up_gets_a_successor(federation: Federation) -> None:
    # Flower fails a run whose heartbeats it missed for a minute: it was reported as cancelled.
    with federation.transport() as transport:
        before = transport.run_id
        request = PushTaskOutputRequest(sub_status="failed", details="no heartbeat")
        transport._ours.client.PushTaskOutput(request)
        sent = parcels("echo")
        with pytest.raises(MessagesLost, match=f"lost Flower run {before}"):
            list(transport.exchange(sent, deadline_s=30))
        assert transport.run_id not in (0, before)
        check(list(transport.exchange(sent, deadline_s=30)), sent)
        transport._ours.client.PushTaskOutput(request)
        assert transport.online() == SILOS
        check(list(transport.exchange(sent, deadline_s=30)), sent)


@pytest.mark.federation
def test_a_run_that_somebody_stopped_gets_none(federation: Federation) -> None:
    with federation.transport() as transport:
        transport._control.StopRun(StopRunRequest(run_id=transport.run_id))
        for _ in range(2):
            with pytest.raises(RunCancelled, match="was stopped"):
                list(transport.exchange(parcels("echo"), deadline_s=5))


@pytest.mark.federation
def test_a_run_outlives_the_superlinks_database(federation: Federation) -> None:
    with federation.transport() as transport:
        exchange = transport.exchange(parcels("sleep"), deadline_s=60)
        assert next(exchange).silo == "silo0"
        before = transport.run_id
        restart(federation, without_database=True)
        with pytest.raises(MessagesLost):
            list(exchange)
        assert transport.run_id not in (0, before)
        assert transport.online() == SILOS  # who was there was waited for
        sent = parcels("echo")
        check(list(transport.exchange(sent, deadline_s=30)), sent)


def test_silos_that_are_gone_after_an_absence_of_the_superlink_are_waited_for(
    tmp_path: Path,
) -> None:
    # A SuperLink that died as a round was sent came back in 7 s; its silos' nodes were let in again
    # after 20 s, Flower had taken them for gone meanwhile, and the run ended for want of a quorum.
    authority = keys.load_or_create_authority(tmp_path / "tls")
    link = FlowerTransport("127.0.0.1:1", authority.ca_certificate, PLAIN, tmp_path, None)
    answers: list[list[str] | Exception] = []

    def get_nodes(request: object) -> GetNodesResponse:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        nodes = [NodeInfo(node_id=int(name[-1]) + 1, name=name) for name in answer]
        return GetNodesResponse(nodes=nodes)

    link._claimed = Claimed(1, SimpleNamespace(GetNodes=get_nodes, close=print), Mock())
    answers[:] = [list(SILOS)]
    assert link.online() == SILOS
    answers[:] = [["silo0"]]
    assert link.online() == ("silo0",)  # it was never away: who is gone is gone
    answers[:] = [list(SILOS)]
    link.online()
    answers[:] = [httpx.ConnectError("refused"), ["silo0"], ["silo0"], list(SILOS)]
    assert link.online() == SILOS

    def fetched() -> object:
        replies = _Replies({"silo1": "asked"})
        head = SimpleNamespace(
            has_error=lambda: True, error=SimpleNamespace(code=ErrorCode.NODE_UNAVAILABLE)
        )
        replies.arrived["asked"] = (head, None, b"", 0.0)
        return link._fetch(link._ours, "asked", replies, math.inf)[0]

    answers[:] = [httpx.ConnectError("refused"), list(SILOS)]
    link.online()
    with pytest.raises(MessagesLost):
        fetched()
    assert fetched() == Fault("unreachable", "the silo's node has gone")  # asked again, it is


@pytest.mark.federation
def test_a_stranger_with_another_authority_is_not_trusted(
    federation: Federation, tmp_path: Path
) -> None:
    stranger = keys.load_or_create_authority(tmp_path / "tls")
    with pytest.raises(CoordinatorUnreachable, match="certificate"):
        FlowerTransport.open(federation.link.address, stranger.ca_certificate, PLAIN, home=tmp_path)


def test_nobody_at_the_address_is_a_clear_error(tmp_path: Path) -> None:
    authority = keys.load_or_create_authority(tmp_path / "tls")
    address = f"127.0.0.1:{free_port()}"
    with pytest.raises(CoordinatorUnreachable, match=f"nobody answers at {address}"):
        FlowerTransport.open(address, authority.ca_certificate, PLAIN, home=tmp_path)


@contextlib.contextmanager
def breaking_off() -> Iterator[tuple[str, list[bytes]]]:
    """Yield an address that takes connections and breaks them off, and what came by each."""
    taken: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    taken.append(connection.recv(1))
                    connection.close()

        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{listener.getsockname()[1]}", taken
        listener.shutdown(socket.SHUT_RDWR)


def test_a_superlink_that_is_started_again_is_waited_for_before_there_is_a_run(
    tmp_path: Path,
) -> None:
    authority = keys.load_or_create_authority(tmp_path / "tls")
    with breaking_off() as (address, taken):
        for wait_s, least in ((0.0, 1), (1.0, 3)):
            taken.clear()
            with pytest.raises(CoordinatorUnreachable, match="nobody answers"):
                FlowerTransport.open(
                    address, authority.ca_certificate, PLAIN, home=tmp_path, wait_s=wait_s
                )
            assert len(taken) >= least


def test_the_same_content_is_the_same_bundle(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "model.py").write_text("x = 1\n")
    (tmp_path / "single.py").write_text("y = 2\n")
    paths = [tmp_path / "single.py", tmp_path / "package"]
    modules = read_modules(paths)
    assert sorted(modules) == ["package/__init__.py", "package/model.py", "single.py"]
    bundle = build_bundle(modules)
    os.utime(tmp_path / "single.py", (0, 0))
    assert build_bundle(read_modules(reversed(paths))) == bundle
    assert bundle_hash(bundle) not in (bundle_hash(PLAIN), bundle_hash(build_bundle(version="9")))
    kept = keep_bundle(bundle, tmp_path / "bundles")
    assert kept.name == f"{bundle_hash(bundle)}.zip"
    assert kept.read_bytes() == bundle
    assert keep_bundle(bundle, tmp_path / "bundles") == kept


def test_a_bundle_cannot_leave_its_folder(tmp_path: Path) -> None:
    import io
    import zipfile

    with pytest.raises(JobInvalid):
        build_bundle({"../outside.py": b""})
    with pytest.raises(JobInvalid, match="missing"):
        read_modules([tmp_path / "missing.py"])
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("../outside.py", "")
    with pytest.raises(Refused, match="outside"):
        keep_bundle(target.getvalue(), tmp_path / "bundles")
    with pytest.raises(Refused, match="not a zip"):
        keep_bundle(b"no zip", tmp_path / "bundles")
    assert not list(tmp_path.rglob("outside.py"))


def restart(
    federation: Federation,
    *,
    without_database: bool = False,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Kill the SuperLink and start it again on its port."""
    for pid in federation.link.service.pids():
        os.kill(pid, signal.SIGKILL)
    federation.link.service.stop()
    if without_database:
        for file in (federation.root / "coordinator").glob("superlink.db*"):
            file.unlink()
    meanwhile()
    federation.link = replace(
        federation.link, service=federation.supervisor.restart(federation.link.service)
    )


def node_pid(federation: Federation, name: str) -> int:
    """Return the process id of the node itself: the guard's only direct child."""
    (child,) = psutil.Process(federation.nodes[name].pid).children()
    return child.pid


def test_a_proxy_behind_which_nobody_answers_is_asked_again(tmp_path: Path) -> None:
    # It takes the connection and breaks the handshake off: that read as a certificate that is not
    # trusted, and a run behind such a proxy ended at the first restart of its SuperLink.
    authority = keys.load_or_create_authority(tmp_path / "tls")
    with breaking_off() as (address, taken):
        client = connect(RuntimeHttpClient, address, authority.ca_certificate, component="flwr CLI")
        with pytest.raises(CoordinatorUnreachable, match="nobody answers"):
            call(client.GetNodes, GetNodesRequest(), address=address, retry_s=0.5)
        assert len(taken) > 2
