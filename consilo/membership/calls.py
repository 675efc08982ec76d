"""Calls that a silo signs: who calls, what, when, and never twice.

Signed are method, path, SHA-256 of the body, time, a nonce and the silo's name, with the silo's
signing key. The coordinator refuses a call whose time is more than `WINDOW_S` from its own, and a
nonce that it has seen.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from consilo.errors import ConfigInvalid
from consilo.membership.keys import load_silo_public_key
from consilo.silo_name import FORM
from consilo.wire.signing import is_signed, sign

PREFIX = "/v1/consilo/"
ENROL_PURPOSE = "enrol"
NEW_KEY_PURPOSE = "signing key"
WINDOW_S = 300
CERTIFICATE_HEADER = "x-consilo-certificate"
OPERATOR_HEADER = "x-consilo-operator"
SILO_HEADER = "x-consilo-silo"
TIME_HEADER = "x-consilo-time"
NONCE_HEADER = "x-consilo-nonce"
SIGNATURE_HEADER = "x-consilo-signature"
_PURPOSE = "call"
_FORMS = {
    SILO_HEADER: FORM,
    TIME_HEADER: r"\d{1,12}",
    NONCE_HEADER: r"[0-9a-f]{32}",
    SIGNATURE_HEADER: r"[0-9a-f]{128}",
}


@dataclass(frozen=True)
class Call:
    """A signed call, as it arrived; nothing of it is checked yet.

    Args:
        silo: who says to call.
        time: seconds since 1970 by the caller's clock.
        nonce: 128 random bits in hexadecimal.
        signature: in hexadecimal.
    """

    silo: str
    time: int
    nonce: str
    signature: str

    @classmethod
    def of(cls, headers: Mapping[str, str]) -> Call | None:
        """Return the call of some headers (names in lower case); None where one is missing."""
        found = {name: headers.get(name, "") for name in _FORMS}
        if not all(re.fullmatch(form, found[name]) for name, form in _FORMS.items()):
            return None
        return cls(
            found[SILO_HEADER],
            int(found[TIME_HEADER]),
            found[NONCE_HEADER],
            found[SIGNATURE_HEADER],
        )

    def is_by(self, signing_key: str, method: str, path: str, body: bytes) -> bool:
        """Return whether the key (raw, hexadecimal) has signed exactly this call."""
        said = _said(self.silo, method, path, body, self.time, self.nonce)
        return is_signed(signing_key, _PURPOSE, said, self.signature)


def headers_of(
    key: Ed25519PrivateKey, silo: str, method: str, path: str, body: bytes, *, now: float
) -> dict[str, str]:
    """Return the headers that sign a call.

    Args:
        key: the silo's signing key.
        silo: its name.
        method: ``GET`` or ``POST``.
        path: of the call.
        body: what is sent.
        now: seconds since 1970.
    """
    time, nonce = int(now), secrets.token_hex(16)
    return {
        SILO_HEADER: silo,
        TIME_HEADER: str(time),
        NONCE_HEADER: nonce,
        SIGNATURE_HEADER: sign(key, _PURPOSE, _said(silo, method, path, body, time, nonce)),
    }


def certificate_headers(certificate: Path) -> dict[str, str]:
    """Return the header that shows a silo's certificate, from its PEM file.

    Raises:
        ConfigInvalid: where there is none.
    """
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
    except FileNotFoundError:
        raise ConfigInvalid(
            str(certificate),
            ["the silo's certificate does not exist; has the coordinator admitted it?"],
        ) from None
    except ValueError:
        raise ConfigInvalid(str(certificate), ["this is no certificate in PEM"]) from None
    return {CERTIFICATE_HEADER: b64encode(found.public_bytes(Encoding.DER)).decode("ascii")}


def prove_node_key(
    key: ec.EllipticCurvePrivateKey, silo: str, signing_key: str, token_sha256: str = ""
) -> str:
    """Return the proof that a silo holds its node key, bound to its name and signing key."""
    return key.sign(_claim(silo, signing_key, token_sha256), ec.ECDSA(hashes.SHA384())).hex()


def node_key_is_proved(
    public_key: bytes, silo: str, signing_key: str, proof: str, token_sha256: str = ""
) -> bool:
    """Return whether `prove_node_key` was called with the private half of an OpenSSH key."""
    try:
        claim = _claim(silo, signing_key, token_sha256)
        public = load_silo_public_key(public_key)
        public.verify(bytes.fromhex(proof), claim, ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, ValueError, ConfigInvalid):
        return False
    return True


def _claim(silo: str, signing_key: str, token_sha256: str) -> bytes:
    return f"consilo node key\n{silo}\n{signing_key}\n{token_sha256}".encode()


def _said(
    silo: str, method: str, path: str, body: bytes, time: int, nonce: str
) -> dict[str, str | int]:
    return {
        "silo": silo,
        "method": method,
        "path": path,
        "body": hashlib.sha256(body).hexdigest(),
        "time": time,
        "nonce": nonce,
    }


def is_distrust(cause: Exception) -> bool:
    """Return whether a connection failed by what TLS makes of the other side.

    A handshake that the other side broke off says nothing of its certificate: so does a proxy or a
    gateway behind which nobody answers, and the next try may go through.

    >>> import ssl
    >>> is_distrust(ssl.SSLError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate"))
    True
    >>> is_distrust(ssl.SSLError("[SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation"))
    False
    """
    told = str(cause).lower()
    return any(word in told for word in ("certificate", "ssl")) and "eof" not in told
