"""Many silos over a few worker processes on this machine; the same bytes as in one process.

For simulation at scale. A worker answers for any silo, so what a silo remembers must lie where
every worker finds it (`silos.simulation.simulation` keeps it in one file). What a process boundary
in a real deployment isolates, this one does not: silos share workers.

Memory is bounded whatever the number of silos. Replies are read in the order asked, one at a time,
and those that are early wait in anonymous files outside this process, at most `_AHEAD` per worker
(one, where the request is large). A request's body is in this process once and in each worker once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from consilo.errors import ServiceFailed
from consilo.machine.forks import spawn
from consilo.transports.pool_worker import (
    FORKED,
    REPLY,
    REQUEST,
    anonymous_file,
    decode_parcel,
)
from consilo.wire.buffers import Spool
from consilo.wire.parcel import Arrival, Fault, Parcel

_AHEAD = 4
_MOST_ANSWERS = 500
"""A worker makes room for a fresh one after so many answers, which bounds what a model leaks."""
_LARGE_BYTES = 1 << 20
_LOOK_S = 0.2
_START_S = 120.0


class PoolTransport:
    """Asks silos through a bounded pool of worker processes.

    Args:
        silos: their names.
        opener: ``module:function``; called once in each worker with ``argument``, it returns the
            function that gives a silo's answer function by its name.
        argument: for ``opener``, often a directory.
        workers: how many processes; None takes one per CPU that this process may use.
        preload: modules that the workers share from the start, besides the opener's.
        log: file that gets what the workers print; None takes this process's stderr.

    A worker that dies costs the silo that it was answering for a fault ``crashed``; one that is
    late is killed and costs a fault ``deadline``. Either is replaced, and its other silos are asked
    again, which costs them nothing: verbs are idempotent. Time in the queue does not count.
    """

    def __init__(
        self,
        silos: Sequence[str],
        opener: str,
        argument: str = "",
        *,
        workers: int | None = None,
        preload: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        self._silos = tuple(sorted(silos))
        self._known = frozenset(silos)
        self._lock = threading.Lock()
        self._closed = False
        self._retired: list[_Worker] = []
        modules = [*preload, opener.partition(":")[0]]
        arguments = {"--opener": opener, "--argument": argument}
        self._process, self._channel = spawn(
            "consilo.transports.pool_worker", modules, arguments, log=log
        )
        try:
            self._channel.settimeout(_START_S)
            self._said("its modules cannot be imported")
            number = len(os.sched_getaffinity(0)) if workers is None else workers
            self._workers = [self._fork() for _ in range(max(1, number))]
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pids(self) -> tuple[int, ...]:
        """Ids of the warm process and of its workers."""
        return (self._process.pid, *(each.pid for each in self._workers))

    def online(self) -> tuple[str, ...]:
        """Return every silo's name, sorted."""
        return self._silos

    def exchange(self, parcels: Mapping[str, Parcel], *, deadline_s: float) -> Iterator[Arrival]:
        """Yield each silo's answer in the order asked; see `consilo.wire.parcel.Transport`."""
        waiting: deque[_Asked] = deque()
        left = iter(parcels.items())
        try:
            while True:
                self._send_ahead(left, waiting)
                if not waiting:
                    return
                asked = waiting.popleft()
                yield self._arrival(asked, deadline_s)
        finally:
            for asked in waiting:
                asked.worker.abandon(asked.number)

    def close(self) -> None:
        """End every process of the pool; safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._channel.close()
        for worker in [*getattr(self, "_workers", ()), *self._retired]:
            worker.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(3.0)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _send_ahead(self, left: Iterator[tuple[str, Parcel]], waiting: deque[_Asked]) -> None:
        """Keep the workers busy, within the bound on early replies."""
        while True:
            worker = min(self._workers, key=lambda each: each.load)
            large = worker.holds_large or (bool(waiting) and waiting[-1].is_large)
            # Whoever has nothing out may always ask: exchanges in other threads use the pool too.
            if waiting and worker.load >= (1 if large else _AHEAD):
                return
            following = next(left, None)
            if following is None:
                return
            name, parcel = following
            asked = _Asked(name, parcel, worker)
            if name in self._known:
                self._ask(asked)
            waiting.append(asked)

    def _ask(self, asked: _Asked) -> None:
        while True:
            asked.worker = min(self._workers, key=lambda each: each.load)
            if asked.worker.num_asked >= _MOST_ANSWERS:
                self._replace(asked.worker)
                continue
            try:
                asked.number = asked.worker.send(asked.silo, asked.parcel)
                return
            except _Gone:
                self._replace(asked.worker)

    def _arrival(self, asked: _Asked, deadline_s: float) -> Arrival:
        late = Fault("deadline", f"no answer within {deadline_s:.0f} s")
        if asked.silo not in self._known:
            fault = Fault("unreachable", "no such silo on this transport")
            return Arrival(asked.silo, None, fault, 0.0)
        while True:
            try:
                seconds, descriptor = asked.worker.receive(asked.number, deadline_s)
            except _Gone as gone:
                self._replace(asked.worker)
                if not gone.guilty:
                    self._ask(asked)
                    continue
                fault = late if gone.late else Fault("crashed", "the silo's process died")
                return Arrival(asked.silo, None, fault, gone.seconds)
            reply = decode_parcel(descriptor)
            if seconds > deadline_s:
                return Arrival(asked.silo, None, late, seconds)
            return Arrival(asked.silo, reply, None, seconds)

    def _replace(self, gone: _Worker) -> None:
        with self._lock:
            if gone in self._workers:
                if self._closed:
                    raise ServiceFailed("the pool of silos is closed")
                self._workers[self._workers.index(gone)] = self._fork()
                self._retired.append(gone)
            for worker in [each for each in self._retired if not each.load or each.is_dead]:
                worker.close()
                self._retired.remove(worker)

    def _fork(self) -> _Worker:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            socket.send_fds(self._channel, [b"fork"], [theirs.fileno()])
            return _Worker(ours, self._said("it cannot start a worker"))
        except OSError as cause:
            ours.close()
            raise ServiceFailed(f"the pool's warm process has ended ({cause})") from cause
        finally:
            theirs.close()

    def _said(self, trouble: str) -> int:
        text = self._channel.recv(FORKED.size)
        if not text:
            raise ServiceFailed(f"the pool's warm process ended: {trouble}; its log says why")
        return int(FORKED.unpack(text)[0])


@dataclass
class _Asked:
    silo: str
    parcel: Parcel
    worker: _Worker
    number: int = -1

    @property
    def is_large(self) -> bool:
        return len(self.parcel.body) > _LARGE_BYTES


class _Gone(Exception):
    """A worker is dead; ``guilty`` is whether it died of the question that was waited for."""

    def __init__(self, *, guilty: bool = False, late: bool = False, seconds: float = 0.0) -> None:
        super().__init__("a worker died")
        self.guilty = guilty
        self.late = late
        self.seconds = seconds


@dataclass(eq=False)
class _Worker:
    """One worker process, seen from the pool; usable from several threads."""

    channel: socket.socket
    pid: int
    _sending: threading.Lock = field(default_factory=threading.Lock)
    _reading: threading.Lock = field(default_factory=threading.Lock)
    _out: dict[int, None] = field(default_factory=dict)  # in the order sent
    _arrived: dict[int, tuple[float, int]] = field(default_factory=dict)
    _abandoned: set[int] = field(default_factory=set)
    _body: bytes | None = None
    _next: int = 0
    _dead: bool = False
    _broken: bool = False
    _late: bool = False
    _head: int = -1
    _head_since: float = 0.0

    @property
    def load(self) -> int:
        """How many questions are out, read or not."""
        return len(self._out) + len(self._arrived)

    @property
    def num_asked(self) -> int:
        """How many questions it was sent so far."""
        return self._next

    @property
    def is_dead(self) -> bool:
        """Whether it cannot answer any more."""
        return self._dead

    @property
    def holds_large(self) -> bool:
        return self._body is not None and len(self._body) > _LARGE_BYTES

    def send(self, silo: str, parcel: Parcel) -> int:
        """Ask, and return the question's number."""
        with self._sending:
            if self._dead or self._broken:
                raise _Gone
            number, self._next = self._next, self._next + 1
            name = silo.encode()
            files = [anonymous_file(parcel.header)]
            try:
                if parcel.body is not self._body:
                    files.append(anonymous_file(parcel.body))
                self._out[number] = None
                text, descriptors = REQUEST.pack(number, len(name)) + name, map(Spool.fileno, files)
                socket.send_fds(self.channel, [text], [*descriptors])
                self._body = parcel.body
            except OSError:
                self._out.pop(number, None)
                self._broken = True  # what it answered before can still be read
                raise _Gone from None
            finally:
                for each in files:
                    each.close()
            return number

    def receive(self, number: int, deadline_s: float) -> tuple[float, int]:
        """Return the silo's seconds and the file of its reply, once it is there."""
        while True:
            with self._reading:
                if number in self._arrived:
                    return self._arrived.pop(number)
                first = self._first()
                if not self._dead:
                    self._read(_LOOK_S)
                    if number in self._arrived:
                        return self._arrived.pop(number)
                # The worker is at the first question; its clock starts when somebody looks.
                if first != self._head or self._first() != first:
                    self._head, self._head_since = self._first(), time.monotonic()
                waited = time.monotonic() - self._head_since
                if waited > deadline_s and not self._dead:
                    self._dead = self._late = True
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(self.pid, signal.SIGKILL)
                if self._dead:
                    guilty = self._first() == number
                    raise _Gone(guilty=guilty, late=self._late, seconds=waited)

    def abandon(self, number: int) -> None:
        """Throw the answer away, now or when it comes."""
        with self._reading:
            if number in self._arrived:
                os.close(self._arrived.pop(number)[1])
            elif number in self._out:
                self._abandoned.add(number)

    def close(self) -> None:
        """Close the socket, at which the worker ends, and every answer that nobody fetched."""
        with self._sending, self._reading:
            self._dead = True
            self.channel.close()
            self._body = None

    def _first(self) -> int:
        return next(iter(list(self._out)), -1)

    def _read(self, wait_s: float) -> None:
        try:
            if not select.select([self.channel], [], [], wait_s)[0]:
                return
            text, descriptors, _, _ = socket.recv_fds(self.channel, REPLY.size, 1)
        except ConnectionResetError:
            return  # said once of a dead worker with unread questions; its answers follow
        except (OSError, ValueError):
            text, descriptors = b"", []
        if not text:
            self._dead = True
            return
        number, seconds = REPLY.unpack(text)
        self._out.pop(number, None)
        if number in self._abandoned:
            self._abandoned.discard(number)
            os.close(descriptors[0])
        else:
            self._arrived[number] = (seconds, descriptors[0])
