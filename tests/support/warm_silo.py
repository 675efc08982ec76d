"""A silo's directory whose warm process answers what a coordinator with a valid key asks."""

from __future__ import annotations

import time
from pathlib import Path

import clinic
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import learner_of
from consilo.kernel.headers import Header, Manifest, ReplyHeader, attestation
from consilo.membership.keys import load_or_create_signing_key
from consilo.transports.flower.bundle import bundle_hash, keep_bundle
from consilo.wire.parcel import Fault, Parcel
from consilo.wire.payload import digest, pack, unpack
from consilo.wire.signing import public_hex
from silos.gate.bundles import approve
from silos.gate.policy import TEMPLATE
from silos.node.node import Warm
from silos.node_config import NodeConfig
from silos.proposals import onboard

KEY, SOUTH = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
NODE_KEY = "PRIVATE NODE KEY"


def make(folder: Path, *, policy: str = TEMPLATE) -> Path:
    """Return a silo's directory as `consilo silo join` leaves it, with 40 rows of the clinic."""
    folder.mkdir(parents=True)
    clinic.frame(40, missing=0).to_csv(folder / "rows.csv", index=False)
    files = {
        "silo.yaml": {"name": "north", "data": {"rows": {"type": "csv", "path": "rows.csv"}}},
        "coordinator.yaml": {
            "address": "x:1",
            "ca_sha256": "0" * 64,
            "signing_keys": [public_hex(KEY)],
        },
        "partners.yaml": {"south": {"signing_key": public_hex(SOUTH)}},
        "node.yaml": {"name": "north", "superlink": "127.0.0.1:1"},
    }
    for name, value in files.items():
        (folder / name).write_text(yaml.safe_dump(value))
    (folder / "policy.yaml").write_text(policy)
    (folder / "silo.key").write_text(NODE_KEY)
    load_or_create_signing_key(folder / "signing.key")
    onboard.confirm(folder, clinic.contract(), clinic.contract().digest)
    return folder


def approved(folder: Path, bundle: bytes) -> Path:
    """Return a bundle that the silo's operator has approved, as the node hands it to a child."""
    approve(folder, bundle_hash(bundle))
    return keep_bundle(bundle, folder / "bundles" / "packed")


def warm(folder: Path) -> Warm:
    """Return the silo's warm process, to be entered and started."""
    return Warm(folder, NodeConfig.load(folder))


def ask(
    process: Warm,
    bundle: Path,
    job,
    *,
    protocol: str = "fedavg",
    verb: str = "train",
    payload=None,
    run: str = "run",
    round: int = 1,
) -> tuple[ReplyHeader | Fault, dict]:
    """Return what the silo answers to a signed request of the run: header and fields."""
    contract = clinic.contract()
    if payload is None:
        payload = {"params": parameters(), "scale": None}
    body = pack({"job": job.to_json(), "contract": contract.to_json(), "payload": payload})
    manifest = Manifest.of(run, job, contract, bundle.stem)
    told = {"south": attestation(SOUTH, manifest, "south")}
    now = time.time()
    header = Header(
        run,
        f"{round}/0/{verb}",
        digest(body),
        round,
        "north",
        protocol,
        verb,
        ("north", "south"),
        manifest,
        told,
        now,
        now + 60,
        "h" * 64,
    )
    reply = process.answer(Parcel(header.signed(KEY).encode(), body), bundle)
    if isinstance(reply, Fault):
        return reply, {}
    said = ReplyHeader.decode(reply.header)
    return said, dict(unpack(bytes(reply.body))) if said.status == "ok" else {}


def parameters():
    """Return those of the clinic's model before any round."""
    return learner_of(clinic.job(), Encoding.plan(clinic.contract(), clinic.job())).parameters()
