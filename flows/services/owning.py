"""One process at a time owns a run: ``runs/RUN/owner.json`` says which, and is its lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from consilo.errors import RunNotResumable
from consilo.machine.files import make_directory
from consilo.machine.leases import LEASE_S, leased
from consilo.machine.locks import Held

OWNER = "owner.json"


@contextmanager
def owning(run: Path, *, flow_run: str) -> Iterator[None]:
    """Own a run while the block goes; a process that owned it and hangs is ended first.

    Args:
        run: the run's folder, made where it is missing.
        flow_run: id of the flow run that owns it, in Prefect.

    Raises:
        RunNotResumable: where another process goes on with it.
    """
    make_directory(run, mode=0o700)
    try:
        with leased(run / OWNER, flow_run=flow_run):
            yield
    except Held as held:
        raise RunNotResumable(
            f"{run.name}: process {held.pid or '(unknown)'} is at work on this run since "
            f"{held.since or '(unknown)'}; wait until it has ended. One that has not stirred for "
            f"{LEASE_S:.0f} s is ended by whoever goes on with its run"
        ) from None
