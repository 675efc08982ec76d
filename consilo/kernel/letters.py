"""Envelopes from silo to silo that the coordinator carries and cannot open.

Each silo makes an X25519 key for one run, signs it with the key that its partners have pinned, and
erases it at the end: whoever reads the traffic later, even with all signing keys, reads nothing. An
envelope is bound to run, protocol, topic, sender, receiver and sequence, is padded to a bucket, and
is taken once. Signed Diffie-Hellman (X25519, RFC 7748), HKDF-SHA256 (RFC 5869) over both public
keys and the whole binding, ChaCha20-Poly1305 (RFC 8439) with a key of its own per envelope.

A protocol introduces its members to each other first:

1. a verb answers ``{"envelopes": Mailbox(silo).introduce(message.cohort)}``; these are public;
2. the next verb calls ``Mailbox(silo).meet(message.payload["envelopes"])``, after which it may
   `Mailbox.seal` for its partners and, from then on, `Mailbox.unseal` what they sent;
3. the last verb calls `Mailbox.close`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from consilo.errors import Refused
from consilo.kernel.headers import Header
from consilo.kernel.view import SiloView
from consilo.wire.json_text import each_once
from consilo.wire.payload import canonical_json

Envelope = np.ndarray[Any, np.dtype[np.uint8]]

_MAGIC = b"CSE1"
_SEQUENCE, _SALT, _TAG, _LENGTH = 8, 32, 16, 8
_HEAD = len(_MAGIC) + _SEQUENCE + _SALT
_SMALLEST = 256
_WINDOW = 1024
"""Envelopes of one sender that are remembered; an older one is refused, whatever it holds."""
_MAX_INTRODUCTION = 2048
_NONCE = bytes(12)
"""A key is used for one envelope only."""


def relay_statement(header: Header, silo: str, key: str) -> dict[str, str]:
    """Return what a silo signs to introduce itself: in which run, with which public key."""
    return {
        "run": header.run_id,
        "manifest": header.manifest.digest,
        "protocol": header.protocol,
        "silo": silo,
        "key": key,
    }


class Mailbox:
    """One silo's end of the relay in one run.

    Args:
        silo: what the verb sees of its silo.
    """

    def __init__(self, silo: SiloView) -> None:
        self._silo = silo
        # A protocol's own path has signs that cannot name a file.
        label = hashlib.sha256(silo.header.protocol.encode()).hexdigest()[:16]
        self._name = f"relay-{label}"
        kept = silo.kept(self._name)
        self._state: dict[str, Any] | None = None if kept is None else json.loads(kept)

    def introduce(self, members: Sequence[str]) -> dict[str, Envelope]:
        """Return this silo's signed public key for every other member; it is no secret."""
        if self._state is None:
            private = X25519PrivateKey.generate().private_bytes_raw().hex()
            self._state = {"private": private, "partners": {}, "seen": {}}
            self._save()
        statement = self._statement(self._silo.name, self._public)
        text = canonical_json({**statement, "signature": self._silo.letters.sign_relay(statement)})
        return {name: _array(text) for name in members if name != self._silo.name}

    def meet(self, introductions: Mapping[str, Envelope], members: Sequence[str]) -> None:
        """Take in the partners' public keys.

        Args:
            introductions: sender → what it sent.
            members: everybody who must have introduced itself; the silo's own name may be there.

        Raises:
            Refused: where one is missing, is not pinned here, or did not sign its key for this run.
        """
        state = self._open_state()
        for name in sorted(set(members) - {self._silo.name}):
            if name not in introductions:
                raise Refused(f"silo '{name}' did not introduce itself", code="relay")
            key = self._checked(name, introductions[name])
            if state["partners"].setdefault(name, key) != key:
                raise Refused(f"silo '{name}' has another relay key than before", code="relay")
        self._save()

    @property
    def partners(self) -> tuple[str, ...]:
        """Whom this silo has met."""
        return tuple(sorted(self._open_state()["partners"]))

    def seal(self, receiver: str, topic: str, content: bytes, *, at_least: int = 0) -> Envelope:
        """Return an envelope; the same content at the same step is the same envelope.

        Args:
            receiver: who shall open it; at most one envelope a step for each.
            topic: what it is, as the receiver expects it.
            content: any bytes.
            at_least: bytes that the content is made to look like, where its size would tell.
        """
        theirs = self._key_of(receiver)
        sequence = self._sequence()
        bound = self._bound(topic, self._silo.name, receiver, sequence)
        size = _LENGTH + len(content)
        filler = bytes(padded_size(max(size, _LENGTH + at_least)) - size)
        padded = len(content).to_bytes(_LENGTH, "little") + content + filler
        # From the content, so that a step that is asked again gives the same bytes, and two
        # contents never share a key.
        secret = bytes.fromhex(self._open_state()["private"])
        salt = hmac.digest(hmac.digest(secret, b"salt", "sha256"), bound + padded, "sha256")
        cipher = self._cipher(theirs, salt, bound, sent=True)
        sealed = cipher.encrypt(_NONCE, padded, bound)
        return _array(_MAGIC + sequence.to_bytes(_SEQUENCE, "big") + salt + sealed)

    def unseal(self, sender: str, topic: str, envelope: Envelope) -> bytes:
        """Return what an envelope holds; a second time only to the very same step.

        Raises:
            Refused: where it was changed, is for somebody or something else, or came before.
        """
        theirs = self._key_of(sender)
        raw = envelope.tobytes()
        if len(raw) < _HEAD + _LENGTH + _TAG or raw[: len(_MAGIC)] != _MAGIC:
            raise Refused(f"what came from '{sender}' is no sealed envelope", code="envelope")
        sequence = int.from_bytes(raw[len(_MAGIC) : len(_MAGIC) + _SEQUENCE], "big")
        bound = self._bound(topic, sender, self._silo.name, sequence)
        cipher = self._cipher(theirs, raw[_HEAD - _SALT : _HEAD], bound, sent=False)
        try:
            padded = cipher.decrypt(_NONCE, raw[_HEAD:], bound)
        except InvalidTag:
            raise Refused(
                f"an envelope from '{sender}' was changed, or is not this silo's for '{topic}' in "
                "this run",
                code="envelope",
            ) from None
        self._take(sender, sequence, hashlib.sha256(raw).hexdigest()[:32])
        size = int.from_bytes(padded[:_LENGTH], "little")
        if size > len(padded) - _LENGTH:
            raise Refused(f"an envelope from '{sender}' is shorter than it says", code="envelope")
        return padded[_LENGTH : _LENGTH + size]

    def close(self) -> None:
        """Erase the run's keys: nothing that was sealed with them opens any more."""
        self._state = None
        self._silo.forget(self._name)

    @property
    def _public(self) -> str:
        private = bytes.fromhex(self._open_state()["private"])
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw().hex()

    def _open_state(self) -> dict[str, Any]:
        if self._state is None:
            raise Refused("this silo has no relay key in this run, or erased it", code="relay")
        return self._state

    def _save(self) -> None:
        self._silo.keep(self._name, canonical_json(self._open_state()))

    def _statement(self, name: str, key: str) -> dict[str, str]:
        return relay_statement(self._silo.header, name, key)

    def _checked(self, name: str, introduction: Envelope) -> str:
        try:
            if introduction.size > _MAX_INTRODUCTION:
                raise ValueError("too long")
            statement = json.loads(introduction.tobytes(), object_pairs_hook=each_once)
            signature, key = statement.pop("signature"), statement["key"]
            fits = statement == self._statement(name, key)
            shared = len(bytes.fromhex(key)) == 32
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            fits = shared = False
        if not (fits and shared):
            raise Refused(f"silo '{name}' did not introduce itself for this run", code="relay")
        if not self._silo.letters.is_partner_relay(name, statement, signature):
            raise Refused(
                f"silo '{name}' is no partner whose signing key this silo has pinned (and, where "
                "the policy wants it, confirmed): see 'consilo silo partners'; who has just "
                "been admitted is listed there within a minute",
                code="partner",
            )
        return str(key)

    def _key_of(self, partner: str) -> bytes:
        key = self._open_state()["partners"].get(partner)
        if key is None:
            raise Refused(f"silo '{partner}' did not introduce itself", code="relay")
        return bytes.fromhex(key)

    def _sequence(self) -> int:
        """Return the step's number: round and place in it, as the scope says them."""
        round_, index, *_ = self._silo.header.scope.split("/")
        return (int(round_) << 32) | int(index)

    def _bound(self, topic: str, sender: str, receiver: str, sequence: int) -> bytes:
        header = self._silo.header
        run = [header.run_id, header.manifest.digest, header.protocol]
        return canonical_json([_MAGIC.decode(), *run, topic, sender, receiver, sequence])

    def _cipher(self, theirs: bytes, salt: bytes, bound: bytes, *, sent: bool) -> ChaCha20Poly1305:
        private = X25519PrivateKey.from_private_bytes(bytes.fromhex(self._open_state()["private"]))
        ours = private.public_key().public_bytes_raw()
        try:
            shared = private.exchange(X25519PublicKey.from_public_bytes(theirs))
        except ValueError:
            raise Refused("a partner's relay key is no valid point", code="relay") from None
        pair = ours + theirs if sent else theirs + ours
        return ChaCha20Poly1305(HKDF(SHA256(), 32, salt, pair + bound).derive(shared))

    def _take(self, sender: str, sequence: int, mark: str) -> None:
        """Note an envelope; raise `Refused` where it, or a later one, has been taken before."""
        seen = self._open_state()["seen"].setdefault(sender, [])
        step = self._silo.header.step_id
        for number, known, where in seen:
            if known == mark and where == step:
                return
            if number >= sequence:
                raise Refused(f"an envelope from '{sender}' came before: replayed", code="replayed")
        seen.append([sequence, mark, step])
        del seen[:-_WINDOW]
        self._save()


def padded_size(size: int) -> int:
    """Return the bucket for a number of bytes: at most 12 % more, and few different sizes.

    Padmé (Nikitin et al., Reducing Metadata Leakage from Encrypted Files, PETS 2019): a size tells
    O(log log n) bits.

    >>> [padded_size(n) for n in (0, 256, 257, 1000, 100_000)]
    [256, 256, 272, 1024, 100352]
    """
    if size <= _SMALLEST:
        return _SMALLEST
    exponent = size.bit_length() - 1
    low_bits = exponent - exponent.bit_length()
    mask = (1 << low_bits) - 1
    return (size + mask) & ~mask


def _array(data: bytes) -> Envelope:
    return np.frombuffer(data, np.uint8)
