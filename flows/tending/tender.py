"""What ``consilo up`` does beside watching: in a thread, since servers may be slow to answer.

Each quarter of a minute it asks the parts whether they work, and looks for what nobody owns; each
hour it lets lapse what is kept for a time only. ``HOME/tended.json`` says what it found last, for
``consilo status``.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from consilo.errors import ConsiloError
from consilo.machine.files import write_atomic
from consilo.machine.logs import turn_over
from consilo.machine.processes import Supervisor
from consilo.membership.coordinator import Keep, Reachable
from consilo.membership.notify import Notify
from flows.services.federation import Addresses
from flows.services.place import Say
from flows.tending.dead_flow_runs import end_dead
from flows.tending.events import events
from flows.tending.findings import Finding
from flows.tending.probes import Probes
from flows.tending.reconcile import reconcile
from flows.tending.retention import let_lapse
from flows.watching.notices import Outbox

TENDED = "tended.json"
EVERY_S = 15.0
"""A run that nobody owns, or a part that stands still, is noticed within this."""
_LAPSE_EVERY_S = 3600.0
_ENDING_S = 20.0


class Tender:
    """Tends one coordinator's directory.

    Args:
        home: the coordinator's directory.
        supervisor: of what runs there.
        addresses: where it answers.
        say: told what is new.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        home: Path,
        supervisor: Supervisor,
        addresses: Addresses,
        say: Say,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._supervisor = supervisor
        self._addresses = addresses
        self._say = say
        self._clock = clock
        self._probes = Probes(say, clock=clock)
        self._outbox = Outbox(home)
        self._told: set[str] = set()
        self._lapse_at = clock()

    def tend(self) -> None:
        """Do all of it once."""
        services = self._supervisor.services
        self._probes.look(services)
        # A silo's node turns its own over, whoever has started it.
        turn_over({each.log for each in services if not each.name.startswith("silo ")})
        self._end_dead()
        found = reconcile(
            self._home,
            prefect_api=self._addresses.prefect_api,
            tracking_uri=self._addresses.tracking_uri,
            act=True,
        )
        for each in found:
            self._tell(str(each))
        self._note(found)
        self._notify(found)
        if self._clock() >= self._lapse_at:
            self._lapse_at = self._clock() + _LAPSE_EVERY_S
            place = Reachable.load(self._home)
            keep = Keep() if place is None else place.keep
            let_lapse(self._home, keep, now=time.time())

    def _notify(self, found: Sequence[Finding]) -> None:
        """Write down what people should know of, and send what has not arrived."""
        place = Reachable.load(self._home)
        notify = Notify() if place is None else place.notify
        if not notify.ways:
            return
        now = datetime.now(UTC)
        self._outbox.take(events(self._home, found, ahead_days=notify.ahead_days, now=now))
        for each in self._outbox.deliver(notify):
            self._tell(each)

    def _end_dead(self) -> None:
        try:
            for name in end_dead(self._addresses.prefect_api):
                self._tell(f"flow run {name} died with its process and is closed in Prefect")
        except OSError:  # the server is away; the next time finds the same
            return

    def _note(self, found: Sequence[Finding]) -> None:
        told = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "services": {
                each.name: each.since.isoformat(timespec="seconds")
                for each in self._supervisor.services
                if each.lasting and each.returncode is None
            },
            "settled": [each.to_json() for each in found if each.done],
        }
        write_atomic(self._home / TENDED, json.dumps(told, indent=1).encode())

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._say(text)


@contextmanager
def tending(
    home: Path,
    supervisor: Supervisor,
    addresses: Addresses,
    say: Say,
    *,
    every_s: float = EVERY_S,
) -> Iterator[None]:
    """Tend a coordinator's directory, at once and again and again, while the block runs."""
    tender, over = Tender(home, supervisor, addresses, say), threading.Event()

    def go_on() -> None:
        while True:
            try:
                tender.tend()
            except (ConsiloError, OSError) as cause:  # a full disk, say: the next time may do it
                say(f"looking for what nobody owns failed: {cause}")
            if over.wait(every_s):
                return

    thread = threading.Thread(target=go_on, name="tending", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(_ENDING_S)
