"""The run record: what happened, as hash-chained JSON lines that end with a signature.

Line k holds the SHA-256 of line k-1; the last line, ``closed``, states how many there are and
carries an Ed25519 signature of itself, and by its link of all lines before it. An edit, a removal,
a cut or a reordering breaks a hash, the count or the signature; who rewrites the whole chain lacks
the coordinator's key.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from consilo.errors import RecordTampered, RunNotResumable, RunSuperseded
from consilo.machine.files import append, make_directory, rely_on, write_atomic, write_new
from consilo.machine.locks import lock_open
from consilo.record import chain
from consilo.record.chain import now_utc, read
from consilo.wire.payload import digest

__all__ = ["RunRecord", "new_run_id", "read", "verify"]


def new_run_id(*words: str) -> str:
    """Return a name that no other run has: what it is, when it began, three random bytes."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    return "-".join([*words, stamp, secrets.token_hex(3)])


class RunRecord:
    """Appends entries to a record file; every entry is on disk when `add` returns.

    One process writes to it: one that finds a line which it has not written itself writes no more.

    Args:
        path: a file that does not exist yet.
        key: signs the closing line.
        now: the clock.

    Attributes:
        owner: the number of the process that owns the run: 0 of the first, a larger one of each
            that goes on with it.

    Raises:
        FileExistsError: where the file is there already: a record is written once.
    """

    def __init__(
        self, path: Path, key: Ed25519PrivateKey, *, now: Callable[[], str] = now_utc
    ) -> None:
        make_directory(path.parent)
        if path.exists():
            raise FileExistsError(f"{path.parent.name}: there is a run of this name")
        self.path = path
        self._key = key
        self._now = now
        self._head = chain.START
        self._count = 0
        self._closed = False
        self._size = 0
        self.owner = 0

    @classmethod
    def reopen(
        cls, path: Path, key: Ed25519PrivateKey, *, now: Callable[[], str] = now_utc
    ) -> tuple[Self, list[dict[str, Any]]]:
        """Return the record of a run that died, to go on with, and its entries.

        A last line without its end is cut off: the run died while it wrote it.

        Raises:
            RunNotResumable: where there is no record, or it was closed.
            RecordTampered: where it is not whole.
        """
        if not path.is_file() or not path.stat().st_size:
            raise RunNotResumable(f"{path.parent.name}: no run of this name has begun here")
        whole, _, torn = path.read_bytes().rpartition(b"\n")
        if not whole:
            raise RunNotResumable(f"{path.parent.name}: the run died before it had begun")
        if torn:
            write_atomic(path, whole + b"\n")
        make_directory(path.parent)
        rely_on(path)
        entries = read(path)
        head = chain.check_links(entries, path.name)
        if entries[-1]["kind"] == "closed":
            status = entries[-1]["body"].get("status", "")
            raise RunNotResumable(
                f"{path.parent.name}: the run has ended ({status}), its silos answer it no more; "
                "start a new one"
            )
        found = cls.__new__(cls)
        found.path, found._key, found._now = path, key, now
        found._head, found._count, found._closed = head, len(entries), False
        found._size = len(whole) + 1
        resumed = [each["body"] for each in entries if each["kind"] == "resumed"]
        found.owner = max((int(each.get("owner", 0)) for each in resumed), default=0)
        return found, entries

    @property
    def head(self) -> str:
        """Hash of the last line."""
        return self._head

    def take_over(self, *, at: float, **body: Any) -> str:
        """Append that another process goes on with the run, and return the entry's hash.

        It gets a number (`owner`) above that of every process before it; silos hold it against
        requests of those. Whoever had the record open before can write no more to it.

        Args:
            at: seconds since 1970, below which the number is not: a record that was restored from a
                backup may lack the numbers of processes that came after the backup.
            body: of the entry.
        """
        owner = max(self.owner + 1, int(at))
        head = self.add("resumed", owner=owner, **body)
        self.owner = owner
        return head

    def require_ours(self) -> None:
        """Raise `RunSuperseded` where another process has written to the record since we did."""
        size = self.path.stat().st_size if self.path.exists() else 0
        if size != self._size:
            raise self._superseded()

    def _superseded(self) -> RunSuperseded:
        return RunSuperseded(
            f"{self.path.parent.name}: another process has gone on with the run since this one "
            "wrote to its record; this one leaves it alone"
        )

    def add(self, kind: str, **body: Any) -> str:
        """Append an entry and return its hash.

        Args:
            kind: what happened: ``opened``, ``contract``, ``round``, ``model``, ``closed``, …
            body: plain JSON values; names, counts, hashes, ε; never a row or a value of one.

        Raises:
            RunSuperseded: where another process has written to the record since we did.
        """
        return self._write(self._now(), kind, body)

    def close(self, **body: Any) -> str:
        """Append the signed closing line and return its hash; a second call changes nothing."""
        if not self._closed:
            public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
            body = {**body, "entries": self._count + 1, "public_key": public.hex()}
            time = self._now()
            _, unsigned = chain.linked(self._count, time, "closed", body, self._head)
            signature = self._key.sign(bytes.fromhex(unsigned)).hex()
            self._write(time, "closed", {**body, "signature": signature})
            self._closed = True
        return self._head

    def _write(self, time: str, kind: str, body: Mapping[str, Any]) -> str:
        # Encoded before anything changes, so that an entry that cannot be written leaves no gap.
        line, head = chain.linked(self._count, time, kind, body, self._head)
        if self._count:
            with self.path.open("ab") as file:
                lock_open(file)
                if file.seek(0, os.SEEK_END) != self._size:
                    raise self._superseded()
                append(file, self.path, line)
        else:  # a record that is there has a first line
            write_new(self.path, line)
        self._head = head
        self._size += len(line)
        self._count += 1
        return head


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
    chain.check_links(entries, path.name)
    closing = entries[-1]
    if closing.get("kind") != "closed":
        raise RecordTampered(f"{path.name}: the end is missing, or the run never closed")
    try:
        body = dict(closing["body"])
        signature = bytes.fromhex(body.pop("signature"))
        own = bytes.fromhex(body["public_key"])
    except (KeyError, TypeError, ValueError):
        raise RecordTampered(f"{path.name}: the closing line is not signed") from None
    if body.get("entries") != len(entries):
        raise RecordTampered(f"{path.name}: the closing line does not fit the lines before it")
    if public_key is not None and own != public_key:
        raise RecordTampered(f"{path.name}: signed by another key than the coordinator's")
    signed = {key: value for key, value in closing.items() if key != "hash"}
    try:
        Ed25519PublicKey.from_public_bytes(own).verify(
            signature, bytes.fromhex(digest({**signed, "body": body}))
        )
    except (InvalidSignature, ValueError):
        raise RecordTampered(f"{path.name}: the signature does not verify") from None
    result: Mapping[str, Any] = closing["body"]
    return result
