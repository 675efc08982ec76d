"""Ed25519 signatures over canonical JSON, each for one purpose.

The purpose is part of what is signed, so that a signature given for one kind of statement never
passes for another: Ed25519(``"consilo " + purpose + "\\n" + canonical JSON``), RFC 8032.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from consilo.wire.payload import canonical_json

_KEPT_BYTES = 4096
"""What is longer is looked at anew each time, and not held."""


def public_hex(key: Ed25519PrivateKey) -> str:
    """Return the raw public half of a key in hexadecimal: 64 digits."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def sign(key: Ed25519PrivateKey, purpose: str, value: Any) -> str:
    """Return the signature of plain JSON values for ``purpose``, in hexadecimal: 128 digits."""
    return key.sign(_said(purpose, value)).hex()


def is_signed(public: str, purpose: str, value: Any, signature: str) -> bool:
    """Return whether ``signature`` is that of ``value`` for ``purpose`` by the key ``public``.

    What is no key or no signature at all is no signature of it.
    """
    try:
        key, given = bytes.fromhex(public), bytes.fromhex(signature)
    except (ValueError, TypeError):
        return False
    said = _said(purpose, value)
    look = _is_good if len(said) <= _KEPT_BYTES else _is_good.__wrapped__
    return look(key, given, said)


@lru_cache(maxsize=512)
def _is_good(key: bytes, signature: bytes, said: bytes) -> bool:
    """Return what Ed25519 says; a silo's word that it takes part is looked at in each step."""
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, said)
    except (InvalidSignature, ValueError):
        return False
    return True


def _said(purpose: str, value: Any) -> bytes:
    return f"consilo {purpose}\n".encode() + canonical_json(value)
