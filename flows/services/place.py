"""Where a coordinator answers, chosen once, and who runs it: one ``consilo up`` a directory.

``HOME/coordinator.yaml`` keeps host and ports, so that invitations, and links in records, tags and
artifacts, live over restarts; ``HOME/up.lock`` is held by the one process that runs the services.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from consilo.config import parse
from consilo.errors import ConfigInvalid, InvalidInput, ServiceFailed
from consilo.machine.locks import Held, holding
from consilo.machine.processes import free_port, port_in_use
from consilo.membership.coordinator import Reachable

ANY_HOST = ("0.0.0.0", "::")
STATE = (
    *("flwr", "keys", "logs", "mlflow", "prefect", "promotions", "results", "runs", "superlink"),
    "turns",
)
"""Folders in a coordinator's directory that hold what it keeps."""
_STATE_FILES = (".db", ".json", ".jsonl", ".lock", ".yaml")
_FREE_WITHIN_S = 15.0
"""What a killed predecessor had started is taken down by its guards within this."""

Say = Callable[[str], None]
"""Takes one line for the person who waits."""


@contextmanager
def workplace(directory: Path | None, prefix: str) -> Iterator[Path]:
    """Yield a directory to work in: the one asked for, or a temporary one, which stays.

    Nothing stays of a temporary one where what was asked for is not valid.

    Args:
        directory: where; None makes one.
        prefix: of the name of one that is made.
    """
    if directory is not None:
        yield directory.resolve()
        return
    made = Path(tempfile.mkdtemp(prefix=prefix))
    try:
        yield made
    except InvalidInput:
        shutil.rmtree(made, ignore_errors=True)
        raise


def settle_place(
    home: Path, *, host: str | None = None, port: int | None = None, advertise: str | None = None
) -> Reachable:
    """Return where the coordinator in ``home`` answers; what is said or chosen once is kept.

    Invitations name the SuperLink's address, links those of Prefect, MLflow and the page.

    Args:
        home: the coordinator's directory.
        host: address to bind to; 127.0.0.1 at first.
        port: to listen on; a free one at first.
        advertise: what silos call this machine; else ``host``.

    Raises:
        ConfigInvalid: where silos could not know what to connect to.
    """
    known = Reachable.load(home)
    given = {"host": host, "port": port, "advertise": advertise}
    changes = {key: value for key, value in given.items() if value is not None}
    chosen = {} if known is None else known.model_dump()
    ports = ("port", "prefect_port", "mlflow_port", "page_port")
    for name in ports:
        if chosen.get(name) is None:
            chosen[name] = _another_port({chosen.get(each) for each in ports} | {port})
    place = parse(Reachable, chosen | changes, where="--host, --port, --advertise")
    if place.host in ANY_HOST and not place.advertise:
        raise ConfigInvalid(
            "--host", [f"{place.host} is no address to connect to; say with --advertise what is"]
        )
    if place != known:
        place.save(home)
    return place


def _another_port(taken: set[object]) -> int:
    while (port := free_port()) in taken:
        pass
    return port


def await_free(home: Path, place: Reachable, say: Say, *, within_s: float = _FREE_WITHIN_S) -> None:
    """Wait until nobody holds a port of the coordinator in ``home``.

    Raises:
        ServiceFailed: where somebody still does after ``within_s`` seconds.
    """
    wanted = {
        "the SuperLink": (place.port, place.host),
        "the Prefect server": (place.prefect_port or 0, "127.0.0.1"),
        "the MLflow server": (place.mlflow_port or 0, "127.0.0.1"),
        "the federation's page": (place.page_port or 0, "127.0.0.1"),
    }
    deadline, told = time.monotonic() + within_s, False
    while taken := {n: port for n, (port, host) in wanted.items() if port_in_use(port, host)}:
        which = ", ".join(f"{port} of {name}" for name, port in taken.items())
        if time.monotonic() > deadline:
            raise ServiceFailed(
                f"in use: port {which}; stop who holds it, or write another one into "
                f"{home / 'coordinator.yaml'} (links to the old one then lead nowhere, and silos "
                "are told of another SuperLink by an invitation only)"
            )
        if not told:
            say(f"waiting for port {which}")
            told = True
        time.sleep(0.1)


def close_to_others(home: Path) -> None:
    """Let nobody but its user read what a coordinator keeps in ``home``; what is new is made so.

    What an earlier release has made is closed too. What else lies in ``home``, such as jobs and
    silos, is left as it is: its user has chosen who may read it, and ``home`` itself is closed.
    """
    home.chmod(0o700)
    folders = [each for name in STATE if (each := home / name).is_dir() and not each.is_symlink()]
    files = [each for each in home.iterdir() if each.suffix in _STATE_FILES]
    for folder in folders:
        for place, _, inside in os.walk(folder):
            files += [Path(place), *(Path(place) / name for name in inside)]
    for each in files:
        with suppress(FileNotFoundError):
            mode = each.lstat().st_mode
            if mode & 0o077 and not stat.S_ISLNK(mode):
                each.chmod(stat.S_IMODE(mode) & 0o700)


@contextmanager
def taken_down(home: Path) -> Iterator[None]:
    """Hold ``home`` for the block; nobody finds a federation there before it, nor after it.

    Raises:
        ServiceFailed: where another process holds it; nothing of its is touched.
    """
    file = home / "federation.json"
    try:
        with holding(home / "up.lock"):
            file.unlink(missing_ok=True)
            try:
                yield
            finally:
                file.unlink(missing_ok=True)
    except Held as held:
        raise ServiceFailed(
            f"a federation is up in {home} already: process {held.pid or '(unknown)'} holds it "
            f"since {held.since or '(unknown)'}; stop that one, or use another --dir"
        ) from None
