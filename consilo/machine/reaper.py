"""A small process that stands above a service and takes the whole of it down.

`consilo.machine.processes` starts it as ``python -S -E reaper.py [--watch FD] -- COMMAND``. It
imports nothing but the standard library's C modules, so that it costs a few MiB and some
milliseconds.

The guard leads a session of its own and is a *child subreaper*: whatever the service starts,
daemons included, stays below it. It takes everything down when

- the service ends by itself,
- it gets SIGTERM, or a line with a number of seconds arrives on ``FD``,
- ``FD`` is closed, which the kernel does when the process that started us dies, even by SIGKILL.

What a service writes is its user's alone (umask 077), whoever its starter lets read what.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
DEFAULT_GRACE_S = 5.0


def prctl(option: int, value: int) -> None:
    """Call prctl(2); where there is none (not Linux) do nothing."""
    try:
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        pass


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Ask the kernel to send this process a signal when its parent dies; exit if it has already.

    The kernel ties it to the *thread* that forked: use it only below single-threaded parents.
    """
    prctl(_PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def become_subreaper() -> None:
    """Adopt every orphan among this process's descendants."""
    prctl(_PR_SET_CHILD_SUBREAPER, 1)


def descendants(root: int) -> list[int]:
    """Return the process ids below ``root``, parents first."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found.extend(below)
        queue.extend(below)
    return found


def reap(main: int = -1) -> int | None:
    """Collect dead children; return the exit status of ``main`` if it is among them."""
    status = None
    while True:
        try:
            pid, code = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == main:
            status = os.waitstatus_to_exitcode(code)


def take_down(main: int, grace_s: float) -> None:
    """End everything below this process: SIGTERM to ``main``'s group, a grace, then SIGKILL."""
    deadline = time.monotonic() + grace_s
    try:
        os.killpg(main, signal.SIGTERM)
        os.killpg(main, signal.SIGCONT)
    except OSError:
        pass
    while descendants(os.getpid()) and time.monotonic() < deadline:
        reap()
        time.sleep(0.02)
    hard = time.monotonic() + 2.0
    while (left := descendants(os.getpid())) and time.monotonic() < hard:
        for pid in left:
            try:  # noqa: SIM105 - contextlib would cost the guard more than its own code
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        reap()
        time.sleep(0.01)


def start(command: list[str]) -> int:
    """Fork and exec ``command`` in a process group of its own; return its id."""
    parent = os.getpid()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # none is lost meanwhile
    pid = os.fork()
    if pid:
        try:  # noqa: SIM105
            os.setpgid(pid, pid)
        except OSError:  # the child has done so itself and runs its command already
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        return pid
    try:
        os.setpgid(0, 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        os.umask(0o077)
        die_with_parent(parent)
        os.execvp(command[0], command)
    except OSError as cause:
        sys.stderr.write(f"cannot start {command[0]}: {cause.strerror}\n")
    os._exit(127)


def main(arguments: list[str]) -> int:
    """Run a command, watch it, and leave nothing of it behind."""
    split = arguments.index("--")
    watch = int(arguments[1]) if split == 2 else -1
    become_subreaper()
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if watch >= 0:
        os.set_inheritable(watch, False)
    child = start(arguments[split + 1 :])
    watched = [reader] + ([watch] if watch >= 0 else [])
    while True:
        ready, _, _ = select.select(watched, [], [])
        if watch in ready:
            text = os.read(watch, 64).strip()
            take_down(child, float(text) if text else DEFAULT_GRACE_S)
            return 0
        signals = os.read(reader, 64)
        status = reap(child)
        if status is not None:
            take_down(child, 0.5)
            return status if status >= 0 else 128 - status
        if signal.SIGTERM in signals:
            take_down(child, DEFAULT_GRACE_S)
            return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
