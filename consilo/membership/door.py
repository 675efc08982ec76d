"""The door: what the coordinator answers to silos about membership, below ``/v1/consilo/``.

| call | who | answer |
|---|---|---|
| ``GET ca`` | anybody | the CA certificate, to compare with the invitation's fingerprint |
| ``POST enrol`` | the invitation's token | keys and software are noted, the silo waits |
| ``GET membership`` | signed by the silo | its state and certificates, keys of the coordinator |
| ``POST hello`` | signed | the software at a node's start is noted |
| ``POST renew`` | signed | a new certificate; with a new key, one for that |
| ``POST leave`` | signed | the silo is struck off |

All answers but the first are statements signed by the coordinator (`Coordinator.statement`). Every
refusal is one sentence; sizes and rates are limited; one caller's trouble is not another's.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, TypeVar

from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from consilo.config import Config, parse
from consilo.errors import ConfigInvalid
from consilo.membership.calls import (
    ENROL_PURPOSE,
    NEW_KEY_PURPOSE,
    PREFIX,
    WINDOW_S,
    Call,
    node_key_is_proved,
)
from consilo.membership.coordinator import Coordinator
from consilo.membership.gate import peer_of, refusal
from consilo.membership.invitation import token_sha256
from consilo.membership.members import Member, State
from consilo.membership.refusals import Refusals
from consilo.membership.software import Software, unsupported
from consilo.silo_name import SiloName
from consilo.wire.json_text import each_once
from consilo.wire.signing import is_signed

MAX_BODY_BYTES = 64 * 1024
_BODY_WITHIN_S = 10.0
_METHODS = {
    "ca": "GET",
    "enrol": "POST",
    "membership": "GET",
    "hello": "POST",
    "renew": "POST",
    "leave": "POST",
}
_AT_ONCE = 4
_BURST, _PER_S = 120, 20.0
_MAX_PEERS = 10_000

ModelT = TypeVar("ModelT", bound=Config)

_Hex64 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Proof = Annotated[str, Field(pattern=r"^[0-9a-f]{2,400}$")]
_NodeKey = Annotated[str, Field(pattern=r"^ecdsa-sha2-nistp384 [A-Za-z0-9+/=]{1,400}\n?$")]


class Denied(Exception):
    """A call is refused.

    Args:
        status: of HTTP.
        reason: one sentence for the caller.
        silo: who called, once that is sure enough to be written down.
    """

    def __init__(self, status: int, reason: str, *, silo: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.silo = silo


class Enrolment(Config):
    """The body of ``enrol``; ``proof`` is by the node key, ``signature`` by the signing key."""

    token: _Hex64
    name: SiloName
    node_key: _NodeKey
    signing_key: _Hex64
    software: dict[str, Any]
    proof: _Proof
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]

    def signed_part(self) -> dict[str, Any]:
        """Return what the signing key signs."""
        return self.model_dump(exclude={"signature"})


class Renewal(Config):
    """The body of ``renew``: nothing, a new node key, or a new signing key."""

    node_key: _NodeKey | None = None
    proof: _Proof | None = None
    signing_key: _Hex64 | None = None
    signature: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")] | None = None


class Hello(Config):
    """The body of ``hello``."""

    software: dict[str, Any]


class MembershipDoor:
    """ASGI middleware: answers about membership, passes on all the rest.

    Args:
        app: what stands behind it.
        coordinator: the list and the keys; a connection of its own.
        refusals: gets every refusal.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        app: ASGIApp,
        coordinator: Coordinator,
        refusals: Refusals,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._app = app
        self._desk = Desk(coordinator, clock=clock)
        self._refusals = refusals
        self._rates = Rates()
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, refuse, or pass on."""
        path = scope.get("path", "")
        what = path.removeprefix(PREFIX)
        if scope["type"] != "http" or not path.startswith(PREFIX) or what not in _METHODS:
            await self._app(scope, receive, send)
            return
        call = Request(scope, receive)
        try:
            content = await self._answer(what, call)
        except Denied as cause:
            answer = refusal(self._refusals, call, cause.status, cause.reason, silo=cause.silo)
        else:
            kind = "application/x-pem-file" if what == "ca" else "application/json"
            answer = Response(content, media_type=kind)
        await answer(scope, receive, send)

    async def _answer(self, what: str, call: Request) -> bytes:
        if not self._rates.allow(peer_of(call)):
            raise Denied(429, "too many calls from this address; wait a few seconds")
        if call.method != _METHODS[what]:
            raise Denied(405, f"this call is made by {_METHODS[what]}")
        body = await _body(call)
        async with self._at_once:
            return await run_in_threadpool(
                self._desk.answer, what, call.method, call.scope["path"], call.headers, body
            )


class Desk:
    """Decides about calls, one at a time; no network."""

    def __init__(self, coordinator: Coordinator, *, clock: Callable[[], float]) -> None:
        self._home = coordinator
        self._clock = clock

    def answer(
        self, what: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> bytes:
        """Return the content of the answer.

        Raises:
            Denied: where there is none.
        """
        if what == "ca":
            return self._home.authority.ca_certificate.read_bytes()
        try:
            if what == "enrol":
                name = self._enrol(_read(Enrolment, body))
            else:
                name = self._signed(what, method, path, headers, body)
        except ConfigInvalid as cause:
            raise Denied(409, "; ".join(cause.findings)) from None
        return json.dumps(self._home.statement(name)).encode()

    def _enrol(self, wanted: Enrolment) -> str:
        found = self._home.members.invited_by(token_sha256(wanted.token))
        if found is None:
            raise Denied(403, "no invitation has this token; ask for a new one")
        member, expires, used = found
        name = member.name
        if wanted.name != name:
            raise Denied(403, "the invitation is for another name", silo=name)
        if used:
            same = member.signing_key == wanted.signing_key
            if same and member.node_key.strip() == wanted.node_key.encode().strip():
                return name  # the same silo again: its first answer was lost
            raise Denied(403, "this invitation was used already, with other keys", silo=name)
        if self._home.members.now().timestamp() >= _seconds(expires):
            raise Denied(403, "this invitation has expired; ask for a new one", silo=name)
        proved = node_key_is_proved(
            wanted.node_key.encode(),
            name,
            wanted.signing_key,
            wanted.proof,
            token_sha256(wanted.token),
        )
        signed = is_signed(
            wanted.signing_key, ENROL_PURPOSE, wanted.signed_part(), wanted.signature
        )
        if not (proved and signed):
            raise Denied(403, "the caller does not hold the keys that it names", silo=name)
        software = _software(wanted.software)
        self._refuse_old(software, name)
        self._home.members.enrol(name, wanted.node_key.encode(), wanted.signing_key, software)
        return name

    def _signed(
        self, what: str, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> str:
        member = self._caller(method, path, headers, body)
        name = member.name
        if what == "membership":
            self._home.members.note_refresh(name)
        elif what == "hello":
            software = _software(_read(Hello, body).software)
            self._home.members.note_software(name, software)
            self._refuse_old(software, name)
        elif what == "renew":
            _must_be(member, "admitted")
            self._renew(member, _read(Renewal, body))
        elif what == "leave" and member.state != "removed":
            self._home.remove(name, by="silo")
        return name

    def _caller(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Member:
        call = Call.of(headers)
        if call is None:
            raise Denied(401, "the call is not signed by a silo")
        member = self._home.members.get(call.silo)
        if member is None or not member.signing_key:
            raise Denied(401, "no silo of this name has joined")
        if not call.is_by(member.signing_key, method, path, body):
            raise Denied(401, "the signature is not that of the silo's signing key")
        apart_s = self._clock() - call.time
        if abs(apart_s) > WINDOW_S:
            late = "behind" if apart_s > 0 else "ahead"
            raise Denied(
                401,
                f"the call's time is more than {WINDOW_S} s {late}; check the clocks",
                silo=member.name,
            )
        if not self._home.members.use_nonce(call.nonce, keep_s=2 * WINDOW_S):
            raise Denied(401, "this call was made before; it counts once", silo=member.name)
        if member.state == "removed" and not path.endswith("leave"):  # it may hear so again
            raise Denied(403, "the silo was removed from the federation", silo=member.name)
        return member

    def _renew(self, member: Member, wanted: Renewal) -> None:
        name = member.name
        if wanted.signing_key is not None:
            said = {"silo": name, "replaces": member.signing_key, "by": wanted.signing_key}
            signature = wanted.signature or ""
            if not is_signed(wanted.signing_key, NEW_KEY_PURPOSE, said, signature):
                raise Denied(403, "the caller does not hold the new signing key", silo=name)
            self._home.members.set_signing_key(name, wanted.signing_key)
        elif wanted.node_key is not None:
            public, proof = wanted.node_key.encode(), wanted.proof or ""
            if not node_key_is_proved(public, name, member.signing_key, proof):
                raise Denied(403, "the caller does not hold the new node key", silo=name)
            self._home.change_key(name, public)
        else:
            self._home.renew(name)

    def _refuse_old(self, software: Software, name: str) -> None:
        why = unsupported(software.wire)
        if why:
            raise Denied(426, why, silo=name)


class Rates:
    """How often one address may call: a bucket of `_BURST` that fills by `_PER_S` a second."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def allow(self, peer: str) -> bool:
        """Return whether one more call is fine, and count it."""
        now = self._clock()
        left, since = self._left.get(peer, (float(_BURST), now))
        left = min(float(_BURST), left + (now - since) * _PER_S)
        if peer not in self._left and len(self._left) >= _MAX_PEERS:
            self._left.clear()
        self._left[peer] = (max(0.0, left - 1.0), now)
        return left >= 1.0


def _must_be(member: Member, state: State) -> None:
    if member.state != state:
        raise Denied(403, f"the silo is {member.state}, not {state}", silo=member.name)


async def _body(call: Request) -> bytes:
    """Return the body, if it is small and comes soon."""
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_WITHIN_S):
            async for part in call.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise Denied(413, f"a call may have {MAX_BODY_BYTES} bytes at most")
    except ClientDisconnect:
        raise Denied(400, "the call was cut off") from None
    except TimeoutError:
        raise Denied(408, f"the call did not come within {_BODY_WITHIN_S:.0f} s") from None
    return bytes(body)


def _read(model: type[ModelT], body: bytes) -> ModelT:
    try:
        return parse(model, json.loads(body or b"{}", object_pairs_hook=each_once), where="call")
    except (ValueError, RecursionError):
        raise Denied(400, "the call's body is not JSON") from None
    except ConfigInvalid:
        # What exactly is wrong is not repeated: it is the caller's, and would be logged.
        known = ", ".join(model.model_fields)
        raise Denied(400, f"the call's body has not the form that is known: {known}") from None


def _software(value: Mapping[str, Any]) -> Software:
    try:
        return Software.parse(value)
    except ValueError as cause:
        raise Denied(400, f"the software manifest is wrong: {cause}") from None


def _seconds(time_text: str) -> float:
    return datetime.fromisoformat(time_text).timestamp()
