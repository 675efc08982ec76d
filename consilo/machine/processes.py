"""Start services, watch them become healthy, and leave no process behind.

Each service runs below a guard (`consilo.machine.reaper`): a few MiB of Python that holds the other
end of a pipe. When this process stops the service, ends, or is killed with SIGKILL, the guard takes
the service and everything it ever started down.
"""

from __future__ import annotations

import contextlib
import operator
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

from tenacity import (
    Retrying,
    retry_if_exception_type,
    retry_if_result,
    stop_after_delay,
    wait_exponential,
)

from consilo.errors import ServiceFailed
from consilo.machine import reaper as guard

STOP_TOTAL_S = 9.0
"""Stopping everything takes no longer than this."""
_LAST_LINES = 15
_FREE_PORTS = range(20_000, 32_768)
_ATTEMPTS = 100


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that nobody listens on at this moment, and that nobody is given unasked.

    The system gives outgoing connections ports from 32768 up, so that one of those could be gone
    by the time that a service, some seconds into its start, listens on it.
    """
    for _ in range(_ATTEMPTS):
        port = _FREE_PORTS[secrets.randbelow(len(_FREE_PORTS))]
        if not port_in_use(port, host):
            return port
    raise ServiceFailed(f"no free port found between {_FREE_PORTS[0]} and {_FREE_PORTS[-1]}")


def port_in_use(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether somebody holds ``port``."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return True
    return False


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Return whether somebody accepts connections on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex((host, port)) == 0


@dataclass
class Service:
    """A process that a `Supervisor` started, below its guard.

    Args:
        name: for messages.
        argv: the command.
        log: the file that gets its output.
        process: the guard.
        env: the whole environment; None has that of this process.
        cwd: working directory.
        address: host and port that it listens on; None where it listens on none.
        lasting: it should go on until it is stopped: whoever watches starts it again.
        for_good: exit codes after which it is not started again.
        answers: asks it whether it does its work; may raise, which counts as no. None where it
            cannot be asked.
        since: when it was started.
    """

    name: str
    argv: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes]
    _stop_fd: int = field(repr=False)
    env: Mapping[str, str] | None = field(default=None, repr=False)
    cwd: Path | None = None
    address: tuple[str, int] | None = None
    lasting: bool = False
    for_good: frozenset[int] = frozenset()
    answers: Callable[[], bool] | None = field(default=None, repr=False)
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def pid(self) -> int:
        """The guard's process id: the session that the whole service belongs to."""
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        """The exit code of the service, or None while it runs."""
        return self.process.poll()

    @property
    def signal_number(self) -> int:
        """The signal that ended the service; 0 where none did, or it runs."""
        code = self.returncode or 0
        number = -code if code < 0 else code - 128  # a guard hands a signal on as 128 + its number
        return number if number in signal.valid_signals() else 0

    @property
    def ending(self) -> str:
        """How the service ended, in words."""
        number = self.signal_number
        return (
            f"killed by {signal.Signals(number).name}" if number else f"exit code {self.returncode}"
        )

    def pids(self) -> list[int]:
        """Return the ids of all the service's processes, without the guard."""
        return guard.descendants(self.process.pid)

    def is_stopped(self) -> bool:
        """Return whether it stands still at a signal (SIGSTOP), as does all that it should do."""
        for pid in self.pids()[:1]:
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
                return fields[0] == b"T"
        return False

    def kill(self) -> None:
        """End it at once; its guard takes the rest down, and it counts as killed."""
        for pid in self.pids() or [self.process.pid]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)

    def last_lines(self, count: int = _LAST_LINES) -> str:
        """Return the end of the log."""
        try:
            with self.log.open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 16384))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-count:])

    def stop(self, grace_s: float = 5.0) -> None:
        """End the service and everything it started; safe to call twice.

        SIGTERM goes to the service's process group; after ``grace_s`` seconds SIGKILL to the rest.
        """
        with self._lock:
            if self._stop_fd >= 0:
                with contextlib.suppress(OSError):
                    os.write(self._stop_fd, f"{grace_s:.3f}\n".encode())
                os.close(self._stop_fd)
                self._stop_fd = -1
        try:
            self.process.wait(grace_s + 3.0)
        except subprocess.TimeoutExpired:
            for pid in [*self.pids(), self.process.pid]:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(5.0)
        self._sweep()

    def _sweep(self) -> None:
        """Kill what is left of the session where the guard itself was killed.

        The guard has been waited for: a process that has its number now is somebody else, and so is
        its session. The system gives a number to nobody while a session of that number is left.
        """
        if Path(f"/proc/{self.process.pid}").exists():
            return
        for pid in session_members(self.process.pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def session_members(session: int) -> Iterator[int]:
    """Yield the ids of the live processes of a session."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
                if int(fields[3]) == session and fields[0] != b"Z":
                    yield int(entry)


class Supervisor:
    """Starts services and stops them all, last one first, when its block ends for any reason.

    On the main thread, SIGTERM ends the block as Ctrl-C does; the exit code is then 143.

    >>> import tempfile, pathlib
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> with Supervisor() as supervisor:
    ...     service = supervisor.start("nap", ["sleep", "60"], log=folder / "nap.log")
    ...     service.returncode is None
    True
    >>> service.returncode is None
    False
    """

    def __init__(self) -> None:
        self._services: list[Service] = []
        self._lock = threading.Lock()
        self._previous: object = None
        self._handles_signals = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, _terminate)
            self._handles_signals = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        if self._handles_signals:
            signal.signal(signal.SIGTERM, self._previous)  # type: ignore[arg-type]
            self._handles_signals = False

    @property
    def services(self) -> tuple[Service, ...]:
        """What has been started, in order."""
        with self._lock:
            return tuple(self._services)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        healthy: Callable[[], bool] | None = None,
        timeout_s: float = 60.0,
        port: int | None = None,
        host: str = "127.0.0.1",
        lasting: bool = False,
        for_good: frozenset[int] = frozenset(),
        answers: Callable[[], bool] | None = None,
    ) -> Service:
        """Start a service and, if ``healthy`` is given, wait until it says so.

        May be called from several threads at once, so that services start side by side.

        Args:
            name: for messages.
            argv: the command.
            log: the file that gets the output; its folder is made.
            env: the whole environment; `consilo.machine.environment.child_environment` makes one.
            cwd: working directory.
            healthy: asked again and again; may raise, which counts as no.
            timeout_s: how long to wait for it.
            port: the port it will listen on; refused here, with a clear message, if taken.
            host: the address it will listen on.
            lasting: it should go on until it is stopped; see `restart`.
            for_good: exit codes after which it should not be started again all the same.
            answers: asks it, once it has started, whether it does its work.

        Raises:
            ServiceFailed: where it does not start, dies, or is not healthy in time.
        """
        address = None if port is None else (host, port)
        _require_free(name, address)
        process, stop_fd = _spawn(name, argv, log, env, cwd)
        service = Service(
            name,
            tuple(argv),
            log,
            process,
            stop_fd,
            env=env,
            cwd=cwd,
            address=address,
            lasting=lasting,
            for_good=for_good,
            answers=answers,
        )
        with self._lock:
            self._services.append(service)
        if healthy is not None:
            wait_healthy(service, healthy, timeout_s)
        return service

    def restart(self, service: Service, *, argv: Sequence[str] = ()) -> Service:
        """Start a service again that ended; the new one takes its place.

        What is left of it is ended first.

        Args:
            service: which.
            argv: its command from now on; empty keeps the one that it had.

        Raises:
            ServiceFailed: where it cannot be started now; the ended one keeps its place.
        """
        service.stop(grace_s=1.0)
        _require_free(service.name, service.address)
        command = tuple(argv) or service.argv
        process, stop_fd = _spawn(service.name, command, service.log, service.env, service.cwd)
        again = replace(
            service,
            argv=command,
            process=process,
            since=datetime.now(UTC),
            _stop_fd=stop_fd,
            _lock=threading.Lock(),
        )
        with self._lock:
            self._services = [again if each is service else each for each in self._services]
        return again

    def stop(self) -> None:
        """Stop every service, the last started first; bounded by `STOP_TOTAL_S` in all."""
        deadline = time.monotonic() + STOP_TOTAL_S
        previous = _ignore_signals()
        try:
            with self._lock:
                services, self._services = self._services, []
            for waiting, service in zip(
                range(len(services), 0, -1), reversed(services), strict=True
            ):
                left_s = max(0.0, deadline - time.monotonic())
                service.stop(grace_s=min(5.0, max(0.2, left_s / waiting)))
        finally:
            _restore_signals(previous)


def _require_free(name: str, address: tuple[str, int] | None) -> None:
    if address is not None and port_in_use(address[1], address[0]):
        raise ServiceFailed(
            f"{name} cannot start: port {address[1]} is in use; choose another or stop who holds it"
        )


def _spawn(
    name: str,
    argv: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None,
    cwd: Path | None,
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a command below a guard; return the guard, and what ends it when it is closed."""
    log.parent.mkdir(parents=True, exist_ok=True)
    reader, writer = os.pipe()
    command = [sys.executable, "-S", "-E", guard.__file__, "--watch", str(reader), "--"]
    try:
        appending = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        with os.fdopen(appending, "ab") as output:
            process = subprocess.Popen(
                [*command, *argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
                pass_fds=(reader,),
            )
    except OSError as cause:
        os.close(writer)
        raise ServiceFailed(f"{name} cannot start: {cause}") from cause
    finally:
        os.close(reader)
    return process, writer


def wait_healthy(service: Service, healthy: Callable[[], bool], timeout_s: float) -> None:
    """Wait until ``healthy()`` is true.

    Raises:
        ServiceFailed: where the service dies or the time is over; it is stopped then.
    """
    is_late = stop_after_delay(timeout_s)
    asking = Retrying(
        retry=retry_if_exception_type(Exception) | retry_if_result(operator.not_),
        wait=wait_exponential(multiplier=0.02, exp_base=1.3, max=0.2),
        stop=lambda last: service.returncode is not None or is_late(last),
        retry_error_callback=lambda _: False,
    )
    if asking(healthy):
        return
    code = service.returncode
    reason = (
        f"ended with exit code {code}"
        if code is not None
        else f"did not become healthy within {timeout_s:.0f} s"
    )
    service.stop(grace_s=1.0)
    lines = service.last_lines()
    hint = " (a port it wants is in use)" if "address already in use" in lines.lower() else ""
    raise ServiceFailed(f"{service.name} {reason}{hint}; log: {service.log}\n{lines}".rstrip())


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _ignore_signals() -> dict[int, object]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {
        number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)
    }


def _restore_signals(previous: dict[int, object]) -> None:
    for number, handler in previous.items():
        signal.signal(number, handler)  # type: ignore[arg-type]
