"""How a flow gets at its federation: one seam, so that a pipeline runs over any transport.

By default `flows.federation.connect` opens a Flower run; a notebook or a test hands in another one:

    with connecting(local_federation):
        pipeline("heart", home=folder)
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.config import nearest
from consilo.contract import SHIPPED, Contract
from consilo.errors import ConfigInvalid, JobInvalid
from consilo.job import Job
from consilo.kernel import Party
from consilo.membership.members import Member
from consilo.parcel import Transport
from flows import names


@dataclass(frozen=True)
class Order:
    """What a flow wants to do, before it is connected to anybody.

    Args:
        home: the coordinator's directory.
        job: with all changes made.
        contract: what the silos' data must obey.
        search_path: where the job's own modules lie.
        cancelled: set once the run shall stop; a transport that waits looks at it.
        run_id: of the run that a pipeline opens, or goes on with.
        resume: whether that run has begun and its process died.
    """

    home: Path
    job: Job
    contract: Contract
    search_path: tuple[Path, ...]
    cancelled: threading.Event
    run_id: str = ""
    resume: bool = False


@dataclass(frozen=True)
class Connection:
    """An open federation.

    Args:
        transport: how the silos are reached.
        silos: everybody who belongs to the federation, connected or not, suspended or not.
        bundle: SHA-256 of the code that silos execute; empty in process.
        signing_key: signs the run record.
        tracking_uri: of the MLflow server.
        home: the coordinator's directory; runs are kept in ``runs`` below it.
        finish: called once at the end: whether the run went through, and why not.
        parties: silo → how it signs; silos that are not in it exist in a simulation only.
        members: the admitted silos, as the coordinator knows them; empty in a simulation.
        absent: silo → why it is not asked: suspended, or its certificate has expired.
        standing: the same, asked at any later time; empty for a silo that may take part.
    """

    transport: Transport
    silos: tuple[str, ...]
    bundle: str
    signing_key: Ed25519PrivateKey
    tracking_uri: str
    home: Path
    finish: Callable[[bool, str], None]
    parties: Mapping[str, Party] = field(default_factory=dict)
    members: Mapping[str, Member] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)
    standing: Callable[[str], str] = lambda silo: ""


Connect = Callable[[Order], AbstractContextManager[Connection]]
"""Opens a federation for one run and lets go of it at the end."""

_connect: ContextVar[Connect | None] = ContextVar("connect", default=None)


@contextmanager
def connecting(connect: Connect) -> Iterator[None]:
    """Let the flows of this block reach their federation by ``connect``."""
    token = _connect.set(connect)
    try:
        yield
    finally:
        _connect.reset(token)


def connect(order: Order) -> AbstractContextManager[Connection]:
    """Open the federation in ``order.home``, or what `connecting` says."""
    chosen = _connect.get()
    if chosen is None:
        from flows import federation

        return federation.connect(order)
    return chosen(order)


def home_directory(home: str | Path | None) -> Path:
    """Return the coordinator's directory: ``home``, or what the worker's environment says.

    Raises:
        ConfigInvalid: where neither says.
    """
    said = home or os.environ.get(names.HOME_VARIABLE)
    if not said:
        raise ConfigInvalid(
            "(none)",
            [f"where is the federation? Give the parameter home, or set {names.HOME_VARIABLE}"],
        )
    return Path(said).resolve()


def job_file(job: str, home: Path) -> Path:
    """Return the file of a job: a path, one relative to ``home``, or the name of a shipped one.

    Raises:
        JobInvalid: where there is no such file.
    """
    shipped = SHIPPED / "jobs"
    for path in (Path(job), home / job, home / "jobs" / f"{job}.yaml", shipped / f"{job}.yaml"):
        if path.is_file():
            return path.resolve()
    guess = nearest(job, [each.stem for each in shipped.glob("*.yaml")])
    hint = f"did you mean '{guess}'?" if guess else "give the path of a job file"
    raise JobInvalid(job, [f"no such file, and no job of this name comes with Consilo; {hint}"])
