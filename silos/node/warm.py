"""The warm process: everything imported once, one forked child per message.

A new Python process that imports torch and makes its first optimiser step costs about 4
CPU-seconds; a fork of one that has done so costs 0.06. The node starts ``python -m
silos.node.warm`` and talks to it over a socket (`consilo.machine.forks`); this process has no
network client.

Each child has its own process group, a limit on the memory it may add, a limit on time, and the
message in an anonymous file. It is killed with its whole group at a limit, and when it ends. If
this process dies, the kernel kills the child; if the node dies, this process ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

from consilo.machine.forks import exit_code, fork, load, warm_up
from consilo.machine.log_rate import OneAMinute
from consilo.machine.reaper import become_subreaper, descendants, die_with_parent
from consilo.wire.buffers import Spool
from consilo.wire.parcel import Answer, Parcel
from silos.rows.memory import LIMIT_MIB

MIB = 1024 * 1024
_LARGE_BYTES = MIB
_LOOK_S = 0.1
_SLACK_BYTES = 1024 * MIB  # address space that threads and allocators reserve and never touch
_PAGE_BYTES = resource.getpagesize()


class Files:
    """A parcel in two anonymous files, as it passes between the node, this process and the child.

    Args:
        header: its descriptor.
        body: its descriptor; of a parcel whose body is a `Spool`, the spool's own.
    """

    def __init__(self, header: int, body: Spool) -> None:
        self.header = header
        self.body = body

    @classmethod
    def of(cls, parcel: Parcel | None = None) -> Self:
        """Return files with a parcel in them, or empty ones."""
        given: Any = None if parcel is None else parcel.body
        files = cls(os.memfd_create("header"), given if isinstance(given, Spool) else Spool.make())
        if parcel is not None:
            write_parcel(files, parcel)
        return files

    @property
    def descriptors(self) -> list[int]:
        """Return both descriptors."""
        return [self.header, self.body.fileno()]

    def close(self) -> None:
        """Let go of both."""
        os.close(self.header)
        self.body.close()


def write_parcel(files: Files, parcel: Parcel) -> None:
    """Write a parcel into empty files; the header last, since its presence says that all is there.

    A body that is in its file already stays there.
    """
    body: Any = parcel.body
    if body is not files.body:
        files.body.write(body)
    with os.fdopen(os.dup(files.header), "wb") as file:
        file.write(len(parcel.header).to_bytes(8, "little") + parcel.header)


def read_parcel(files: Files, *, mapped: bool) -> Parcel:
    """Return the parcel in files.

    Args:
        files: with one in them.
        mapped: give a large body as a view of its file, and not as a `Spool`.

    Raises:
        ValueError: where there is none.
    """
    text = os.pread(files.header, os.fstat(files.header).st_size, 0)
    if len(text) < 8 or int.from_bytes(text[:8], "little") != len(text) - 8:
        raise ValueError("no parcel")
    body: Any
    if len(files.body) <= _LARGE_BYTES:
        body = bytes(files.body)
    else:
        body = files.body.view() if mapped else Spool(os.dup(files.body.fileno()))
    return Parcel(text[8:], body)


def serve(channel: socket.socket) -> None:
    """Answer jobs until the other side closes the channel."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        text, descriptors, _, _ = socket.recv_fds(channel, 65536, 5)
        if not text:
            return
        job = json.loads(text)
        try:
            outcome = _run(job, descriptors, channel, reader)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if outcome is None:
            return
        channel.send(json.dumps({"outcome": outcome}).encode())


def _run(
    job: dict[str, Any], descriptors: list[int], channel: socket.socket, reader: int
) -> str | None:
    """Run one job in a child.

    Returns:
        ``done``, ``crashed``, ``memory``, ``time``, or None where the node has gone.
    """
    child = fork(channel, partial(_answer, job, descriptors))
    with contextlib.suppress(OSError):
        os.setpgid(child, child)
    deadline = time.monotonic() + float(job["wall_limit_s"])
    limit_bytes = int(job["memory_limit_mib"]) * MIB
    base_bytes = private_bytes(os.getpid())
    looks = 0
    below: list[int] = []
    try:
        while True:
            ready, _, _ = select.select([reader, channel.fileno()], [], [], _LOOK_S)
            if reader in ready:
                os.read(reader, 512)
            status = exit_code(child)
            if status is not None:
                return "done" if status == 0 else "crashed"
            if channel.fileno() in ready:
                return None  # the node has gone, or wants us gone: it sends nothing meanwhile
            if time.monotonic() > deadline:
                return "time"
            looks += 1
            if looks % 10 == 0:
                below = descendants(child)
            added = (max(0, private_bytes(pid) - base_bytes) for pid in [child, *below])
            if sum(added) > limit_bytes:
                return "memory"
    finally:
        _kill(child)


def _kill(child: int) -> None:
    """Kill the child's group and whatever it left below us, and collect them."""
    deadline = time.monotonic() + 2.0
    with contextlib.suppress(OSError):
        os.killpg(child, signal.SIGKILL)
    while (left := descendants(os.getpid())) and time.monotonic() < deadline:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.002)


def private_bytes(pid: int) -> int:
    """Return how much memory of its own a process holds; 0 where it has gone.

    A child starts with its parent's figure, whose pages it shares until either writes to them.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return sum(
        int(line.split()[1]) * 1024
        for line in status.splitlines()
        if line.startswith(("RssAnon:", "RssShmem:"))
    )


def _answer(job: dict[str, Any], descriptors: list[int]) -> None:
    """Answer one message, in a child: the guard. Code of a bundle runs in a child of that."""
    from silos.node.wall import Wall, has_code
    from silos.node.worker import fork_worker

    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _limit(int(job["memory_limit_mib"]) * MIB)
    os.environ[LIMIT_MIB] = str(job["memory_limit_mib"])
    silo, bundle = Path(job["silo"]), Path(job["bundle"]) if job["bundle"] else None
    factory: Callable[..., Answer] = load(job["answerer"])
    if bundle is not None and job["sandbox"] != "off" and has_code(bundle):
        # Forked before anything is opened, the environment included.
        wall = Wall(fork_worker(bundle, silo), bundle)
        _take_environment(descriptors[4])
        answer = factory(silo, bundle, wall)
    else:
        _take_environment(descriptors[4])
        answer = factory(silo, bundle)
    question, reply = (Files(descriptors[at], Spool(descriptors[at + 1])) for at in (0, 2))
    write_parcel(reply, answer(read_parcel(question, mapped=True)))


def _take_environment(descriptor: int) -> None:
    text = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    os.environ.update(json.loads(text))


def _limit(memory_bytes: int) -> None:
    """Let the kernel refuse what the look every 0.1 s would notice too late.

    It limits memory of the process's own, not what it maps from files: a table may be larger than
    memory (`silos.rows.cache`).
    """
    now = int(Path("/proc/self/statm").read_text().split()[5]) * _PAGE_BYTES
    top = now + memory_bytes + _SLACK_BYTES
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard == resource.RLIM_INFINITY or top < hard:
        resource.setrlimit(resource.RLIMIT_DATA, (top, top))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")  # if memory ends, the child goes first


def bound_log() -> None:
    """Let no stream of bad requests fill the log: the children, one a message, count together."""
    logging.getLogger("consilo.protocols.dispatch").addFilter(OneAMinute())


def main(arguments: list[str] | None = None) -> None:
    """Preload, say that we are ready, and serve."""
    parser = argparse.ArgumentParser(prog="python -m silos.node.warm", description=__doc__)
    parser.add_argument("--channel", type=int, required=True, help="inherited socket")
    parser.add_argument("--parent", type=int, required=True, help="the node's process id")
    parser.add_argument("--preload", default="[]", help="JSON list of modules")
    options = parser.parse_args(arguments)
    die_with_parent(options.parent)
    become_subreaper()
    channel = warm_up(options.channel, options.preload)
    bound_log()
    channel.send(b'{"outcome": "ready"}')
    serve(channel)


if __name__ == "__main__":
    main()
