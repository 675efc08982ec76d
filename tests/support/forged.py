"""Requests written by hand, to a silo whose coordinator's key the test holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import clinic
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.kernel.headers import Header, Manifest, ReplyHeader
from consilo.protocols.dispatch import answerer
from consilo.record.chain import verify
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack
from consilo.wire.signing import public_hex
from silos.gate.policy import TEMPLATE
from silos.proposals import onboard
from silos.silo import Silo

KEY = Ed25519PrivateKey.generate()
NOW = 1_800_000_000.0


def north(path: Path) -> Silo:
    """Return a silo with forty rows and the policy of the template, at the time `NOW`."""
    path.mkdir(parents=True, exist_ok=True)
    clinic.frame(40).to_csv(path / "rows.csv", index=False)
    config = {"name": "north", "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    (path / "policy.yaml").write_text(TEMPLATE)
    onboard.confirm(path, clinic.contract(), clinic.contract().digest)
    silo = Silo.open(path, signing_keys=(public_hex(KEY),))
    silo.gate.now = lambda: NOW
    return silo


def request(*, key: Ed25519PrivateKey | None = KEY, run: str = "run", **changes: Any) -> Parcel:
    """Return a check as an honest coordinator asks it, but for ``changes`` before it signs."""
    job, contract = clinic.job(), clinic.contract()
    body = pack({"job": job.to_json(), "contract": contract.to_json(), "payload": {}})
    header = Header(
        run,
        "1/0/check",
        digest(body),
        1,
        "north",
        "contract_check",
        "check",
        ("north", "south"),
        Manifest.of(run, job, contract, ""),
        issued=NOW,
        expires=NOW + 60,
        head="0" * 64,
    )
    header = replace(header, **changes)
    return Parcel((header.signed(key) if key else header).encode(), body)


def ask(silo: Silo, parcel: Parcel) -> ReplyHeader:
    """Return the header of a silo's answer."""
    return ReplyHeader.decode(answerer(silo)(parcel).header)


def log(silo: Silo) -> list[dict[str, Any]]:
    """Return the lines of a silo's audit log, which must be whole."""
    return [
        {"kind": each["kind"], **each["body"]} for each in verify(silo.directory / "audit.jsonl")
    ]
