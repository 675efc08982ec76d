"""A warm process: everything is imported once, and each fork of it starts with all of that.

`spawn` starts one and gives the socket to it. The module that it runs calls `warm_up`, says over
the socket that it is ready, and calls `fork` for every child. It has no threads, so that a fork of
it is sound; if it dies, the kernel kills its children.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from consilo.garbage import collect_seldom
from consilo.machine.environment import ISOLATED, child_environment, is_plain, quieten
from consilo.machine.reaper import die_with_parent

CRASHED_EXIT = 70


def load(dotted: str) -> Any:
    """Return the object at ``module:name``."""
    module, _, name = dotted.partition(":")
    return getattr(importlib.import_module(module), name)


def spawn(
    module: str,
    preload: Sequence[str],
    arguments: Mapping[str, str],
    *,
    folder: Path | None = None,
    home: Path | None = None,
    log: Path | None = None,
    plain: bool = False,
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start ``python -m module`` in a process group of its own; return it and a socket to it.

    Args:
        module: it takes ``--channel`` and ``--preload`` for `warm_up`, and ``arguments``.
        preload: modules to import first.
        arguments: option → value.
        folder: where it works; None for here.
        home: its ``FLWR_HOME``.
        log: file of mode 0600 that gets what it prints; None takes our stderr.
        plain: it gets only what of our environment is no secret (`is_plain`).
    """
    environment = child_environment(
        home=home,
        # A pool of threads made by a preload would be dead in every child.
        OMP_NUM_THREADS="1",
        OPENBLAS_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        # Arrow 25, which pandas 3.1 imports, starts a thread that tidies its memory.
        JE_ARROW_MALLOC_CONF="background_thread:false",
    )
    if plain:
        environment = {name: each for name, each in environment.items() if is_plain(name)}
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    options = {"--channel": str(theirs.fileno()), "--preload": json.dumps(list(preload))}
    flat = [part for pair in {**options, **arguments}.items() for part in pair]
    with theirs, contextlib.ExitStack() as files:
        output = sys.stderr.fileno()
        if log is not None:
            output = files.enter_context(open(log, "ab", opener=_private)).fileno()
        process = subprocess.Popen(
            [sys.executable, *ISOLATED, "-m", module, *flat],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(theirs.fileno(),),
            process_group=0,
        )
    return process, ours


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def warm_up(channel: int, preload: str) -> socket.socket:
    """Import what the children will need; return the socket.

    Args:
        channel: its inherited descriptor.
        preload: JSON list of modules.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us to handle
    quieten()
    collect_seldom()
    ours = socket.socket(fileno=channel)
    ours.set_inheritable(False)
    for module in json.loads(preload):
        importlib.import_module(module)
    tasks = len(os.listdir("/proc/self/task"))
    if tasks > 1 or threading.active_count() > 1:
        sys.stderr.write(f"warning: {tasks} threads after the preload; a fork may hang\n")
    gc.collect()
    gc.freeze()  # children share these pages instead of copying them to count references
    return ours


def fork(channel: socket.socket, work: Callable[[], None]) -> int:
    """Fork a child that does ``work`` and ends; return its id.

    Nothing that happens there reaches this process's stack: it says on stderr what went wrong and
    ends with `CRASHED_EXIT`. The channel is closed in it.
    """
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    code = CRASHED_EXIT
    try:
        die_with_parent(parent)
        channel.close()
        work()
        code = 0
    except BaseException:
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def exit_code(child: int) -> int | None:
    """Return how a child has ended, and collect it; None while it lives."""
    try:
        pid, status = os.waitpid(child, os.WNOHANG)
    except ChildProcessError:
        return CRASHED_EXIT
    return os.waitstatus_to_exitcode(status) if pid else None
