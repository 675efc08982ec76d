"""The gate: nobody reaches the SuperLink's own application without being somebody.

Flower's control and runtime API have no login, and its fleet API knows keys but no certificates.
The gate stands before them on the same port:

- ``/v1/fleet/…`` and a silo's bodies: only for the node key of an admitted member, shown with a
  certificate that the coordinator has issued, that is not over and not revoked;
- what Consilo itself answers below ``/v1/consilo/`` passes: it checks its callers itself;
- all the rest, the control and runtime API above all: only with the operator's token.

A verdict costs a signature check once and a look into a dictionary from then on. Whether the list
of members has changed is asked every `LOOK_S`; a change forgets all verdicts.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import time
from base64 import b64decode
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509.oid import NameOID
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from consilo.membership.calls import CERTIFICATE_HEADER, OPERATOR_HEADER
from consilo.membership.members import Members
from consilo.membership.quota import Pushes
from consilo.membership.refusals import Refusals

MAX_MESSAGE_BYTES = 64 * 1024**2
"""Of one call of Flower's APIs; what is larger travels as a body of its own."""

LOOK_S = 0.25
_SEEN_EVERY_S = 30.0
_MAX_VERDICTS = 4096
_MAX_HEADER_BYTES = 8192
_FLEET = ("/v1/fleet/", "/v1/consilo/fleet/")
_OURS = "/v1/consilo/"
_FLOWERS = ("/v1/fleet/", "/v1/control/", "/v1/runtime/")
_PUTS = ("/v1/fleet/push-messages", "/v1/fleet/push-object", "/v1/consilo/fleet/deliver")
_PULLS = ("/v1/fleet/pull-messages", "/v1/consilo/fleet/take")


@dataclass(frozen=True)
class Verdict:
    """What the gate thinks of a node.

    Args:
        name: of the member; empty where it is none.
        reason: why it is refused; empty where it may pass.
        until: seconds since 1970 from which it is refused.
    """

    name: str
    reason: str = ""
    until: float = 0.0


class Judge:
    """Decides who may pass.

    Args:
        members: the list; a connection of its own.
        authorities: the certificate authorities that count.
        token: the operator's.
        refusals: gets every refusal.
        key_header: the header in which a node shows its public key.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        members: Members,
        authorities: Callable[[], Iterable[x509.Certificate]],
        token: str,
        refusals: Refusals,
        *,
        key_header: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.members = members
        self.refusals = refusals
        self.seen: set[str] = set()
        self.unsettled = False
        """Whether the list has changed since Flower's nodes were last brought in line with it."""
        self._authorities = authorities
        self._trusted = _by_der(authorities())
        self._token = token.encode("ascii")
        self._key_header = key_header
        self._clock = clock
        self._verdicts: dict[tuple[str, str], Verdict] = {}
        self._looked = 0.0

    def refresh(self, *, now: bool = False) -> None:
        """Forget the verdicts if the list has changed.

        Args:
            now: look even if that was done a moment ago.
        """
        clock = time.monotonic()
        if not now and clock - self._looked < LOOK_S:
            return
        self._looked = clock
        if self.members.changed():
            self._trusted = _by_der(self._authorities())
            self._verdicts.clear()
            self.unsettled = True

    def node(self, headers: Headers) -> Verdict:
        """Return the verdict on the caller of the fleet API."""
        self.refresh()
        # Of a header that comes twice the first counts, here as with Flower.
        public = headers.get(self._key_header, "")
        certificate = headers.get(CERTIFICATE_HEADER, "")
        key = (public, certificate)
        verdict = self._verdicts.get(key)
        if verdict is None:
            verdict = self._judge(public, certificate)
            if len(self._verdicts) >= _MAX_VERDICTS:
                self._verdicts.clear()
            self._verdicts[key] = verdict
        if not verdict.reason:
            if self._clock() >= verdict.until:
                return Verdict(verdict.name, "the certificate or its key is over; renew it")
            self.seen.add(verdict.name)
        return verdict

    def operator(self, headers: Headers) -> bool:
        """Return whether the caller has the operator's token."""
        shown = headers.get(OPERATOR_HEADER, "").encode("latin-1")
        return hmac.compare_digest(shown, self._token)

    def _judge(self, public: str, certificate: str) -> Verdict:
        if not certificate:
            return Verdict("", "no certificate is shown; join with 'consilo silo init'")
        if len(certificate) > _MAX_HEADER_BYTES or len(public) > _MAX_HEADER_BYTES:
            return Verdict("", "the certificate or key is too long to be one")
        shown = _parsed(certificate)
        if shown is None:
            return Verdict("", "what is shown as a certificate is none")
        known = self.members.presented(shown.serial)
        if known is None or not _is_issued(certificate, self._trusted):
            return Verdict("", "the certificate is not one that this coordinator has issued")
        if known.name != shown.name or known.fingerprint != shown.key_sha256:
            return Verdict("", "the certificate names another silo or key than was certified")
        if not _same_key(public, shown.key):
            return Verdict(known.name, "the certificate belongs to another key than the caller's")
        if known.revoked or known.state == "removed":
            return Verdict(known.name, "the silo was removed and its certificate is revoked")
        if known.state != "admitted":
            return Verdict(known.name, f"the silo is {known.state}")
        until = min(shown.until, datetime.fromisoformat(known.key_until).timestamp())
        if self._clock() < shown.since:
            return Verdict(known.name, "the certificate is not valid yet; check the clocks")
        return Verdict(known.name, "", until)


class Gate:
    """ASGI middleware, the outermost one.

    Args:
        app: what stands behind it.
        judge: who may pass.
        reconcile: brings Flower's list of nodes in line with the members; gets the application.
        tick: called every half second.
        pushes: how much each silo may put in; Flower itself keeps whatever it is sent.
    """

    def __init__(
        self,
        app: ASGIApp,
        judge: Judge,
        reconcile: Callable[[Any], None],
        tick: Callable[[], None],
        pushes: Pushes | None = None,
    ) -> None:
        self._app = app
        self._judge = judge
        self._reconcile = reconcile
        self._tick = tick
        self._pushes = pushes or Pushes()
        self._busy = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let pass, or refuse with one sentence."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if scope["type"] != "http":
            return  # nothing here speaks anything else; the server closes the connection
        path, caller = scope["path"], HTTPConnection(scope)
        if path.startswith(_FLEET):
            if path == "/v1/fleet/activate-node":
                await self._catch_up(scope["app"], now=True)
            verdict = self._judge.node(caller.headers)
            status, reason, silo = 403, verdict.reason, verdict.name
        elif path.startswith(_OURS):
            reason = silo = ""
        else:
            status, silo = 401, ""
            reason = (
                "" if self._judge.operator(caller.headers) else "the operator's token is missing"
            )
        if not reason and (path.startswith(_FLOWERS) or path in _PUTS):
            status, reason = _size(scope["method"], caller.headers)
            if not reason and path in _PUTS:
                size = int(caller.headers.get("content-length", 0))
                status, reason = 429, self._pushes.fault(silo, size)
        if reason:
            answer = refusal(self._judge.refusals, caller, status, reason, silo=silo)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        await run_in_threadpool(self._reconcile, scope["app"])
        watching = asyncio.create_task(self._watch(scope["app"]))
        try:
            await self._app(scope, receive, send)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
            self._judge.refusals.close()

    async def _watch(self, app: Any) -> None:
        noted = time.monotonic()
        while True:
            await asyncio.sleep(2 * LOOK_S)
            await self._catch_up(app)
            self._tick()
            self._judge.refusals.flush()
            if self._judge.seen and time.monotonic() - noted > _SEEN_EVERY_S:
                names, self._judge.seen = self._judge.seen, set()
                await run_in_threadpool(self._judge.members.saw, names)
                noted = time.monotonic()

    async def _catch_up(self, app: Any, *, now: bool = False) -> None:
        self._judge.refresh(now=now)
        if self._judge.unsettled:
            async with self._busy:
                self._judge.unsettled = False
                await run_in_threadpool(self._reconcile, app)


class Again:
    """ASGI middleware behind the doorbell: who was suspended while it waited gets no message."""

    def __init__(self, app: ASGIApp, judge: Judge) -> None:
        self._app = app
        self._judge = judge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Look a second time at a node that was held."""
        if scope["type"] == "http" and scope["path"] in _PULLS:
            caller = HTTPConnection(scope)
            verdict = self._judge.node(caller.headers)
            if verdict.reason:
                answer = refusal(
                    self._judge.refusals, caller, 403, verdict.reason, silo=verdict.name
                )
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


def refusal(
    refusals: Refusals, caller: HTTPConnection, status: int, reason: str, *, silo: str = ""
) -> Response:
    """Note a refusal; return its one sentence. What follows on the connection is not read."""
    where = _known_path(caller.scope["path"])
    refusals.note(where=where, reason=reason, peer=peer_of(caller), silo=silo)
    return PlainTextResponse(reason, status, {"connection": "close"})


def peer_of(caller: HTTPConnection) -> str:
    """Return the caller's address."""
    return caller.client.host if caller.client else ""


def _known_path(path: str) -> str:
    """Return the path without what a caller may have made up."""
    head = "/".join(path.split("/")[:4])
    shown = head if head.startswith((*_FLOWERS, _OURS)) and head.isascii() else "another path"
    return shown[:60]


def _size(method: str, headers: Headers) -> tuple[int, str]:
    said = headers.get("content-length")
    if said is None:
        known = method in ("GET", "HEAD")
        return (0, "") if known else (411, "the call does not say how long it is")
    # The server takes no other length than digits, nor more bytes than it says.
    if not (said.isascii() and said.isdigit()) or len(said) > 12 or int(said) > MAX_MESSAGE_BYTES:
        return 413, f"a call may have {MAX_MESSAGE_BYTES} bytes at most"
    return 0, ""


@dataclass(frozen=True)
class _Shown:
    name: str
    serial: int
    key: bytes
    key_sha256: str
    since: float
    until: float


@lru_cache(maxsize=1024)
def _parsed(text: str) -> _Shown | None:
    try:
        found = x509.load_der_x509_certificate(b64decode(text, validate=True))
        names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if len(names) != 1:
            return None
        return _Shown(
            str(names[0].value),
            found.serial_number,
            key,
            hashlib.sha256(key).hexdigest(),
            found.not_valid_before_utc.timestamp(),
            found.not_valid_after_utc.timestamp(),
        )
    except (ValueError, UnsupportedAlgorithm):
        return None


@lru_cache(maxsize=1024)
def _is_issued(text: str, authorities: tuple[bytes, ...]) -> bool:
    """Return whether one of the authorities has signed a certificate."""
    found = x509.load_der_x509_certificate(b64decode(text))
    for each in authorities:
        with contextlib.suppress(InvalidSignature, ValueError, TypeError):
            found.verify_directly_issued_by(x509.load_der_x509_certificate(each))
            return True
    return False


def _same_key(shown: str, certified: bytes) -> bool:
    try:
        key = load_pem_public_key(b64decode(shown, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        return False
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == certified


def _by_der(authorities: Iterable[x509.Certificate]) -> tuple[bytes, ...]:
    return tuple(each.public_bytes(Encoding.DER) for each in authorities)
