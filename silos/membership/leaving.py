"""Leave a federation: struck off at the coordinator, keys and copies deleted, a certificate kept.

What is deleted: every copy of rows and everything made from them (caches, encoded rows, answers,
reports, noise keys, matches, parts of models), code that others brought, and last the silo's keys.
What stays: the organisation's data, its configuration, what it scored, its audit log and its
privacy ledger, what the silos of this user know of rows that were charged for (keyed hashes and
noise histories outside of the directory, `silos.kept.sketches`: what was spent still counts), and
the certificate, which lists what was deleted and which models contain this silo's updates. It is
signed with the silo's own key, whose private half is deleted right after.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from consilo.config import parse, read_yaml
from consilo.errors import ConfigInvalid, ConsiloError, RecordTampered
from consilo.machine.files import sync_directory, write_atomic
from consilo.machine.locks import file_lock
from consilo.membership.keys import load_or_create_signing_key
from consilo.record.chain import now_utc
from consilo.wire.json_text import each_once
from consilo.wire.signing import is_signed, public_hex, sign
from silos.gate.audit import audit_log
from silos.silo_config import SiloConfig

_PURPOSE = "departure"
_COPIES = (
    "cache",
    "replies",
    "gx",
    "secrets",
    "runs",
    "matches",
    "models",
    "bundles",
    "flwr",
    "state.db*",
    "standings.db*",
    "votes.db*",
    "node.log",
)
_KEYS = ("silo.key*", "signing.key*", "membership*.crt", "node.yaml", "partners.yaml")
_KEYS_KEPT = ("signing.key.pub",)
"""So that audit log, ledger and certificate can still be verified."""


def leave(directory: Path, strike_off: Callable[[], Mapping[str, Any]] | None) -> Path:
    """Leave, and delete what the federation has left in the silo; return the certificate's file.

    Run again after a crash it goes on; a certificate that is there already is kept beside the new.

    Args:
        directory: the silo's.
        strike_off: tells the coordinator, and returns what it says and signs; None where it
            cannot be reached any more, which the certificate then says.

    Raises:
        ConsiloError: where the silo's node is running; nothing was done then.
    """
    name = parse(SiloConfig, read_yaml(directory / "silo.yaml"), where="silo.yaml").name
    with alone(directory):
        statement = None if strike_off is None else dict(strike_off())
        key = load_or_create_signing_key(directory / "signing.key")
        copies = [_about(path, directory) for path in _files(directory, _COPIES)]
        for place in _places(directory, _COPIES):
            _delete(place)
        keys = [path for path in _files(directory, _KEYS) if path.name not in _KEYS_KEPT]
        departure = {
            "silo": name,
            "time": now_utc(),
            "deleted": copies,
            "keys_deleted": [path.relative_to(directory).as_posix() for path in keys],
            "audit_head": audit_log(directory).append("left", deleted=len(copies)),
            "coordinator": statement,
            "signing_key": public_hex(key),
        }
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
        certificate = directory / f"departure-{stamp}.json"
        text = json.dumps({**departure, "signature": sign(key, _PURPOSE, departure)}, indent=1)
        write_atomic(certificate, text.encode(), mode=0o600)
        for path in keys:  # the certificate is on the disk
            path.unlink(missing_ok=True)
        sync_directory(directory)
    return certificate


def verify_departure(path: Path) -> Mapping[str, Any]:
    """Return what a certificate of departure says, if it is whole.

    Raises:
        RecordTampered: where it was changed, or is none.
        ConfigInvalid: where the file cannot be read.
    """
    try:
        value = json.loads(path.read_bytes(), object_pairs_hook=each_once)
        signature = value.pop("signature")
        whole = is_signed(value["signing_key"], _PURPOSE, value, signature)
    except OSError as cause:
        raise ConfigInvalid(str(path), [f"cannot be read: {cause.strerror}"]) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise RecordTampered(f"{path.name}: not a certificate as the silo signed it")
    departure: Mapping[str, Any] = value
    return departure


def alone(directory: Path) -> AbstractContextManager[object]:
    """Hold the lock that the silo's node holds while it runs.

    Raises:
        ConsiloError: where another process holds it.
    """
    try:
        return file_lock(directory / ".node.lock", timeout_s=0).acquire()
    except Timeout:
        raise ConsiloError(
            f"the node of the silo in {directory} is running; stop it first"
        ) from None


def _places(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(path for pattern in patterns for path in directory.glob(pattern))


def _files(directory: Path, patterns: tuple[str, ...]) -> list[Path]:
    files = []
    for place in _places(directory, patterns):
        below = sorted(place.rglob("*")) if place.is_dir() and not place.is_symlink() else [place]
        files += [path for path in below if path.is_file() and not path.is_symlink()]
    return files


def _about(path: Path, directory: Path) -> dict[str, Any]:
    """Return name and size of a file; of a secret no hash, to hold against guesses."""
    told: dict[str, Any] = {
        "file": path.relative_to(directory).as_posix(),
        "bytes": path.stat().st_size,
    }
    if path.relative_to(directory).parts[0] not in ("secrets", "runs"):
        with path.open("rb") as file:
            told["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return told


def _delete(place: Path) -> None:
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
