"""What a coordinator says after it was restored from a backup, and what its silos make of it.

A record that was restored looks like one that was rewritten: lines that silos have seen the hash of
are gone. So a restore writes a line of its own, signed by the coordinator, that names the line from
which it goes on; every silo is told it with the list of members, writes it into its own audit log
and shows it to its people. Lines that are lost without one stay what they are: a record that does
not fit.

``HOME/restored.jsonl`` is a hash chain with one line a restore.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.record.chain import Chain, verify
from consilo.wire.signing import is_signed, public_hex, sign

FILE = "restored.jsonl"
KIND = "coordinator_restored"
_PURPOSE = "restored"
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?\+00:00")
_FORMS = {"backup_of": _TIME, "from_head": re.compile("[0-9a-f]{64}"), "restored_at": _TIME}


def note_restore(
    home: Path, key: Ed25519PrivateKey, *, from_head: str, backup_of: str, restored_at: str
) -> dict[str, Any]:
    """Write the signed line of a restore and return it.

    Args:
        home: the coordinator's directory, as it was restored.
        key: what the coordinator signs with.
        from_head: hash of the last line of its audit log in the backup.
        backup_of: when the backup was made, UTC, ISO 8601.
        restored_at: when it was restored, likewise.
    """
    said = {"backup_of": backup_of, "from_head": from_head, "restored_at": restored_at}
    line = {**said, "signed_by": public_hex(key), "signature": sign(key, _PURPOSE, said)}
    Chain(home / FILE).append(KIND, **line)
    return line


def restores_of(home: Path) -> list[dict[str, Any]]:
    """Return the line of each restore of the coordinator in ``home``, oldest first.

    Raises:
        RecordTampered: where the file is not as it was written.
    """
    path = home / FILE
    return [dict(entry["body"]) for entry in verify(path)] if path.exists() else []


def take_in(said: Any, log: Chain, keys: Sequence[str]) -> list[str]:
    """Note in a silo's log the restores that it has not heard of; return a sentence for each.

    Args:
        said: what the coordinator's statement holds under ``restored``; what is not signed by one
            of ``keys`` is left out, and so is what is not of the right form.
        log: the silo's audit log.
        keys: the coordinator's public keys, in hexadecimal.
    """
    news = []
    for each in said if isinstance(said, list) else []:
        if not isinstance(each, Mapping):
            continue
        plain = {name: str(each.get(name, "")) for name in _FORMS}
        signature = str(each.get("signature", ""))
        formed = all(form.fullmatch(plain[name]) for name, form in _FORMS.items())
        if not formed or not any(is_signed(key, _PURPOSE, plain, signature) for key in keys):
            continue
        if log.has(signature.encode()):
            continue
        log.append(KIND, **plain, signature=signature)
        news.append(
            f"the coordinator was restored on {plain['restored_at']} from its backup of "
            f"{plain['backup_of']} (line {plain['from_head'][:12]}…): its records may lack what "
            "happened between; this silo's own log has it"
        )
    return news
