"""The guard's side of the template: asks for processes of single units, reads their answers.

Nothing of an answer is believed but its size.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Self

import numpy as np

from consilo.errors import ConsiloError
from silos.node.channel import Channel, Closed, trusted

log = logging.getLogger(__name__)

FIRST_S = 60.0
"""Most that a made-up row may take."""
LEAST_S = 0.01
_TIMES, _MORE_S = 3.0, 0.002
_LATEST = 3


class Units:
    """A `consilo.kernel.roles.Apart` by way of a template.

    Args:
        channel: the way to it.
        begin: makes the worker at its other end a template; called once, before anything is asked.
        step_id: what it is asked for, as the log has it.
    """

    def __init__(self, channel: Channel, begin: Callable[[], None], step_id: str) -> None:
        self._step_id = step_id
        self._channel = channel
        self._begin: Callable[[], None] | None = begin
        self._took: deque[float] = deque(maxlen=_LATEST)
        self.asked = 0
        """How many units were asked about, made-up rows not counted."""
        self.missing = 0
        """How many of them gave no answer of the size that was asked for."""

    @property
    def limit_s(self) -> float:
        """The time that each unit has: of what made-up rows took last, and of no other."""
        longest = max(self._took, default=FIRST_S)
        return min(FIRST_S, max(LEAST_S, _TIMES * longest + _MORE_S))

    def load(self, params: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Set the parameters that the next processes start with."""
        if self._begin is not None:
            self._begin()
            self._begin = None
        made = {name: np.array(value) for name, value in params.items()}
        self._channel.send(b"W", trusted(made))

    def ask(self, what: str, unit: Mapping[str, Any], most_bytes: int) -> bytes | None:
        """Return what one process answers; None where it gave none in its time, or a larger one."""
        answer = self._one(b"N", what, unit, most_bytes, self.limit_s)[0]
        self.asked += 1
        self.missing += answer is None or len(answer) != most_bytes
        return answer

    def __enter__(self) -> Self:
        """Begin to count the units that are lost."""
        return self

    def __exit__(self, *_: object) -> None:
        """Say in this silo's own log how many units a step lost; nothing of it leaves."""
        if self.missing:
            log.warning(
                "step %s: %d of %d times a unit's process gave no answer, or none in its time "
                "(%.3f s); these added nothing. Where it is many, this machine is overloaded",
                self._step_id,
                self.missing,
                self.asked,
                self.limit_s,
            )

    def measure(self, what: str, unit: Mapping[str, Any], most_bytes: int) -> bytes | None:
        """Return the same for rows that are made up; the next ones get a time like it took.

        A question about no rows at all is no measure of theirs.
        """
        answer, seconds = self._one(b"M", what, unit, most_bytes, FIRST_S)
        if unit:
            self._took.append(seconds)
        return answer

    def _one(
        self, kind: bytes, what: str, unit: Mapping[str, Any], most_bytes: int, limit_s: float
    ) -> tuple[bytes | None, float]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with ours:
                with theirs, socket.socket(fileno=os.dup(self._channel.descriptor)) as way:
                    self._channel.send(kind, trusted((what, limit_s)))
                    socket.send_fds(way, [b"-"], [theirs.fileno()])
                with contextlib.suppress(Closed):  # it has ended already
                    Channel(ours.fileno()).send(b"U", trusted(dict(unit)))
                answer = _read(ours, most_bytes)
            told, content = self._channel.receive()
            if told != b"E":
                raise Closed
        except Closed:
            raise ConsiloError("the template ended") from None
        return answer, struct.unpack("d", content)[0]


def _read(way: socket.socket, most_bytes: int) -> bytes | None:
    """Return all that comes until the other end is closed; None where it is nothing, or more."""
    found = bytearray()
    with contextlib.suppress(OSError):
        while part := way.recv(1 << 20):
            found += part
            if len(found) > most_bytes:
                return None
    return bytes(found) or None
