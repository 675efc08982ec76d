"""The template: forks a process for each unit of privacy, and never runs a bundle's code itself.

Forked from the guard before anything of the silo is opened, and locked in. It has read the bundle's
text, imported what that imports of installed packages, and knows job and public parameters. Of a
unit it gets a descriptor only, which it hands to the process that it forks and closes: no row is
ever in its memory, so that none is in that of a process it forks later. Each such process

- has that one descriptor, reads its rows from it, and then locks itself in further: it opens no
  file, starts no process and no thread, and has nothing that outlives it (`sandbox.alone`);
- has an address space that is larger by half of the message's memory at most, so that no row's
  process can bring the message to its limit, whose end would be seen;
- runs the job's own code only then, writes its answer into the descriptor, and is killed when its
  time is over. Processes begin at fixed intervals, whatever the one before did, one at a time.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import resource
import signal
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from consilo.horizontal import unit as units
from consilo.horizontal.features import Encoding
from consilo.learners.sources import Source, source_at
from consilo.machine import sandbox
from silos.node.channel import Channel, believed
from silos.rows.memory import LIMIT_MIB

_SPARE = 1.25
"""From one beginning to the next, in limits: a killed process needs time to be taken down."""


_PAGE_BYTES = resource.getpagesize()
_UNLIMITED_MIB = 4096
"""Of a message whose caller says no limit."""


def serve(channel: Channel, bundle: Path, silo: Path, content: bytes) -> None:
    """Fork what the guard asks for, until it has gone.

    Args:
        channel: the way to the guard.
        bundle: packed.
        silo: the silo's directory, which nothing readable may contain.
        content: job and contract.

    Raises:
        SandboxUnavailable: where this process cannot be locked in.
    """
    more_bytes = int(os.environ.get(LIMIT_MIB, _UNLIMITED_MIB)) << 19
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    sandbox.confine([bundle], keep=(channel.descriptor, statm), hidden=silo, forks=True)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    job, contract = believed(content)
    known: dict[str, Any] = {
        "job": job,
        "encoding": Encoding.plan(contract, job),
        "search_path": (bundle,),
    }
    _import_installed(source_at(bundle))
    channel.send(b"R")
    begins = time.monotonic()
    with socket.socket(fileno=os.dup(channel.descriptor)) as way:
        while True:
            kind, content = channel.receive()
            if kind == b"W":
                known["params"] = believed(content)
                continue
            what, limit_s = believed(content)
            _, (descriptor, *_), _, _ = socket.recv_fds(way, 1, 1)
            time.sleep(max(0.0, begins - time.monotonic()))
            started = time.monotonic()
            begins = started + limit_s * _SPARE
            child = os.fork()
            if not child:
                _be_one(descriptor, what, known, statm, more_bytes)
            os.close(descriptor)
            _wait(child, started + limit_s)
            channel.send(b"E", struct.pack("d", time.monotonic() - started))
            if kind == b"M":  # of made-up rows: how long it took is nobody's
                begins = time.monotonic()


def _limit_memory(statm: int, more_bytes: int) -> None:
    """Let this process have so many bytes more than its parent has, shared ones included.

    Args:
        statm: of the parent, which is as large.
        more_bytes: what code of the job may add.
    """
    most = int(os.pread(statm, 256, 0).split()[0]) * _PAGE_BYTES + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _be_one(
    descriptor: int, what: str, known: Mapping[str, Any], statm: int, more_bytes: int
) -> None:
    """Be the process of one unit; never returns."""
    try:
        _limit_memory(statm, more_bytes)
        # Whatever else is open is closed before one line of the job's own code runs.
        sandbox.alone(keep=(descriptor,))
        _, content = Channel(descriptor).receive()
        rest = memoryview(units.answer(what, believed(content), **known))
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    finally:
        os._exit(0)


def _wait(child: int, until: float) -> None:
    """Wait until a child has ended, which is killed when its time is over."""
    while not os.waitpid(child, os.WNOHANG)[0]:
        left = until - time.monotonic()
        if left <= 0 or signal.sigtimedwait({signal.SIGCHLD}, left) is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return


def _import_installed(source: Source) -> None:
    """Import what the bundle's modules import of installed packages, which the silo trusts.

    What is missing, or wants more than this process may, the job's own code will notice.
    """
    for text in (source.packed or {}).values():
        for module, names in _imports(text):
            if source.find(module.partition(".")[0]) is not None:
                continue
            with contextlib.suppress(Exception):
                found = importlib.import_module(module)
                for name in names:
                    if not hasattr(found, name):
                        importlib.import_module(f"{module}.{name}")


def _imports(text: bytes) -> Iterator[tuple[str, list[str]]]:
    with contextlib.suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(text.decode("utf-8"))):
            if isinstance(node, ast.Import):
                yield from ((each.name, []) for each in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module, [each.name for each in node.names if each.name != "*"]
