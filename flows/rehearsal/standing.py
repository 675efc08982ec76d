"""The federation of a rehearsal: real services and nodes on this machine, one for all faults."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from consilo.errors import ServiceFailed
from consilo.machine.processes import Service, Supervisor, listens, wait_healthy
from consilo.machine.reaper import become_subreaper, descendants
from consilo.membership.keys import load_or_create_signing_key
from consilo.transports.flower.bundle import bundle_hash
from flows.rehearsal.copies import Rehearsed
from flows.rehearsal.links import FAIR, Link, links
from flows.rehearsal.place import Place
from flows.services.federation import Addresses, job_bundle, rise
from flows.services.health import presences
from flows.services.launch import launch
from flows.services.place import Say, settle_place, taken_down
from flows.services.services import start_worker
from flows.services.watch import Watch
from flows.tending.tender import tending
from silos.gate.bundles import approve

if TYPE_CHECKING:
    from consilo.transports.flower.superlink import Presence

WHOLE_WITHIN_S = 150.0
ORPHANS_WITHIN_S = 10.0
"""For so long what a fault has left may still be there."""
_SERVICES = {
    "superlink": "the SuperLink",
    "prefect": "the Prefect server",
    "mlflow": "the MLflow server",
    "worker": "the Prefect worker",
    "pipeline": "pipeline",
}


@dataclass(frozen=True)
class Standing:
    """A federation that is up.

    Args:
        place: where all of it is.
        rehearsed: the job, and the silos.
        supervisor: of its services.
        links: silo → its way to the SuperLink.
        watch: starts again what ended.
        say: told what happens.
        before: the Python of an environment with the release before, if there is one.
    """

    place: Place
    rehearsed: Rehearsed
    supervisor: Supervisor
    links: Mapping[str, Link]
    watch: Watch
    say: Say
    before: Path | None = None

    @property
    def home(self) -> Path:
        """The coordinator's directory."""
        return self.place.home

    def service(self, part: str, silo: str | None = None) -> Service:
        """Return the newest service of a part; of a silo its node."""
        name = f"silo {silo}" if part == "silo" else _SERVICES[part]
        return [each for each in self.supervisor.services if each.name == name][-1]

    def kill(self, service: Service, *, held: bool) -> None:
        """Kill a service with all its processes by SIGKILL, as its machine would lose it.

        Args:
            service: which.
            held: whether it stays dead until `start_again`.
        """
        if held:
            service.lasting = False
        for pid in reversed(service.pids()):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def start_again(self, service: Service, argv: Sequence[str] = ()) -> Service:
        """Start a service again that was held; the watch looks after it as before.

        Args:
            service: which.
            argv: its command from now on; empty keeps the one that it had.
        """
        again = self.supervisor.restart(service, argv=argv)
        again.lasting = True
        return again

    def run(
        self, look: Callable[[], None], follow: Callable[[Path], None], resume: str = ""
    ) -> dict[str, Any]:
        """Run the job as ``consilo job run`` does and return its summary.

        Args:
            look: called several times a second.
            follow: told where the run's record will be.
            resume: id of a run to go on with.
        """
        job = self.rehearsed.job
        parameters = {"job": str(self.rehearsed.file), **({"resume": resume} if resume else {})}
        running = launch(self.supervisor, self.home, job, parameters)
        follow(running.record)

        def both() -> None:
            self.watch.look()
            look()

        try:
            return running.wait(self.say, both)
        except ServiceFailed as error:
            summary = {"status": "failed", "reason": str(error)}
            return {**summary, "run_id": running.record.parent.name, "resume": error.resume}

    def settle(self, within_s: float = WHOLE_WITHIN_S) -> tuple[float, list[str]]:
        """Wait until all services are up and all silos online.

        Args:
            within_s: how long.

        Returns:
            How long that took, and what is still missing.
        """
        started = time.monotonic()
        addresses = Addresses.load(self.home)
        while True:
            self.watch.look()
            ended = [e.name for e in self.supervisor.services if e.lasting and e.returncode]
            online = presences(addresses) or {}
            missing = [*ended, *(n for n in self.rehearsed.silos if not self._is_back(n, online))]
            waited_s = time.monotonic() - started
            if not missing or waited_s > within_s:
                return waited_s, missing
            time.sleep(0.2)

    def _is_back(self, silo: str, online: Mapping[str, Presence]) -> bool:
        """Return whether a silo's newest node is online, and not the one before it."""
        seen, began = online.get(silo), psutil.Process(self.service("silo", silo).pid).create_time()
        if seen is None or seen.state != "online":
            return False
        return datetime.fromisoformat(seen.since).timestamp() >= began - 1.0

    def await_listening(self, name: str) -> None:
        """Wait until a service listens.

        Raises:
            ServiceFailed: where it does not in two and a half minutes.
        """
        service = [each for each in self.supervisor.services if each.name == name][-1]
        host, port = service.address or ("", 0)
        wait_healthy(service, lambda: listens(port, host), WHOLE_WITHIN_S)

    def orphans(self) -> int:
        """Return how many processes nobody owns that are left when those who end have had time."""
        deadline = time.monotonic() + ORPHANS_WITHIN_S
        while (left := self._unowned()) and time.monotonic() < deadline:
            _reap(left)
            time.sleep(0.2)
        return len(left)

    def _unowned(self) -> set[int]:
        owned: set[int] = set()
        for service in self.supervisor.services:
            owned |= {service.pid, *service.pids()}
        return set(descendants(os.getpid())) - owned


def _reap(pids: set[int]) -> None:
    """Collect those of our adopted children that have ended."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


@contextmanager
def standing(
    at: Place, rehearsed: Rehearsed, say: Say, *, worker: bool, before: Path | None
) -> Iterator[Standing]:
    """Bring a rehearsal's federation up for the block.

    Processes whose parents are killed become this process's, so that none gets out of sight.

    Args:
        at: where all of it is.
        rehearsed: the job, and the silos.
        say: told what happens.
        worker: whether what is deployed in Prefect is run, too.
        before: the Python of an environment with the release before.

    Raises:
        ServiceFailed: where something does not come up.
    """
    home = at.home
    become_subreaper()
    signer = load_or_create_signing_key(home / "keys" / "record.key")
    digest = bundle_hash(job_bundle(rehearsed.job, (rehearsed.file.parent,), signer))
    for directory in rehearsed.silos.values():
        approve(directory, digest)
    place = settle_place(home)
    with (
        taken_down(home),
        links(list(rehearsed.silos), place.port) as ways,
        Supervisor() as supervisor,
    ):
        rise(
            supervisor,
            home,
            rehearsed.silos,
            say=say,
            place=place,
            reached_at=lambda name: f"127.0.0.1:{ways[name].port}",
        ).wait()
        addresses = Addresses.load(home)
        if worker:
            start_worker(supervisor, home, addresses.prefect_api)
        watch = Watch(home, supervisor, say)
        # Only runs that a worker started are gone on with as under 'consilo up'.
        tended = tending(home, supervisor, addresses, say) if worker else contextlib.nullcontext()
        try:
            with tended:
                yield Standing(at, rehearsed, supervisor, ways, watch, say, before)
        finally:
            for way in ways.values():
                way.weather = FAIR
