"""The processes below a `consilo.transports.pool.PoolTransport`: one warm parent, many workers.

The pool starts ``python -m consilo.transports.pool_worker``. That process imports what answering
takes, once, and forks a worker for every socket that it is handed (`consilo.machine.forks`). A
worker answers one parcel after another for whatever silo it is asked for, until its socket closes.

Nobody is left behind: when the pool's process dies, by SIGKILL too, the kernel closes the channel
and the warm process kills its workers; when the warm process dies, the kernel kills them.

Parcels travel in anonymous files whose descriptors are passed, so that neither side ever waits for
the other to read; a body that is the same for many silos is sent to each worker once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import struct
import time
from collections.abc import Callable
from functools import partial

from consilo.machine.forks import exit_code, fork, load, warm_up
from consilo.wire.buffers import Body, Spool
from consilo.wire.parcel import Answer, Parcel

REQUEST = struct.Struct("<QQ")  # number, bytes of the silo's name
REPLY = struct.Struct("<Qd")  # number, seconds
FORKED = struct.Struct("<q")  # process id

Opener = Callable[[str], Callable[[str], Answer]]
"""Called once per worker with the pool's argument; gives the answer function of a silo by name."""


def anonymous_file(*parts: Body) -> Spool:
    """Return a file without a name that holds ``parts``."""
    file = Spool.make()
    for part in parts:
        file.write(part)
    return file


def take(descriptor: int) -> bytes:
    """Return what an anonymous file holds, and close it."""
    with Spool(descriptor) as file:
        return bytes(file)


def encode_parcel(parcel: Parcel) -> Spool:
    """Return a file that holds a parcel."""
    return anonymous_file(len(parcel.header).to_bytes(8, "little"), parcel.header, parcel.body)


def decode_parcel(descriptor: int) -> Parcel:
    """Return the parcel in a file, and close it."""
    with Spool(descriptor) as file:
        view = file.view()
        end = 8 + int.from_bytes(view[:8], "little")
        return Parcel(bytes(view[8:end]), bytes(view[end:]))


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
        with encode_parcel(reply) as made:
            try:
                socket.send_fds(channel, [REPLY.pack(number, seconds)], [made.fileno()])
            except (BrokenPipeError, ConnectionResetError):
                return


def serve(channel: socket.socket, open_silos: Opener, argument: str) -> None:
    """Fork a worker for every socket that arrives, until the other side closes the channel."""
    workers: list[int] = []
    channel.settimeout(0.5)
    while True:
        try:
            text, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
        except TimeoutError:
            text, descriptors = b"look", []
        workers = [each for each in workers if exit_code(each) is None]
        if not text:
            break
        for descriptor in descriptors:
            workers.append(fork(channel, partial(_worker, descriptor, open_silos, argument)))
            os.close(descriptor)
            channel.send(FORKED.pack(workers[-1]))
    for child in workers:
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)


def _worker(descriptor: int, open_silos: Opener, argument: str) -> None:
    work(socket.socket(fileno=descriptor), open_silos(argument))


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
    channel = warm_up(options.channel, options.preload)
    open_silos: Opener = load(options.opener)
    channel.send(FORKED.pack(os.getpid()))
    serve(channel, open_silos, options.argument)


if __name__ == "__main__":
    main()
