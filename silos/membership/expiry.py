"""What of a silo's membership comes to an end, and when: certificates, keys, the policy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from cryptography import x509

from silos.gate.policy import Policy
from silos.membership.enrol import AUTHORITY, CERTIFICATE, KEY, NEXT_CERTIFICATE, SIGNING_KEY

SOON_DAYS = 14
OLD_KEY_DAYS = 730
State = Literal["ok", "soon", "ended", "missing"]


@dataclass(frozen=True)
class Ending:
    """One thing that ends, or grows old.

    Args:
        name: what it is.
        state: ``soon`` within 14 days; ``ended``; ``missing`` where it is not there.
        ends: when, ISO 8601; empty where it has no end.
        said: a sentence about it.
        to_do: the command that helps; empty where nothing is to be done.
    """

    name: str
    state: State
    ends: str
    said: str
    to_do: str = ""


def endings(directory: Path, *, now: datetime) -> list[Ending]:
    """Return what ends, certificates first.

    Args:
        directory: the silo's.
        now: the time.

    Raises:
        PolicyInvalid: where the policy is not valid.
    """
    return [*_certificates(directory, now), *_keys(directory, now), *_policy(directory, now)]


def _certificates(directory: Path, now: datetime) -> Iterator[Ending]:
    renew = f"consilo silo renew --dir {directory}"
    path = directory / CERTIFICATE
    if not path.exists():
        joined = (directory / "coordinator.yaml").exists()
        said = "this silo waits for admission" if joined else "this silo has joined no federation"
        yield Ending("certificate", "missing", "", said, "consilo silo init INVITATION")
    else:
        yield _certificate("certificate", path, now, renew, "a running node renews it by itself")
    if (directory / NEXT_CERTIFICATE).exists():
        said = "of the new key, to which a running node moves"
        yield _certificate("next certificate", directory / NEXT_CERTIFICATE, now, renew, said)
    if (directory / AUTHORITY).exists():
        said = "by which the coordinator proves itself; the coordinator renews it"
        yield _certificate("federation's authority", directory / AUTHORITY, now, "", said)


def _certificate(name: str, path: Path, now: datetime, to_do: str, said: str) -> Ending:
    loaded = x509.load_pem_x509_certificates(path.read_bytes())
    ends = max(each.not_valid_after_utc for each in loaded)
    days = (ends - now).total_seconds() / 86_400
    state: State = "ended" if days <= 0 else "soon" if days <= SOON_DAYS else "ok"
    return Ending(
        name, state, ends.isoformat(timespec="seconds"), said, "" if state == "ok" else to_do
    )


def _keys(directory: Path, now: datetime) -> Iterator[Ending]:
    words = {
        KEY: ("node key", "its node proves itself with it", "--new-key"),
        SIGNING_KEY: ("signing key", "what leaves is signed with it", "--new-signing-key"),
    }
    for file, (name, use, option) in words.items():
        path = directory / file
        if not path.exists():
            yield Ending(name, "missing", "", "'consilo silo init' makes it")
            continue
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        days = (now - made).days
        old = days > OLD_KEY_DAYS
        yield Ending(
            name,
            "soon" if old else "ok",
            "",
            f"{use}; written on {made.date()}, {days} days ago; it has no end of its own",
            f"consilo silo renew {option} --dir {directory}" if old else "",
        )


def _policy(directory: Path, now: datetime) -> Iterator[Ending]:
    path = directory / "policy.yaml"
    if not path.exists():
        yield Ending("policy", "missing", "", "there is none, so nothing is allowed")
        return
    ends = Policy.load(path).expires
    if ends is None:
        yield Ending("policy", "ok", "", "it has no end")
        return
    yield Ending("policy", _state(ends, now), ends.isoformat(), "its last day (expires)")


def _state(ends: date, now: datetime) -> State:
    days = (ends - now.date()).days
    return "ended" if days < 0 else "soon" if days <= SOON_DAYS else "ok"
