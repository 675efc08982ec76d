"""The processes below a `consilo.transports.pool.PoolTransport`: one warm parent, many workers.

The pool starts ``python -m consilo.transports.pool_worker``. That process imports what answering
takes, once, and forks a worker for every socket that it is handed; workers share its pages. It has
no threads, so that a fork of it is sound. A worker answers one parcel after another for whatever
silo it is asked for, until its socket closes.

Nobody is left behind: when the pool's process dies, by SIGKILL too, the kernel closes the channel
and the warm process kills its workers; when the warm process dies, the kernel kills them.

Parcels travel in anonymous files whose descriptors are passed, so that neither side ever waits for
the other to read; a body that is the same for many silos is sent to each worker once.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import json
import mmap
import os
import signal
import socket
import struct
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from typing import Any

from consilo.machine.environment import quieten
from consilo.machine.reaper import die_with_parent
from consilo.wire.parcel import Answer, Parcel

REQUEST = struct.Struct("<QQ")  # number, bytes of the silo's name
REPLY = struct.Struct("<Qd")  # number, seconds
FORKED = struct.Struct("<q")  # process id
CRASHED_EXIT = 70

Opener = Callable[[str], Callable[[str], Answer]]
"""Called once per worker with the pool's argument; gives the answer function of a silo by name."""


def load(dotted: str) -> Any:
    """Return the object at ``module:name``, or the module at ``module``."""
    module, _, name = dotted.partition(":")
    found = importlib.import_module(module)
    return getattr(found, name) if name else found


def anonymous_file(*parts: bytes) -> int:
    """Return the descriptor of a file without a name that holds ``parts``."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("consilo")
    else:  # not Linux
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                view = view[os.write(descriptor, view) :]
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def take(descriptor: int) -> bytes:
    """Return what an anonymous file holds, and close it."""
    try:
        size = os.fstat(descriptor).st_size
        if not size:
            return b""
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as view:
            return bytes(view)
    finally:
        os.close(descriptor)


def encode_parcel(parcel: Parcel) -> int:
    """Return the descriptor of a file that holds a parcel."""
    size = len(parcel.header).to_bytes(8, "little")
    return anonymous_file(size, parcel.header, parcel.body)


def decode_parcel(descriptor: int) -> Parcel:
    """Return the parcel in a file, and close it."""
    try:
        size = os.fstat(descriptor).st_size
        with mmap.mmap(descriptor, size, access=mmap.ACCESS_READ) as view:
            end = 8 + int.from_bytes(view[:8], "little")
            return Parcel(view[8:end], view[end:])
    finally:
        os.close(descriptor)


def work(channel: socket.socket, answer_of: Callable[[str], Answer]) -> None:
    """Answer requests until the other side closes the socket."""
    body = b""
    while True:
        text, descriptors, _, _ = socket.recv_fds(channel, 65536, 2)
        if not text:
            return
        number, size = REQUEST.unpack_from(text)
        name = text[REQUEST.size : REQUEST.size + size].decode()
        header = take(descriptors[0])
        if len(descriptors) > 1:
            body = take(descriptors[1])
        started = time.perf_counter()
        reply = answer_of(name)(Parcel(header, body))
        seconds = time.perf_counter() - started
        made = encode_parcel(reply)
        try:
            socket.send_fds(channel, [REPLY.pack(number, seconds)], [made])
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            os.close(made)


def serve(channel: socket.socket, opener: str, argument: str) -> None:
    """Fork a worker for every socket that arrives, until the other side closes the channel."""
    workers: set[int] = set()
    channel.settimeout(0.5)
    while True:
        try:
            text, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
        except TimeoutError:
            _collect(workers)
            continue
        _collect(workers)
        if not text:
            break
        parent = os.getpid()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            _worker(channel, descriptors[0], parent, opener, argument)
        os.close(descriptors[0])
        workers.add(child)
        channel.send(FORKED.pack(child))
    for child in workers:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _worker(
    channel: socket.socket, descriptor: int, parent: int, opener: str, argument: str
) -> None:
    code = CRASHED_EXIT
    try:
        die_with_parent(parent)
        channel.close()
        open_silos: Opener = load(opener)
        work(socket.socket(fileno=descriptor), open_silos(argument))
        code = 0
    except BaseException:  # into the pool's log; nothing may reach the parent's stack
        with contextlib.suppress(BaseException):
            traceback.print_exc()
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _collect(workers: set[int]) -> None:
    for child in list(workers):
        with contextlib.suppress(ChildProcessError):
            if not os.waitpid(child, os.WNOHANG)[0]:
                continue
        workers.discard(child)


def main(arguments: list[str] | None = None) -> None:
    """Import, say that we are ready, and serve."""
    parser = argparse.ArgumentParser(
        prog="python -m consilo.transports.pool_worker", description=__doc__
    )
    parser.add_argument("--channel", type=int, required=True, help="inherited socket")
    parser.add_argument("--preload", default="[]", help="JSON list of modules")
    parser.add_argument("--opener", required=True, help="module:function")
    parser.add_argument("--argument", default="", help="what the opener is called with")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the pool's process to handle
    quieten()
    channel = socket.socket(fileno=options.channel)
    channel.set_inheritable(False)
    for module in [*json.loads(options.preload), options.opener]:
        load(module)
    gc.collect()
    gc.freeze()  # workers share these pages instead of copying them to count references
    channel.send(FORKED.pack(os.getpid()))
    serve(channel, options.opener, options.argument)


if __name__ == "__main__":
    main()
