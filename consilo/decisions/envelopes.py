"""What a reviewer signs: one statement in a DSSE envelope, which fits one decision and no other.

The statement names the federation (by the coordinator's key that signed the proposal), the model,
its version, the digest of its parameters, and the line of the chain that asks for the decision. So
an envelope that is used again, for another version, under another name, in another federation, or
for the same version proposed anew, fits nothing.

DSSE (https://github.com/secure-systems-lab/dsse, v1) by `securesystemslib`. Each reviewer has an
envelope of their own, since each signs a reason of their own; k of n are counted over envelopes by
their keys (`consilo.decisions.promotions`), where DSSE would count signatures of one text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, cast, get_args

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consilo.errors import DecisionRefused
from consilo.wire.payload import canonical_json

PAYLOAD_TYPE = "application/vnd.consilo.decision.v1+json"
Word = Literal["approve", "reject", "rollback"]
MOST_REASON = 1000
"""Characters of a reason."""


@dataclass(frozen=True)
class Statement:
    """What a person says of one version of a model.

    Args:
        federation: the coordinator's Ed25519 key that signed the line `asks`, in hexadecimal.
        model: its name.
        version: counted by the registry.
        digest: SHA-256 of the version's parameters.
        asks: hash of the line that this answers: that proposes the version; for a rollback, that
            made the present champion one.
        word: what is decided.
        reason: why, for everybody.
        accepts_degraded: approves although the run was degraded.
    """

    federation: str
    model: str
    version: int
    digest: str
    asks: str
    word: Word
    reason: str
    accepts_degraded: bool = False

    def __post_init__(self) -> None:
        if self.word not in get_args(Word):
            raise DecisionRefused(f"a decision is one of {', '.join(get_args(Word))}")
        if not self.reason.strip() or len(self.reason) > MOST_REASON:
            raise DecisionRefused(
                f"a decision needs a reason of 1 to {MOST_REASON} characters, found "
                f"{len(self.reason)}"
            )


def sealed(statement: Statement, key: Ed25519PrivateKey) -> dict[str, Any]:
    """Return the statement in an envelope, signed by a reviewer's key, as plain JSON values."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    signer = CryptoSigner(key, _public(_raw(key.public_key())))
    envelope = Envelope(canonical_json(asdict(statement)), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return cast("dict[str, Any]", envelope.to_dict())


@dataclass(frozen=True)
class Sealed:
    """An envelope that was opened; nothing is known of its signature yet.

    Args:
        statement: what it says.
        key: which key it says has signed it.
        value: the envelope, as plain JSON values.
    """

    statement: Statement
    key: str
    value: Mapping[str, Any]

    @classmethod
    def read(cls, value: Any) -> Self:
        """Return what an envelope says.

        Raises:
            DecisionRefused: where it is no envelope of one decision with one signature.
        """
        try:
            envelope = _envelope(value)
            (signature,) = envelope.signatures
            if envelope.payload_type != PAYLOAD_TYPE:
                raise ValueError("of another type")
            said = json.loads(envelope.payload)
            if canonical_json(said) != envelope.payload:
                raise ValueError("not as it is written")
            statement = Statement(**said)
            kinds = {"version": int, "accepts_degraded": bool}
            if not all(type(each) is kinds.get(name, str) for name, each in said.items()):
                raise ValueError("of other kinds")
        except DecisionRefused:
            raise
        except Exception as cause:  # securesystemslib raises of many kinds
            raise DecisionRefused(
                "this is no envelope of a decision; make one with 'consilo model sign'"
            ) from cause
        return cls(statement, str(signature), value)

    @property
    def is_signed(self) -> bool:
        """Whether the key that it names has signed it."""
        from securesystemslib.exceptions import Error

        try:
            _envelope(self.value).verify([_public(self.key)], 1)
        except (Error, ValueError):
            return False
        return True


def _envelope(value: Any) -> Any:
    from securesystemslib.dsse import Envelope

    return Envelope.from_dict(json.loads(json.dumps(value)))  # it changes what it is given


def _public(raw: str) -> Any:
    """Return a key as securesystemslib has it; its id is the raw key, in hexadecimal."""
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(raw))
    return SSlibKey.from_crypto(key, keyid=raw)


def _raw(key: Ed25519PublicKey) -> str:
    return key.public_bytes_raw().hex()
