"""One run of a coordinator and its silos on a virtual clock, through the faults of a schedule.

Everything happens in one thread, in the order of a queue of events. While the coordinator waits for
answers, events are played: a message comes to a silo, its answer leaves, a silo comes back.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sim_disk import Died, MachineDisk
from sim_faults import COORDINATOR, SILOS, Fault, Scenario
from sim_host import Host
from sim_tiny import CONTRACT, JOBS, TinyRun, waiting

from consilo.errors import ConsiloError, RunNotResumable
from consilo.kernel.loop import Party
from consilo.machine.files import on, tidy
from consilo.membership.keys import load_or_create_signing_key
from consilo.protocols.dispatch import answerer
from consilo.record import chain
from consilo.wire.parcel import Arrival, Parcel
from consilo.wire.parcel import Fault as NoAnswer
from consilo.wire.payload import unpack
from consilo.wire.signing import public_hex
from silos.gate.partners import Partner
from silos.simulation.in_memory import write_made_up_root

RUN = "run"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
BEGAN = 1_800_000_000.0
_LONGEST = 10_000
_MEMORY = Path("/dev/shm")


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Let silos' refusals, which faults bring about by the thousand, not be logged meanwhile."""
    logger = logging.getLogger("consilo.protocols.dispatch")
    before, logger.disabled = logger.disabled, True  # to set a level would forget all levels
    try:
        yield
    finally:
        logger.disabled = before


class Violation(AssertionError):
    """What must never be is so."""


@dataclass
class Machine:
    """One machine: its disk, its clock, and whether its process is there."""

    name: str
    disk: MachineDisk
    offset: float = 0.0
    is_up: bool = True
    waiting: list[Callable[[], None]] = field(default_factory=list)
    answer: Callable[[Parcel], Parcel] | None = None
    host: Host | None = None


class World:
    """A coordinator, its silos, and what lies between them.

    Args:
        seed: of all chance.
        scenario: what is run.
        faults: what goes wrong.
        plant: a mistake in a machine's software, to see whether it is noticed.
    """

    def __init__(
        self,
        seed: int,
        scenario: Scenario,
        faults: list[Fault],
        plant: Callable[[Machine], None] | None = None,
    ):
        self.rng = Random(f"world {seed}")
        self.scenario = scenario
        self.silos = scenario.silos
        self.faults = faults
        self.plant = plant
        self.now = 0.0
        self.story: list[str] = []
        self.left: dict[tuple[str, str], Parcel] = {}
        self.heads: dict[str, set[str]] = {name: set() for name in self.silos}
        self.paid: dict[str, set[str]] = {name: set() for name in self.silos}
        self.concluded: dict[str, str] = {}
        self.computed: dict[tuple[str, int, str], bytes] = {}
        self.steps: dict[tuple[str, int, str], str] = {}
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._messages = 0
        self._events = 0
        self.root = Path(tempfile.mkdtemp(dir=_MEMORY if _MEMORY.is_dir() else None))
        self.machines = {n: self._machine(n) for n in (COORDINATOR, *self.silos)}

    def _machine(self, name: str) -> Machine:
        place = self.root / name
        place.mkdir()
        mine = {
            each.at: each.kind
            for each in self.faults
            if each.place == name and each.kind != "clock"
        }
        disk = MachineDisk(place, self.rng)
        if name != COORDINATOR:
            write_made_up_root(place, name)
            for file, content in _keys()[name].items():
                (place / file).write_bytes(content)
        else:
            (place / "runs").mkdir()
        machine = Machine(name, disk)
        if name != COORDINATOR:
            self._open(machine)
        elif self.plant is not None:
            self.plant(machine)
        disk.settle(mine)
        return machine

    def close(self) -> None:
        """Leave nothing behind."""
        for each in self.machines.values():
            each.disk.close()
        shutil.rmtree(self.root, ignore_errors=True)

    def time_of(self, machine: Machine) -> Callable[[], float]:
        """Return a machine's clock."""
        return lambda: BEGAN + self.now + machine.offset

    # The coordinator.

    @_silent()
    def run(self) -> str:
        """Let the run be done, however often its process has to come back; return how it ended."""
        machine = self.machines[COORDINATOR]
        ending = ""
        for _ in range(_LONGEST):
            try:
                with on(machine.disk):
                    ending = self._process(machine)
            except Died:
                self._fell(machine)
                self._wait(self._pause(machine))
                machine.disk.come_back()
                continue
            if ending:
                break
        self._drain()
        return ending

    def _process(self, machine: Machine) -> str:
        """Be one process of the coordinator, from its start to its end."""
        folder = machine.disk.root / "runs" / RUN
        now = self.time_of(machine)
        settings = {
            "silos": self.silos,
            "directory": folder,
            "run_id": RUN,
            "key": KEY,
            "parties": {n: Party(_public()[n]) for n in self.silos},
            "is_checked": self.scenario.is_checked,
            "clock": lambda: self.now,
            "now": now,
            "sleep": self._sleeps,
            "told": lambda text: self.story.append(f"coordinator: {text}"),
        }
        try:
            resume = (folder / "record.jsonl").exists()
            job = JOBS[self.scenario.rounds]
            if self.scenario.waits:
                job = waiting(self.scenario.rounds, len(self.silos))
            run = TinyRun(job, CONTRACT, Wire(self), resume=resume, **settings)
        except RunNotResumable as cause:
            self.story.append(f"coordinator: {cause}")
            return str(cause)
        except OSError as cause:
            self.story.append(f"coordinator: did not start: {cause.strerror}")
            return ""
        try:
            result = run.go()
        except (ConsiloError, OSError) as cause:
            self.story.append(f"coordinator: {type(cause).__name__}: {cause}")
            try:
                result = run.close(cause)
            except OSError:
                return ""
            if chain.read(folder / "record.jsonl")[-1]["kind"] != "closed":
                return ""  # its disk was full: it is not over, and another process goes on with it
        return result.status

    # The silos.

    def _open(self, machine: Machine) -> None:
        name = machine.name
        others = {n: Partner(signing_key=_public()[n]) for n in self.silos if n != name}
        with on(machine.disk):
            machine.host = Host(
                name,
                machine.disk.root,
                others,
                public_hex(KEY),
                self.time_of(machine),
                lambda header, params, delta: self._told(name, header, params, delta),
            )
            if self.plant is not None:
                self.plant(machine)
            machine.answer = answerer(machine.host, clock=lambda: self.now)

    def _told(self, silo, header, params, delta) -> None:
        place = (silo, header.round, params.tobytes().hex())
        self.steps[place] = header.step_id
        if self.computed.setdefault(place, delta.tobytes()) != delta.tobytes():
            raise Violation(f"{silo}: the same question of round {header.round}, another answer")

    def _serve(self, machine: Machine, token: int, parcel: Parcel) -> None:
        """Let a silo's process answer, if there is one."""
        if not machine.is_up:
            machine.waiting.append(lambda: self._serve(machine, token, parcel))
            return
        asked = json.loads(parcel.header)
        what = f"{machine.name}: {asked['scope']}"
        try:
            with on(machine.disk):
                reply = machine.answer(parcel)
        except Died:
            self.story.append(f"{what}: died by {machine.disk.ending}")
            self._fell(machine)
            self._at(self._pause(machine), lambda: self._comes_back(machine))
            return
        except OSError as cause:  # the node says that the process ended without an answer
            self.story.append(f"{what}: {cause.strerror}")
            return
        self._leaves(machine, asked, parcel.body, reply, what)
        self._send(lambda: self.arrived.__setitem__(token, reply))

    def _leaves(self, machine: Machine, asked: dict, body: bytes, reply: Parcel, what: str) -> None:
        said = json.loads(reply.header)
        self.story.append(f"{what}: {said['status']} {said['code']} {said['reason']}".rstrip())
        self.heads[machine.name].add(said["head"])
        if said["status"] != "ok":
            return
        if asked["verb"] == "conclude":
            self.concluded[machine.name] = unpack(body)["payload"]["status"]
        if asked["verb"] == "step":
            self.paid[machine.name].add(said["step_id"])
        before = self.left.setdefault((machine.name, said["step_id"]), reply)
        if before != reply:
            raise Violation(f"{what}: a step that was answered is answered with other bytes")
        self.hold(machine)

    def hold(self, machine: Machine) -> None:
        """Raise `Violation` where a silo does not know what it has said, or has not paid for it."""
        paid = {each["body"]["step_id"] for each in _reserved(machine)}
        if missing := self.paid[machine.name] - paid:
            raise Violation(f"{machine.name}: {len(missing)} answers left that nobody paid for")
        path = machine.disk.root / "audit.jsonl"
        text = path.read_bytes() if path.exists() else b""
        for head in self.heads[machine.name]:
            if f'"hash":"{head}"'.encode() not in text:
                raise Violation(f"{machine.name}: its log lacks a line that it has signed")

    def _comes_back(self, machine: Machine) -> None:
        machine.disk.come_back()
        tidy(machine.disk.root)  # as a node does when it starts
        try:
            self._open(machine)
        except Died:
            self._fell(machine)
            self._at(self._pause(machine), lambda: self._comes_back(machine))
            return
        except OSError:
            self._at(1.0, lambda: self._comes_back(machine))
            return
        machine.is_up = True
        self.story.append(f"{machine.name}: is back")
        self.hold(machine)
        waiting, machine.waiting = machine.waiting, []
        for each in waiting:
            self._at(0.1, each)

    def _fell(self, machine: Machine) -> None:
        machine.is_up = False
        self.story.append(f"{machine.name}: {machine.disk.ending} at step {machine.disk.steps}")

    def _pause(self, machine: Machine) -> float:
        here = (machine.name, machine.disk.steps)
        return next((each.seconds for each in self.faults if (each.place, each.at) == here), 1.0)

    # Messages and time.

    def _send(self, deliver: Callable[[], None]) -> None:
        """Let a message travel, as the schedule has it."""
        self._messages += 1
        wait, copies = 0.05 + 0.2 * self.rng.random(), [0.0]
        for fault in self.faults:
            if fault.at != self._messages or fault.place:
                continue
            self.story.append(f"message {self._messages}: {fault.kind} {fault.seconds:g}")
            if fault.kind == "lose":
                copies = []
            elif fault.kind == "double":
                copies.append(fault.seconds)
            else:
                wait += fault.seconds
        for later in copies:
            self._at(wait + later, deliver)

    def send(self, name: str, token: int, parcel: Parcel) -> None:
        """Send a request to a silo."""
        self._send(lambda: self._serve(self.machines[name], token, parcel))

    def _at(self, seconds: float, play: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (self.now + seconds, next(self._order), play))

    def play(self, until: float) -> bool:
        """Play the next event; return whether there was one before ``until``."""
        if not self._queue or self._queue[0][0] > until:
            self.now = max(self.now, min(until, self.now + 1e9))
            return False
        at, _, play = heapq.heappop(self._queue)
        self.now = max(self.now, at)
        self._events += 1
        if self._events > _LONGEST:
            raise Violation("it does not come to an end")
        for fault in self.faults:
            if fault.kind == "clock" and fault.at == self._events:
                self.machines[fault.place].offset += fault.seconds
                self.story.append(f"{fault.place}: its clock is set by {fault.seconds:g} s")
        play()
        return True

    def _wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.play(end):
            pass

    def _sleeps(self, seconds: float) -> None:
        """Let the coordinator's process sleep, or die of it."""
        self.machines[COORDINATOR].disk.step()
        self._wait(seconds)

    def _drain(self) -> None:
        while self._queue:
            self.play(self._queue[0][0])

    arrived: dict[int, Parcel]


class Wire:
    """What the coordinator's process sees of the silos."""

    takes_pieces = False

    def __init__(self, world: World):
        self._world = world
        self._disk = world.machines[COORDINATOR].disk
        world.arrived = {}
        self._tokens = itertools.count()

    def online(self):
        """Everybody: who is down may be back before a step's deadline."""
        return self._world.silos

    def exchange(self, parcels, *, deadline_s):
        world, sent = self._world, {}
        began = world.now
        for name, parcel in parcels.items():
            sent[name] = next(self._tokens)
            world.send(name, (id(self), sent[name]), parcel)
        for name, number in sent.items():
            token = (id(self), number)
            while token not in world.arrived:
                self._disk.step()  # the process may die while it waits
                if not world.play(began + deadline_s):
                    break
            reply = world.arrived.pop(token, None)
            seconds = world.now - began
            if reply is None:
                yield Arrival(name, None, NoAnswer("deadline", "no answer in time"), seconds)
            else:
                yield Arrival(name, reply, None, seconds)

    def close(self):
        """Nothing is held."""


def _reserved(machine: Machine):
    """Return what a silo's ledger has reserved; the disk is not asked to count these steps."""
    disk = machine.disk
    database = disk._databases.get(disk.root / "ledger.db")
    if database is None or not database.execute("PRAGMA user_version").fetchone()[0]:
        return []
    rows = database.execute("SELECT step_id FROM entries WHERE kind = 'reserved'").fetchall()
    return [{"body": {"step_id": step}} for (step,) in rows]


_cache: dict[str, dict[str, bytes]] = {}


def _keys() -> dict[str, dict[str, bytes]]:
    """Return each silo's signing key, as files; made once a process."""
    if not _cache:
        with tempfile.TemporaryDirectory() as folder:
            for name in SILOS:
                path = Path(folder) / name / "signing.key"
                load_or_create_signing_key(path)
                _cache[name] = {each.name: each.read_bytes() for each in path.parent.iterdir()}
                _hex[name] = public_hex(load_or_create_signing_key(path))
    return _cache


_hex: dict[str, str] = {}


def _public() -> dict[str, str]:
    _keys()
    return _hex
