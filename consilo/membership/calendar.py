"""When what expires: certificates and keys of a federation, by their public halves alone."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509

from consilo.membership.keys import certificate_expiry, public_key_hex
from consilo.membership.members import SIGNING_DAYS, Member, iso


def trusted(keys: Path) -> list[x509.Certificate]:
    """Return the authorities whose certificates silos should accept, the present one first.

    Args:
        keys: the folder of the coordinator's keys.
    """
    places = [keys / name for name in ("ca.crt", "ca.next.crt", "ca.old.crt")]
    return [x509.load_pem_x509_certificate(each.read_bytes()) for each in places if each.exists()]


def expiries(keys: Path, members: Mapping[str, Member]) -> list[tuple[str, str, str]]:
    """Return the calendar: (when, whose, what), the next one first.

    Args:
        keys: the folder of the coordinator's keys.
        members: its silos by name.
    """
    found = [(iso(certificate_expiry(keys / "server.crt")), "coordinator", "server")]
    signing = keys / "record.key"
    born = datetime.fromtimestamp(signing.stat().st_mtime, UTC)
    mark = public_key_hex(signing.with_name("record.key.pub"))[:12]
    found.append((iso(born + timedelta(days=SIGNING_DAYS)), "coordinator", f"signing key {mark}"))
    for index, each in enumerate(trusted(keys)):
        what = "certificate authority" if index == 0 else "another authority"
        found.append((iso(each.not_valid_after_utc), "coordinator", what))
    for name, member in members.items():
        if member.state not in ("admitted", "suspended"):
            continue
        for key in member.keys:
            if key.certificate:
                end = x509.load_pem_x509_certificate(key.certificate.encode())
                when = min(iso(end.not_valid_after_utc), key.valid_until)
                found.append((when, name, f"node certificate {key.fingerprint[:12]}"))
        found.append((member.signing_until, name, f"signing key {member.signing_key[:12]}"))
    return sorted(found)
