"""The coordinator's SuperLink: how to start it, and which silos are registered there.

``python -m consilo.transports.flower.superlink ARGUMENTS`` is Flower's own ``flower-superlink``
with our `doorbell` and `bodies` before its application and without one log line per request.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from consilo.environment import child_environment, quieten
from consilo.errors import ConfigInvalid, VersionUnsupported
from consilo.keys import Authority, public_key_pem
from consilo.processes import Service, Supervisor, listens
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


def start_superlink(
    supervisor: Supervisor,
    home: Path,
    authority: Authority,
    *,
    port: int,
    host: str = "127.0.0.1",
    timeout_s: float = 60.0,
) -> SuperLink:
    """Start a SuperLink with TLS, SuperNode authentication and a database in ``home``.

    Flower's control API has no login: whoever reaches the port can start runs. So it binds to the
    loopback interface unless told otherwise.

    Args:
        supervisor: stops it again.
        home: the coordinator's folder; keeps ``superlink.db``, ``bodies/``, ``superlink.log`` and
            ``flwr/``.
        authority: certificate and key to serve with.
        port: to listen on.
        host: address to bind to.
        timeout_s: how long it may take to come up.
    """
    require_flower()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)  # models pass through its database
    service = supervisor.start(
        "superlink",
        superlink_command(home, authority, host=host, port=port),
        log=home / "superlink.log",
        # Objects of megabytes pass through 40 threads; with an arena each, their memory stays.
        env=child_environment(home=home / "flwr", MALLOC_ARENA_MAX="2"),
        healthy=lambda: listens(port, host),
        timeout_s=timeout_s,
        port=port,
    )
    return SuperLink(f"{host}:{port}", authority.ca_certificate, service)


def superlink_command(home: Path, authority: Authority, *, host: str, port: int) -> list[str]:
    """Return the command line of the SuperLink."""
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
    bodies = str(home.resolve() / "bodies")
    return [sys.executable, "-m", module, "--bodies", bodies, "--enable-supernode-auth", *flat]


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
        """Admit a silo; return its node id. Asked again with the same key, it changes nothing.

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

    def remove(self, name: str) -> bool:
        """Strike a silo off; return whether it was there. Its node is refused from then on."""
        from flwr.proto.control_pb2 import UnregisterNodeRequest

        for node in self._nodes():
            if node.name == name:
                request = UnregisterNodeRequest(node_id=node.node_id)
                call(self._client.UnregisterNode, request, address=self._address)
                return True
        return False

    def silos(self) -> Mapping[str, str]:
        """Return silo name → status (``registered``, ``online``, ``offline``), by name."""
        return dict(sorted((str(node.name), str(node.status)) for node in self._nodes()))

    def online(self) -> tuple[str, ...]:
        """Return the names of the silos that are online, sorted."""
        return tuple(name for name, status in self.silos().items() if status == "online")

    def _nodes(self) -> list[Any]:
        from flwr.proto.control_pb2 import ListNodesRequest

        answer = call(self._client.ListNodes, ListNodesRequest(), address=self._address)
        return [node for node in answer.nodes_info if node.status != _UNREGISTERED]


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


def main() -> None:
    """Run Flower's SuperLink with a door before it, and a place for large bodies."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--bodies", type=Path, required=True, help="folder for large bodies")
    options, sys.argv[1:] = parser.parse_known_args()
    require_flower()
    quieten()
    import uvicorn
    from flwr.supercore import sql_mixin as mixin
    from flwr.superlink import main as application
    from starlette.middleware import Middleware

    from consilo.transports.flower.bodies import Bodies
    from consilo.transports.flower.doorbell import Bell, Door, Only

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
    flowers = application._get_middleware

    class Server:
        """Stands for the module ``uvicorn`` where Flower calls ``uvicorn.run``."""

        @staticmethod
        def run(app: Any, **options: Any) -> None:
            options.update(access_log=False, timeout_graceful_shutdown=2)
            server = uvicorn.Server(uvicorn.Config(app, **options))
            bell.closing = lambda: server.should_exit
            server.run()

    def only(layer: Any) -> Any:
        prefix = _LAYERS.get(layer.cls.__name__)
        if prefix is None:
            return layer

        def build(app: Any) -> Only:
            return Only(app, prefix, layer.cls(app, *layer.args, **layer.kwargs))

        return Middleware(build)

    application._get_middleware = lambda: [
        Middleware(Bodies, folder=options.bodies),
        Middleware(Door, bell=bell),
        *(only(layer) for layer in flowers()),
    ]
    vars(command)["uvicorn"] = Server
    threading.current_thread().name = "superlink"
    command.flower_superlink()


if __name__ == "__main__":
    main()
