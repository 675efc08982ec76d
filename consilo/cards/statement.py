"""What binds a model's bytes to the record of its run and to the decision about it.

An in-toto statement (https://in-toto.io/Statement/v1) whose subjects are the files of a card's
folder, in a DSSE envelope (https://github.com/secure-systems-lab/dsse, v1) that the coordinator's
key has signed. Any tool that knows the two can check signature and digests; what the predicate says
is held against the record by `consilo.cards.verify`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from consilo.cards.content import FORMAT
from consilo.cards.subject import Subject
from consilo.errors import RecordTampered
from consilo.wire.json_text import read_json
from consilo.wire.payload import canonical_json
from consilo.wire.signing import public_hex

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "urn:consilo:model-provenance:v1"
_MOST_BYTES = 16 * 1024 * 1024


def statement_of(subject: Subject, files: Mapping[str, str]) -> dict[str, Any]:
    """Return the statement as plain JSON values.

    Args:
        subject: what the card is about.
        files: of the folder, path → SHA-256; the statement itself is none of them.
    """
    told = subject.told
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": {"sha256": sha256}} for name, sha256 in sorted(files.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "card_format": FORMAT,
            "model": {
                "name": subject.name,
                "version": subject.version,
                "params": str(told.model["params"]),
            },
            "run": {
                "id": told.run_id,
                "record_head": told.head,
                "job_digest": str(told.opened["job_digest"]),
                "contract_digest": str(told.opened["contract_digest"]),
            },
            "decision": subject.decision,
        },
    }


def sealed(statement: Mapping[str, Any], key: Ed25519PrivateKey) -> bytes:
    """Return the statement in an envelope that the coordinator's key has signed, as JSON."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

    envelope = Envelope(canonical_json(dict(statement)), PAYLOAD_TYPE, {})
    envelope.sign(CryptoSigner(key, _public(public_hex(key))))
    return _text(envelope.to_dict())


def unsealed(data: bytes, keys: Sequence[str], where: str) -> dict[str, Any]:
    """Return the statement in an envelope that one of ``keys`` has signed.

    Args:
        data: as `sealed` returns it.
        keys: raw Ed25519 public keys, in hexadecimal.
        where: the file, for the message.

    Raises:
        RecordTampered: where it is no such envelope, or none of the keys has signed it.
    """
    try:
        value = read_json(data, max_bytes=_MOST_BYTES)
        if _text(value) != data:
            raise ValueError("not as it is written")
        envelope = _envelope(value)
        if envelope.payload_type != PAYLOAD_TYPE or _text(envelope.to_dict()) != data:
            raise ValueError("of another type, or not as it is written")
        (signer,) = envelope.signatures
    except Exception as cause:  # securesystemslib raises of many kinds
        raise RecordTampered(
            f"{where}: it is no envelope as Consilo writes them ({type(cause).__name__}): it was "
            "edited, cut, or made by something else"
        ) from None
    if signer not in keys:
        raise RecordTampered(
            f"{where}: signed by the key {signer[:16]}…, expected the coordinator's "
            f"({', '.join(f'{each[:16]}…' for each in keys) or 'none is known'})"
        )
    if not _is_signed(envelope, signer):
        raise RecordTampered(f"{where}: its signature does not verify: it was edited")
    statement = json.loads(envelope.payload)
    if (
        not isinstance(statement, dict)
        or statement.get("_type") != STATEMENT_TYPE
        or statement.get("predicateType") != PREDICATE_TYPE
    ):
        raise RecordTampered(f"{where}: it states something else than where a model comes from")
    return statement


def digests_of(statement: Mapping[str, Any]) -> dict[str, str]:
    """Return the files that a statement is about: path → SHA-256."""
    return {str(each["name"]): str(each["digest"]["sha256"]) for each in statement["subject"]}


def _text(envelope: Any) -> bytes:
    return json.dumps(envelope, indent=1, sort_keys=True).encode() + b"\n"


def _envelope(value: Any) -> Any:
    from securesystemslib.dsse import Envelope

    return Envelope.from_dict(json.loads(json.dumps(value)))  # it changes what it is given


def _is_signed(envelope: Any, signer: str) -> bool:
    from securesystemslib.exceptions import Error

    try:
        envelope.verify([_public(signer)], 1)
    except (Error, ValueError):
        return False
    return True


def _public(raw: str) -> Any:
    """Return a key as securesystemslib has it; its id is the raw key, in hexadecimal."""
    from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(raw))
    return SSlibKey.from_crypto(key, keyid=raw)
