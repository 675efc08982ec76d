"""A PostgreSQL server of its own, on the loopback, in a folder that goes away with it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

_START_S = 60.0


@dataclass(frozen=True)
class PostgresServer:
    """Where the server listens; its one user is ``consilo``.

    Args:
        port: on 127.0.0.1.
        password: of the user.
    """

    port: int
    password: str

    @property
    def url(self) -> str:
        """The URL without the password, as silo.yaml has it."""
        return f"postgresql+psycopg://consilo@127.0.0.1:{self.port}/postgres"

    def connect(self):
        """Return a psycopg connection that commits every statement."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user="consilo",
            password=self.password,
            dbname="postgres",
            autocommit=True,
        )


def programs() -> Path | None:
    """Return the folder of initdb and postgres, None where the server is not installed."""
    found = shutil.which("postgres")
    places = [Path(found).parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((place for place in places if (place / "initdb").exists()), None)


@contextmanager
def running() -> Iterator[PostgresServer]:
    """Start a server and end it."""
    place = programs()
    if place is None:
        raise RuntimeError("no PostgreSQL server is installed")
    home = Path(tempfile.mkdtemp(prefix="consilo-postgres-"))
    # The server does not start as root.
    user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    user = user if os.geteuid() == 0 else []
    password = secrets.token_hex(16)
    (home / "password").write_text(password)
    if user:
        for each in (home, home / "password"):
            os.chown(each, 65534, 65534)
    data = home / "data"
    made = [*user, str(place / "initdb"), "-D", str(data), "-U", "consilo", "--no-sync"]
    made += ["--auth=scram-sha-256", "--pwfile", str(home / "password"), "-E", "UTF8"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = None
    try:
        quiet = {**os.environ, "LC_ALL": "C.UTF-8"}
        subprocess.run(made, check=True, capture_output=True, env=quiet, cwd=home, timeout=_START_S)
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
            "max_wal_size": "4GB",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        # Whatever ends this process, even SIGKILL, ends the server.
        user = ["setpriv", "--pdeathsig=INT", *user[1:]]
        with (home / "log").open("wb") as log:
            server = subprocess.Popen(
                [*user, str(place / "postgres"), "-D", str(data), *options],
                stdout=log,
                stderr=log,
                env=quiet,
                cwd=home,
                start_new_session=True,
            )
        found = PostgresServer(port, password)
        _wait(found, server, home / "log")
        yield found
    finally:
        if server is not None:
            server.send_signal(signal.SIGINT)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
        shutil.rmtree(home, ignore_errors=True)


def _wait(server: PostgresServer, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(psycopg.OperationalError):
            server.connect().close()
            return
        time.sleep(0.1)
    raise RuntimeError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")
