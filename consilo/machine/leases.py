"""A lease on a thing that one process at a time may go on with; a process that hangs loses it.

The holder has the file locked, which ends with it, and stirs: every two seconds it writes the time.
Whoever wants the lease gets it at once where the holder has died. Where it lives and has not
stirred for `LEASE_S` seconds (it was stopped, or its machine hardly runs it) it is killed first: a
process that woke beside its successor would go on with what is no longer its own. One that stirs
keeps the lease; and each gets a second look, a little later, so that one whose machine was stopped
altogether is not taken for one that hangs as it wakes. Who lets go of it takes its number out of
the file, so that nobody ends it for what another holds. Times are of the machine's own clock, which
no one can set.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from consilo.machine.locks import Held

LEASE_S = 15.0
"""A holder that has not stirred for so long has lost its lease."""
BEAT_S = 2.0
SECOND_LOOK_S = 2 * BEAT_S
"""So long after a first look a process that lives has stirred, if its machine runs."""
_LOOK_S = 0.05
_DYING_S = 5.0
_LOOKED_AT_S = 1.0
"""For less than this a file is locked by who only looks whether it is (`is_held`)."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Holder:
    """Who holds a lease, as its file says.

    Args:
        pid: its process id; 0 where the file does not say, or it has let go.
        started: when the process began, in ticks since the machine did.
        boot: of the machine, since its start.
        beat: when it stirred last, in seconds of the machine's clock.
        since: when it took the lease, ISO 8601.
        about: what else it says of itself.
    """

    pid: int = 0
    started: int = 0
    boot: str = ""
    beat: float = 0.0
    since: str = ""
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, that is alive."""
        return self.pid > 0 and self.boot == _boot() and started(self.pid) == self.started

    @property
    def still_s(self) -> float:
        """For how many seconds it has not stirred, though it lives on this machine; else 0."""
        return time.monotonic() - self.beat if self.is_here else 0.0

    def kill(self) -> None:
        """End it, if it is a process of this machine."""
        if self.is_here:
            with contextlib.suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def holder(path: Path) -> Holder:
    """Return who holds the lease at ``path``, or held it last."""
    try:
        told: dict[str, Any] = json.loads(path.read_text())
        return Holder(**told)
    except (OSError, ValueError, TypeError):  # none yet, or it is written this moment
        return Holder()


def hung(path: Path, *, lease_s: float = LEASE_S) -> Holder | None:
    """Return who holds a lease and has lost it, seen at two looks; None where nobody has."""
    first = holder(path)
    if first.still_s < lease_s:
        return None
    time.sleep(SECOND_LOOK_S)
    again = holder(path)
    is_same = (again.pid, again.started, again.beat) == (first.pid, first.started, first.beat)
    return again if is_same and again.is_here else None


def is_held(path: Path) -> bool:
    """Return whether a process holds the lease at ``path``."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def leased(path: Path, *, lease_s: float = LEASE_S, **about: str) -> Iterator[None]:
    """Hold the lease at ``path`` while the block runs, and stir.

    The file has mode 0600, is made where it is missing, and never removed.

    Args:
        path: the file, in a folder that is there.
        lease_s: after how many seconds without a sign its holder has lost it.
        about: what else the file says of its holder.

    Raises:
        Held: where another process holds it and stirs, or cannot be ended.
    """
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+b") as file:
        _take(path, file.fileno(), lease_s)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        me = os.getpid()
        ours = Holder(me, started(me), _boot(), since=now, about=about)
        stopped = threading.Event()
        _stir(file.fileno(), ours)
        thread = threading.Thread(
            target=_keep_stirring, args=(file.fileno(), ours, stopped), name="lease", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
            with contextlib.suppress(OSError):
                _stir(file.fileno(), replace(ours, pid=0))


def started(pid: int) -> int:
    """Return when a process began, in ticks since the machine did; 0 where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return 0
    fields = stat.rpartition(b")")[2].split()
    return 0 if fields[0] == b"Z" else int(fields[19])


def _take(path: Path, file: int, lease_s: float) -> None:
    first, began = None, time.monotonic()
    while not _locked(file):
        other = holder(path)
        first = first or other
        stirs = other.pid and other.beat > first.beat
        if other.is_here and (stirs or other.pid == os.getpid()):
            raise Held(other.pid, other.since)
        if not other.is_here and time.monotonic() - began >= _LOOKED_AT_S:
            raise Held(other.pid, other.since)
        looked_s = time.monotonic() - began
        if other.is_here and other.still_s >= lease_s and looked_s >= SECOND_LOOK_S:
            _end(other, file)
            return
        time.sleep(_LOOK_S)


def _end(other: Holder, file: int) -> None:
    """Kill a holder that has lost its lease, and lock the file in its place."""
    other.kill()
    deadline = time.monotonic() + _DYING_S
    while not _locked(file):
        if time.monotonic() > deadline:
            raise Held(other.pid, other.since)
        time.sleep(_LOOK_S)


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _keep_stirring(file: int, ours: Holder, stopped: threading.Event) -> None:
    while not stopped.wait(BEAT_S):
        with contextlib.suppress(OSError):  # a full disk: the room is there since the first time
            _stir(file, ours)


def _stir(file: int, ours: Holder) -> None:
    """Say that we live; nothing waits for the disk, since after a loss of power nobody holds it."""
    told = {**ours.__dict__, "beat": round(time.monotonic(), 3)}
    text = json.dumps(told).encode()
    # Blanks over the end of what a former holder said: a reader finds one text or the other.
    os.pwrite(file, text.ljust(os.fstat(file).st_size), 0)


def _boot() -> str:
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return ""
