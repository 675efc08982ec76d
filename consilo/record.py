"""The run record: what happened, as hash-chained JSON lines that end with a signature.

Line k holds the SHA-256 of line k-1; the last line, ``closed``, states how many there are and
carries an Ed25519 signature of the chain's head. An edit, a removal, a cut or a reordering breaks
a hash, the count or the signature; who rewrites the whole chain lacks the coordinator's key.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from consilo.errors import RecordTampered
from consilo.wire import canonical_json, digest

_START = "0" * 64


def now_utc() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunRecord:
    """Appends entries to a record file; every entry is on disk when `add` returns.

    Args:
        path: a file that does not exist yet.
        key: signs the closing line.
        now: the clock.

    Raises:
        FileExistsError: where the file is there already: a record is written once.
    """

    def __init__(
        self, path: Path, key: Ed25519PrivateKey, *, now: Callable[[], str] = now_utc
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = path.open("x", encoding="utf-8")
        self._key = key
        self._now = now
        self._head = _START
        self._count = 0
        self._closed = False

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self._head

    def add(self, kind: str, **body: Any) -> str:
        """Append an entry and return its hash.

        Args:
            kind: what happened: ``opened``, ``contract``, ``round``, ``model``, ``closed``, …
            body: plain JSON values; names, counts, hashes, ε; never a row or a value of one.
        """
        entry = {"seq": self._count, "time": self._now(), "kind": kind, "body": body}
        entry["prev"] = self._head
        self._head = digest(entry)
        line = canonical_json({**entry, "hash": self._head}).decode()
        self._file.write(line + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._count += 1
        return self._head

    def close(self, **body: Any) -> str:
        """Append the signed closing line and return its hash; a second call changes nothing."""
        if not self._closed:
            public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            signature = self._key.sign(bytes.fromhex(self._head)).hex()
            self.add(
                "closed",
                **body,
                entries=self._count + 1,
                signed_head=self._head,
                signature=signature,
                public_key=public.hex(),
            )
            self._closed = True
            self._file.close()
        return self._head


def read(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a record file, unverified.

    Raises:
        RecordTampered: where a line is not JSON.
    """
    entries = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
        except ValueError:
            raise RecordTampered(f"{path.name}, line {number}: not JSON") from None
        if not isinstance(entry, dict):
            raise RecordTampered(f"{path.name}, line {number}: not an entry")
        entries.append(entry)
    return entries


def verify(path: Path, public_key: bytes | None = None) -> Mapping[str, Any]:
    """Return the closing entry's body when the record is whole.

    Args:
        path: the record.
        public_key: the coordinator's raw Ed25519 key (32 bytes). Without it the signature is
            checked against the key that the record itself names, which a forger could replace.

    Raises:
        RecordTampered: naming the first line that does not fit.
    """
    entries = read(path)
    if not entries:
        raise RecordTampered(f"{path.name}: the record is empty")
    prev = _START
    for number, entry in enumerate(entries, start=1):
        where = f"{path.name}, line {number}"
        stated = entry.get("hash")
        content = {key: value for key, value in entry.items() if key != "hash"}
        if entry.get("seq") != number - 1 or entry.get("prev") != prev:
            raise RecordTampered(f"{where}: a line before it was removed, added or moved")
        if digest(content) != stated:
            raise RecordTampered(f"{where}: the line was edited")
        prev = stated
    closing = entries[-1]
    if closing.get("kind") != "closed":
        raise RecordTampered(f"{path.name}: the end is missing, or the run never closed")
    body = closing["body"]
    if body.get("entries") != len(entries) or body.get("signed_head") != closing["prev"]:
        raise RecordTampered(f"{path.name}: the closing line does not fit the lines before it")
    own = bytes.fromhex(body["public_key"])
    if public_key is not None and own != public_key:
        raise RecordTampered(f"{path.name}: signed by another key than the coordinator's")
    try:
        Ed25519PublicKey.from_public_bytes(own).verify(
            bytes.fromhex(body["signature"]), bytes.fromhex(closing["prev"])
        )
    except (InvalidSignature, ValueError):
        raise RecordTampered(f"{path.name}: the signature does not verify") from None
    result: Mapping[str, Any] = body
    return result
