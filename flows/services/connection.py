"""How a flow gets at its federation: one seam, so that a pipeline runs over any transport.

By default `flows.services.federation.connect` opens a Flower run; a notebook or a test hands in
another one:

    with connecting(local_federation):
        pipeline("heart", home=folder)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path

from consilo.config import nearest
from consilo.contracts.contract import SHIPPED
from consilo.errors import ConfigInvalid, JobInvalid
from flows.registry import names
from flows.services.order import Connection, Order

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
        from flows.services import federation

        return federation.connect(order)
    return chosen(order)


def home_directory(home: str | Path | None) -> Path:
    """Return the coordinator's directory: ``home``, or what the worker's environment says.

    Raises:
        ConfigInvalid: where neither says.
    """
    place = home or os.environ.get(names.HOME_VARIABLE)
    if not place:
        raise ConfigInvalid(
            "(none)",
            [f"where is the federation? Give the parameter home, or set {names.HOME_VARIABLE}"],
        )
    return Path(place).resolve()


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
