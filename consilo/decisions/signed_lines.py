"""A hash-chained log whose every line the coordinator signs, and whose head it keeps elsewhere.

A chain shows whatever is done to it but a cut at its end. So after each line its number and its
hash are told to the coordinator's audit log, which is another chain; a log that is shorter than the
audit log knows was cut. Where the process dies between the two, the log is longer, and that is
what a line later makes good.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.errors import RecordTampered
from consilo.machine.files import make_directory
from consilo.membership.keys import public_key_hex
from consilo.membership.members import Members
from consilo.record.chain import Chain, now_utc, unsigned, verify_open
from consilo.wire.payload import canonical_json
from consilo.wire.signing import is_signed, public_hex, sign

_PURPOSE = "decision line"
_ADDED = ("public_key", "signature")
NOTED = "decisions"
"""Kind of the audit log's lines that keep heads."""

Entry = dict[str, Any]


class SignedLines:
    """One such log of the coordinator in ``home``.

    Args:
        home: the coordinator's directory.
        file: below it.
        now: the clock: UTC, ISO 8601.
    """

    def __init__(self, home: Path, file: str, *, now: Callable[[], str] = now_utc) -> None:
        self.home = home
        self.file = file
        self.path = home / file
        self._chain = Chain(self.path, now=now)

    def append(self, signer: Ed25519PrivateKey, /, kind: str, **body: Any) -> str:
        """Append a line, tell the audit log of it, and return its hash; it is on disk then.

        Args:
            signer: the coordinator's key.
            kind: what happened.
            body: plain JSON values.
        """
        make_directory(self.path.parent, mode=0o700)

        def signed(hash_: str) -> dict[str, str]:
            return {"public_key": public_hex(signer), "signature": sign(signer, _PURPOSE, hash_)}

        head = self._chain.append_signed(kind, body, signed)
        self.note()
        return head

    def note(self) -> None:
        """Tell the audit log how far this one goes, where it does not know it yet."""
        lines, head = self._chain.standing()
        if lines and self._noted().get("head") != head:
            with Members(self.home / "members.db", Chain(self.home / "audit.jsonl")) as members:
                members.note(NOTED, file=self.file, lines=lines, head=head)

    def read(self) -> list[Entry]:
        """Return the entries; none where the log has not begun.

        Raises:
            RecordTampered: where a line was edited, removed, moved, cut off, or signed by another
                key than the coordinator's.
        """
        entries = verify_open(self.path)
        keys = coordinators_keys(self.home) if entries else frozenset()
        for number, entry in enumerate(entries, start=1):
            require_signed(entry, keys, f"{self.file}, line {number}")
        noted = self._noted()
        lines = int(noted.get("lines", 0))
        if lines > len(entries) or (lines and entries[lines - 1]["hash"] != noted["head"]):
            raise RecordTampered(
                f"{self.file}: it has {len(entries)} lines, and the coordinator's audit log knows "
                f"of {lines}, the last one {str(noted['head'])[:16]}…: its end was cut off, or "
                "written anew; put it back from a backup"
            )
        return entries

    def _noted(self) -> Mapping[str, Any]:
        # Canonical JSON: what the line says stands in it as here.
        told = b'{"body":{"file":' + canonical_json(self.file) + b',"head":"'
        found = Chain(self.home / "audit.jsonl").last_with(told)
        return found["body"] if found and found["kind"] == NOTED else {}


def require_signed(entry: Mapping[str, Any], keys: Collection[str], where: str) -> None:
    """Raise `RecordTampered` unless one of the coordinator's keys has signed an entry.

    Args:
        entry: of such a log.
        keys: raw Ed25519 keys, in hexadecimal.
        where: the log and the line, for the message.
    """
    body = entry["body"]
    public, signature = (str(body.get(name, "")) for name in _ADDED)
    if public not in keys:
        raise RecordTampered(f"{where}: signed by a key that is none of the coordinator's")
    if not is_signed(public, _PURPOSE, unsigned(entry, _ADDED), signature):
        raise RecordTampered(f"{where}: its signature does not verify")


def coordinators_keys(home: Path) -> frozenset[str]:
    """Return every key that this coordinator has signed with: raw Ed25519, in hexadecimal.

    The present one, the one before, and those that its audit log has announced.
    """
    keys = {public_key_hex(path) for path in (home / "keys").glob("record*.key.pub")}
    return frozenset(keys | {*_announced(home / "audit.jsonl")})


def _announced(audit: Path) -> Iterable[str]:
    if not audit.exists():
        return
    with audit.open("rb") as file:
        for line in file:
            if b'"kind":"signing_key_' in line and line.endswith(b"\n"):
                yield str(json.loads(line)["body"].get("signing_key", ""))
