"""The coordinator's SuperLink: how to start it, and which silos are registered there.

``python -m consilo.transports.flower.superlink ARGUMENTS`` is Flower's own ``flower-superlink``
with our `gate`, `door`, `doorbell`, `mail` and `bodies` before its application and without one log
line per request. Who belongs to the federation is said by the list of members beside the keys'
folder (`consilo.membership.coordinator`), not by Flower's own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import logging
import resource
import socket
import ssl
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from consilo.errors import ConfigInvalid, VersionUnsupported
from consilo.machine.environment import child_environment, quieten
from consilo.machine.log_rate import OneAMinute
from consilo.machine.processes import Service, Supervisor, listens
from consilo.membership.coordinator import operator_token
from consilo.membership.keys import Authority, public_key_pem
from consilo.transports.flower.calls import call, connect
from consilo.transports.flower.version import require_flower

_UNREGISTERED = "unregistered"


@dataclass(frozen=True)
class SuperLink:
    """Where a running SuperLink answers.

    Args:
        address: ``host:port``; control, fleet and runtime API share it.
        ca_certificate: trusts its certificate.
        service: its processes.
    """

    address: str
    ca_certificate: Path
    service: Service


@dataclass(frozen=True)
class Presence:
    """Whether a silo's node is connected.

    Args:
        state: ``online``, ``gone`` or ``never online``.
        since: when it came, or was lost, ISO 8601; empty where it never came.
    """

    state: str
    since: str


def start_superlink(
    supervisor: Supervisor,
    home: Path,
    authority: Authority,
    *,
    port: int,
    host: str = "127.0.0.1",
    timeout_s: float = 60.0,
    head_within_s: float = 10.0,
    connections: int = 2000,
) -> SuperLink:
    """Start a SuperLink with TLS, SuperNode authentication and a database in ``home``.

    Flower's control API has no login: our gate before it asks for the operator's token. Still the
    server binds to the loopback interface unless told otherwise.

    Args:
        supervisor: stops it again.
        home: the coordinator's folder; keeps ``superlink.db``, ``bodies/``, ``superlink.log`` and
            ``flwr/``.
        authority: certificate and key to serve with; the folder above its own is the coordinator's
            directory, with the list of members (`consilo.membership.coordinator.Coordinator`).
        port: to listen on.
        host: address to bind to.
        timeout_s: how long it may take to come up.
        head_within_s: how long it waits for a TLS handshake, or for the head of a request.
        connections: how many it has at once.
    """
    require_flower()
    operator_token(authority.ca_certificate.parent)
    home.mkdir(mode=0o700, parents=True, exist_ok=True)  # models pass through its database
    service = supervisor.start(
        "the SuperLink",
        superlink_command(
            home,
            authority,
            host=host,
            port=port,
            head_within_s=head_within_s,
            connections=connections,
        ),
        log=home / "superlink.log",
        # Objects of megabytes pass through 40 threads; with an arena each, their memory stays.
        env=child_environment(home=home / "flwr", MALLOC_ARENA_MAX="2"),
        healthy=lambda: listens(port, host),
        timeout_s=timeout_s,
        port=port,
        host=host,
        lasting=True,
        answers=lambda: _shakes_hands(port, host),
    )
    return SuperLink(f"{host}:{port}", authority.ca_certificate, service)


_HANDSHAKE_S = 5.0


def _shakes_hands(port: int, host: str) -> bool:
    """Return whether the process that listens on ``port`` answers: the kernel alone would listen.

    What it shows is not looked at, and nothing is asked.
    """
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, port), timeout=_HANDSHAKE_S) as plain,
        anybody.wrap_socket(plain),
    ):
        return True


def superlink_command(
    home: Path,
    authority: Authority,
    *,
    host: str,
    port: int,
    head_within_s: float = 10.0,
    connections: int = 2000,
) -> list[str]:
    """Return the command line of the SuperLink; see `start_superlink`."""
    options = {
        "--ssl-ca-certfile": authority.ca_certificate,
        "--ssl-certfile": authority.server_certificate,
        "--ssl-keyfile": authority.server_key,
        "--isolation": "process",
        "--host": host,
        "--port": port,
        "--database": home.resolve() / "superlink.db",
    }
    flat = [str(part) for pair in options.items() for part in pair]
    module = "consilo.transports.flower.superlink"
    ours = {
        "--bodies": home.resolve() / "bodies",
        "--keys": authority.ca_certificate.parent,
        "--head-within": head_within_s,
        "--connections": connections,
    }
    doors = [str(part) for pair in ours.items() for part in pair]
    return [sys.executable, "-m", module, *doors, "--enable-supernode-auth", *flat]


class Registry:
    """Which silos the SuperLink knows: name, public key, node.

    Calls on the control API from a process that is up cost milliseconds; Flower's command line
    costs 1.3 CPU-seconds each.
    """

    def __init__(self, address: str, ca_certificate: Path) -> None:
        require_flower()
        from flwr.supercore.control import ControlHttpClient

        self._address = address
        self._client = connect(ControlHttpClient, address, ca_certificate, component="flwr CLI")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def register(self, name: str, public_key: bytes) -> int:
        """Register a key with stock Flower; return its node id. Asked again, it changes nothing.

        Our own SuperLink takes the list of members instead, and strikes off who is not on it.

        Args:
            name: the silo's name; unique.
            public_key: in the OpenSSH format.

        Raises:
            ConfigInvalid: where the name belongs to another key, or the key to another name.
        """
        from flwr.proto.control_pb2 import RegisterNodeRequest

        pem = public_key_pem(public_key)
        for node in self._nodes():
            if node.public_key == pem and node.name == name:
                return int(node.node_id)
            if node.public_key == pem:
                raise ConfigInvalid(name, [f"this key is registered already, as '{node.name}'"])
            if node.name == name:
                raise ConfigInvalid(
                    name, ["this name is registered already with another key; remove it first"]
                )
        request = RegisterNodeRequest(public_key=pem, name=name)
        return int(call(self._client.RegisterNode, request, address=self._address).node_id)

    def silos(self) -> Mapping[str, str]:
        """Return silo name → status (``registered``, ``online``, ``offline``), by name.

        A silo that changes its key has two nodes for a while; one online is enough.
        """
        found = sorted((str(node.name), str(node.status)) for node in self._nodes())
        return dict(found) | {name: status for name, status in found if status == "online"}

    def presences(self) -> Mapping[str, Presence]:
        """Return silo name → since when it is online, or gone."""
        nodes = sorted(self._nodes(), key=lambda node: str(node.status) == "online")
        return {str(node.name): presence_of(node) for node in nodes}  # of two, the one online

    def online(self) -> tuple[str, ...]:
        """Return the names of the silos that are online, sorted."""
        return tuple(name for name, status in self.silos().items() if status == "online")

    def _nodes(self) -> list[Any]:
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = call(self._client.ListNodes, ListNodesRequest(), address=self._address)
        return [node for node in answer.nodes_info if node.status != _UNREGISTERED]


def presence_of(node: Any) -> Presence:
    """Return what Flower's account of a node says of its silo."""
    if not node.last_activated_at:
        return Presence("never online", "")
    if str(node.status) == "online":
        return Presence("online", str(node.last_activated_at))
    # Flower sets it to the moment of a goodbye; else it is when the last heartbeat ran out.
    return Presence("gone", datetime.fromtimestamp(node.online_until, UTC).isoformat())


# Which API each of Flower's layers acts on; each asks for it in its own first lines.
_LAYERS = {
    "ControlSensitiveResponseMiddleware": "/v1/control/",
    "ControlAuthenticationMiddleware": "/v1/control/",
    "ControlLicenseMiddleware": "/v1/control/",
    "ControlEventLogMiddleware": "/v1/control/",
    "RuntimeTracingMiddleware": "/v1/runtime/",
    "NodeAuthMiddleware": "/v1/fleet/",
    "FleetEventLogMiddleware": "/v1/fleet/",
}


class NewCertificate:
    """Lets a running server show a renewed certificate to whoever connects from then on.

    Args:
        authority: the files.
    """

    def __init__(self, authority: Authority) -> None:
        self._files = (authority.server_certificate, authority.server_key)
        self._stamp = self._now()
        self.server: Any = None

    def look(self) -> None:
        """Load the files if they have changed and fit; else the next look will."""
        stamp = self._now()
        if stamp == self._stamp or self.server is None:
            return
        with contextlib.suppress(ssl.SSLError, OSError):  # between the writes of the two files
            self.server.config.ssl.load_cert_chain(*self._files)
            self._stamp = stamp

    def _now(self) -> tuple[int, ...]:
        return tuple(each.stat().st_mtime_ns for each in self._files)


def allow_descriptors(wanted: int) -> None:
    """Let this process have so many open files and connections, as far as the machine lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def main() -> None:
    """Run Flower's SuperLink with a door before it, and a place for large bodies."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--bodies", type=Path, required=True, help="folder for large bodies")
    parser.add_argument("--keys", type=Path, required=True, help="folder of the coordinator's keys")
    parser.add_argument("--head-within", type=float, required=True, help="seconds for a head")
    parser.add_argument("--connections", type=int, required=True, help="how many at once")
    options, sys.argv[1:] = parser.parse_known_args()
    require_flower()
    quieten()
    import uvicorn
    from flwr.supercore import sql_mixin as mixin
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
    from flwr.superlink import main as application
    from starlette.middleware import Middleware

    from consilo.membership.connections import Connection, Crowd, Limits
    from consilo.membership.coordinator import Coordinator
    from consilo.membership.door import MembershipDoor
    from consilo.membership.gate import Again, Gate, Judge
    from consilo.membership.refusals import Refusals
    from consilo.transports.flower.alive import IDLE_S, Alive, Attendance
    from consilo.transports.flower.bodies import Bodies
    from consilo.transports.flower.doorbell import Bell, Door, Only
    from consilo.transports.flower.mail import Mail
    from consilo.transports.flower.roster import reconcile

    # The package exports a function of the same name.
    command = importlib.import_module("flwr.superlink.cli.flower_superlink")
    for module, name in (
        (application, "_get_middleware"),
        (command, "uvicorn"),
        (mixin, "SQLITE_PRAGMAS"),
        *((application, layer) for layer in _LAYERS),
    ):
        if not hasattr(module, name):
            raise VersionUnsupported(f"{module.__name__} has no '{name}'; flwr has changed")
    # 64 MB of page cache for each of up to 15 connections help nobody: an object is read once per
    # silo and deleted. What concerns durability stays as it is.
    mixin.SQLITE_PRAGMAS = tuple(
        (name, "-8000" if name == "cache_size" else value) for name, value in mixin.SQLITE_PRAGMAS
    )
    bell = Bell()
    alive, key_header = Alive(bell), FLEET_HTTP_PUBLIC_KEY_HEADER
    flowers = application._get_middleware
    home = options.keys.resolve().parent
    # Two connections, so that a call that writes does not hold up the gate.
    watched, served = (Coordinator(home, keys=options.keys) for _ in range(2))
    refusals = Refusals(served.audit)
    judge = Judge(
        watched.members,
        watched.trusted,
        operator_token(options.keys),
        refusals,
        key_header=key_header,
    )
    certificate = NewCertificate(served.authority)
    limits = Limits(head_s=options.head_within, connections=options.connections)
    allow_descriptors(2 * limits.connections)

    class Impatient(uvicorn.Server):
        """A server that waits for a TLS handshake no longer than for a head."""

        async def startup(self, sockets: Any = None) -> None:
            loop: Any = asyncio.get_running_loop()
            listen = partial(loop.create_server, ssl_handshake_timeout=limits.head_s)
            loop.create_server = listen
            await super().startup(sockets)

    class Server:
        """Stands for the module ``uvicorn`` where Flower calls ``uvicorn.run``."""

        @staticmethod
        def run(app: Any, **options: Any) -> None:
            crowd = Crowd(limits)
            http = partial(
                Connection, limits=limits, crowd=crowd, opened=alive.opened, closed=alive.closed
            )
            options.update(access_log=False, timeout_graceful_shutdown=2, http=http)
            # Whose connection it is must not be for a header to say.
            options.update(timeout_keep_alive=IDLE_S, proxy_headers=False)
            server = Impatient(uvicorn.Config(app, **options))
            certificate.server = server
            for name in ("uvicorn.error", "asyncio"):  # a line for whatever a stranger sends
                strangers = logging.getLogger(name)
                strangers.addFilter(OneAMinute())
            bell.closing = lambda: server.should_exit
            server.run()

    def only(layer: Any) -> Any:
        prefix = _LAYERS.get(layer.cls.__name__)
        if prefix is None:
            return layer

        def build(app: Any) -> Only:
            return Only(app, prefix, layer.cls(app, *layer.args, **layer.kwargs))

        return Middleware(build)

    def align(app: Any) -> None:
        reconcile(app.state.linkstate_factory.state(), served.members)

    application._get_middleware = lambda: [
        Middleware(Gate, judge=judge, reconcile=align, tick=certificate.look),
        Middleware(MembershipDoor, coordinator=served, refusals=refusals),
        Middleware(Door, bell=bell),
        Middleware(Again, judge=judge),
        Middleware(Mail, bell=bell, heard=partial(alive.heard, key_header=key_header)),
        Middleware(Bodies, folder=options.bodies),
        *(only(layer) for layer in flowers()),
        Middleware(Attendance, alive=alive, key_header=key_header),
    ]
    vars(command)["uvicorn"] = Server
    threading.current_thread().name = "superlink"
    command.flower_superlink()


if __name__ == "__main__":
    main()
