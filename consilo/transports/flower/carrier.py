"""The caller's side of `consilo.transports.flower.bodies`: large bodies to and from the SuperLink.

A transfer that breaks goes on with the bytes that are missing, over a new connection, also across a
restart of the SuperLink. The SHA-256 is taken on the way, at both ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import re
import secrets
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    stop_after_delay,
    wait_exponential,
)

from consilo.errors import CoordinatorUnreachable, ReplyInvalid, TransportError
from consilo.transports.flower.bodies import (
    HAVE_HEADER,
    MAX_BODY_BYTES,
    OFFSET_HEADER,
    PREFIX,
    SIZE_HEADER,
)
from consilo.transports.flower.calls import FIRST_PAUSE_S, LONGEST_PAUSE_S, RETRY_S, NotAuthorised
from consilo.wire.buffers import Body, Spool, buffers_of

_BLOCK_BYTES = 1024 * 1024
_TIMEOUT_S = 30.0
_IDLE_S = 3.0  # the SuperLink closes a connection that was idle for 5 s
_BROKEN = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Stored:
    """A body that lies at the SuperLink.

    Args:
        name: 128 random bits, in hexadecimal.
        size: in bytes.
        sha256: of its bytes, in hexadecimal.
    """

    name: str
    size: int
    sha256: str

    @classmethod
    def parse(cls, text: str) -> Stored:
        """Return what `str` wrote.

        Raises:
            ValueError: where it is no such thing.
        """
        match = re.fullmatch(r"([0-9a-f]{32}) (\d{1,12}) ([0-9a-f]{64})", text)
        if match is None or int(match[2]) > MAX_BODY_BYTES:
            raise ValueError("not the place of a body")
        return cls(match[1], int(match[2]), match[3])

    def __str__(self) -> str:
        return f"{self.name} {self.size} {self.sha256}"


class Carrier:
    """Carries bodies; usable from several threads at once.

    Args:
        address: the SuperLink's, ``host:port``.
        ca_certificate: trusts its certificate.
        side: ``fleet`` or ``runtime``.
        identify: headers that say who calls, made anew for every call.
        give_up: called before every try; raises when there is no point any more.
        retry_s: how long to try again where nobody answers.
    """

    def __init__(
        self,
        address: str,
        ca_certificate: Path,
        side: str,
        *,
        identify: Callable[[], Mapping[str, str]],
        give_up: Callable[[], None] = lambda: None,
        retry_s: float = RETRY_S,
    ) -> None:
        self._address = address
        self._side = side
        self._retry_s = retry_s
        self._identify = identify
        self._give_up = give_up
        self._trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._trust.load_verify_locations(cadata=ca_certificate.read_text(encoding="ascii"))
        self._idle: list[tuple[float, http.client.HTTPSConnection]] = []

    def put(self, run_id: int, body: Body) -> Stored:
        """Send a body; return where it lies.

        Raises:
            CoordinatorUnreachable: where nobody answers for ``retry_s``.
            NotAuthorised: where the SuperLink refuses us, or the run has ended.
            TransportError: where it cannot keep the body.
        """
        name, size = secrets.token_hex(16), len(body)
        path = f"{PREFIX}{self._side}/{run_id}/{name}"
        state, hashed = hashlib.sha256(), 0
        for attempt in self._tries():
            with attempt, self._connection() as connection:
                have = 0
                if attempt.retry_state.attempt_number > 1:
                    have = int(self._ask(connection, "HEAD", path).headers[HAVE_HEADER])
                if have < size:
                    headers = {
                        OFFSET_HEADER: str(have),
                        SIZE_HEADER: str(size),
                        "content-length": str(size - have),
                    }
                    self._begin(connection, "PUT", path, headers)
                    at = 0
                    for block in _blocks(body):
                        end = at + len(block)
                        if end > hashed:
                            state.update(block)
                            hashed = end
                        if end > have:
                            connection.sock.sendall(block[max(0, have - at) :])
                            _moved(attempt.retry_state)
                        at = end
                    self._end(connection, path)
                return Stored(name, size, state.hexdigest())
        raise AssertionError("the tries end by an exception")

    def get(self, run_id: int, stored: Stored, into: Spool | None = None) -> Body:
        """Fetch a body.

        Args:
            run_id: Flower's number of the run.
            stored: where it lies.
            into: an empty file for it; without one it comes as a ``bytearray``.

        Raises:
            ReplyInvalid: where it is not what ``stored`` says.
        """
        path = f"{PREFIX}{self._side}/{run_id}/{stored.name}"
        state, got = hashlib.sha256(), 0
        body = bytearray(0)
        for attempt in self._tries():
            with attempt, self._connection() as connection:
                self._begin(connection, "GET", path, {"range": f"bytes={got}-"})
                response = connection.getresponse()
                self._judge(response, path)
                if response.length != stored.size - got:
                    raise ReplyInvalid("a body is not as long as its message says")
                if into is None and not body:
                    body = bytearray(stored.size)
                room = memoryview(body) if into is None else memoryview(bytearray(_BLOCK_BYTES))
                while got < stored.size:
                    block = room[got : got + _BLOCK_BYTES] if into is None else room
                    block = block[: stored.size - got]
                    count = response.readinto(block)
                    if not count:
                        raise http.client.IncompleteRead(b"", stored.size - got)
                    state.update(block[:count])
                    if into is not None:
                        into.write(block[:count])
                    got += count
                    _moved(attempt.retry_state)
                response.read()
                if state.hexdigest() != stored.sha256:
                    raise ReplyInvalid("a body is not the one that its message names")
                return body if into is None else into
        raise AssertionError("the tries end by an exception")

    def drop(self, run_id: int, stored: Stored) -> None:
        """Delete a body; what fails is swept when the run ends."""
        path = f"{PREFIX}{self._side}/{run_id}/{stored.name}"
        with (
            contextlib.suppress(TransportError, *_BROKEN),
            self._connection() as connection,
        ):
            self._ask(connection, "DELETE", path)

    def trust(self, authorities: str) -> None:
        """Trust further authorities (PEM) for every connection from now on."""
        self._trust.load_verify_locations(cadata=authorities)

    def close(self) -> None:
        """Let go of the connections."""
        while self._idle:
            self._idle.pop()[1].close()

    def _connect(self) -> http.client.HTTPSConnection:
        with contextlib.suppress(IndexError):
            since, connection = self._idle.pop()
            if time.monotonic() - since < _IDLE_S:
                return connection
            connection.close()
            self.close()
        host, _, port = self._address.rpartition(":")
        return http.client.HTTPSConnection(
            host.strip("[]"), int(port), timeout=_TIMEOUT_S, context=self._trust
        )

    @contextlib.contextmanager
    def _connection(self) -> Iterator[http.client.HTTPSConnection]:
        """Lend a connection; one that nothing broke is used again."""
        connection = self._connect()
        try:
            yield connection
        except BaseException as cause:
            connection.close()
            if isinstance(cause, ssl.SSLCertVerificationError):  # it will be no other next time
                self._lost(cause)
            raise
        self._idle.append((time.monotonic(), connection))

    def _tries(self) -> Retrying:
        """Return tries until one ends well; a broken one is followed by another."""
        return Retrying(
            before=lambda _: self._give_up(),
            retry=retry_if_exception_type(_BROKEN),
            wait=wait_exponential(multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S),
            stop=stop_after_delay(self._retry_s),
            retry_error_callback=lambda last: self._lost(
                last.outcome.exception() if last.outcome else None
            ),
        )

    def _lost(self, cause: BaseException | None) -> NoReturn:
        raise CoordinatorUnreachable(
            f"a transfer from or to {self._address} broke and cannot go on ({cause})"
        )

    def _begin(
        self,
        connection: http.client.HTTPSConnection,
        method: str,
        path: str,
        headers: Mapping[str, str],
    ) -> None:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {**self._identify(), **headers}.items():
            connection.putheader(name, value)
        connection.endheaders()

    def _end(self, connection: http.client.HTTPSConnection, path: str) -> http.client.HTTPResponse:
        response = connection.getresponse()
        response.read()
        self._judge(response, path)
        return response

    def _ask(
        self, connection: http.client.HTTPSConnection, method: str, path: str
    ) -> http.client.HTTPResponse:
        self._begin(connection, method, path, {})
        return self._end(connection, path)

    def _judge(self, response: http.client.HTTPResponse, path: str) -> None:
        status = response.status
        if status >= 300:
            response.close()  # the connection no longer knows it where the SuperLink closes
        if status in (401, 403):
            raise NotAuthorised(f"the SuperLink at {self._address} refuses a body ({status})")
        if status in (409, 500, 502, 503, 504):
            raise ConnectionError(f"the SuperLink answered {status}")
        if status == 404:
            raise ReplyInvalid("a body that a message names is not at the SuperLink")
        if status >= 300:
            raise TransportError(f"the SuperLink at {self._address} answered {status} to {path}")


def _moved(state: RetryCallState) -> None:
    """Begin the patience anew: bytes of the body have passed."""
    state.attempt_number, state.start_time = 1, time.monotonic()


def _blocks(body: Body) -> Iterator[memoryview]:
    for buffer in buffers_of(body):
        for start in range(0, len(buffer), _BLOCK_BYTES):
            yield buffer[start : start + _BLOCK_BYTES]
