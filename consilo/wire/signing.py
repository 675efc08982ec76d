"""Ed25519 signatures over canonical JSON, each for one purpose.

The purpose is part of what is signed, so that a signature given for one kind of statement never
passes for another: Ed25519(``"consilo " + purpose + "\\n" + canonical JSON``), RFC 8032.
"""

from __future__ import annotations

from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from consilo.wire.payload import canonical_json


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
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public))
        key.verify(bytes.fromhex(signature), _said(purpose, value))
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def _said(purpose: str, value: Any) -> bytes:
    return f"consilo {purpose}\n".encode() + canonical_json(value)
