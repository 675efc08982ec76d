"""A coordinator that holds the signing key and asks what it likes; a silo with a policy of its own.

Shared by `tests/attacks`: a request is signed, its manifest is that of its job and contract, and
its cohort is attested to where the attack says so.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import clinic
import numpy as np
import pandas as pd
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import learner_of
from consilo.kernel.headers import Header, Manifest, ReplyHeader, attestation
from consilo.protocols.dispatch import answerer
from consilo.record.chain import verify
from consilo.wire.parcel import Parcel
from consilo.wire.payload import digest, pack, unpack
from consilo.wire.signing import public_hex
from silos.gate.partners import Partner
from silos.gate.policy import TEMPLATE
from silos.proposals import onboard
from silos.silo import Silo
from silos.simulation.in_memory import write_made_up_root

KEY = Ed25519PrivateKey.generate()
SOUTH = Ed25519PrivateKey.generate()

STRICT = (
    TEMPLATE.replace("min_cohort: 2", "min_cohort: 5")
    .replace("required: no", "required: yes")
    .replace("exact_statistics: yes", "exact_statistics: no")
    .replace("  # budgets:", '  budgets:\n    "*": {epsilon: 1.0, delta: 1.0e-5}\n  # budgets:')
)
"""What a careful organisation allows: five silos, differential privacy, a budget of ε 1."""


def make(
    path: Path, policy: str, rows: pd.DataFrame | None = None, *, agreed: bool = True, **more: Any
) -> Silo:
    """A silo with 40 rows, whose people have confirmed the clinic's contract."""
    path.mkdir(parents=True, exist_ok=True)
    (clinic.frame(40, missing=0) if rows is None else rows).to_csv(path / "rows.csv", index=False)
    config = {"name": "north", "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
    (path / "silo.yaml").write_text(yaml.safe_dump(config))
    write_made_up_root(path, config["name"])  # the same rows are held out in every test
    (path / "policy.yaml").write_text(policy)
    if agreed:
        onboard.confirm(path, clinic.contract(), clinic.contract().digest)
    south = {"south": Partner(signing_key=public_hex(SOUTH))}
    return Silo.open(path, signing_keys=(public_hex(KEY),), partners=south, **more)


def ask(
    silo: Silo,
    protocol: str,
    verb: str,
    payload: Any,
    job: Any = None,
    contract: Any = None,
    *,
    run: str = "run",
    attest: bool = False,
    **said: Any,
) -> tuple[ReplyHeader, dict[str, Any]]:
    """Ask; return the reply's header and its fields, empty where it is a fault."""
    job, contract = job or clinic.job(), contract or clinic.contract()
    body = pack({"job": job.to_json(), "contract": contract.to_json(), "payload": payload})
    manifest = Manifest.of(run, job, contract, "")
    told = {"south": attestation(SOUTH, manifest, "south")} if attest else {}
    now = time.time()
    fields = {
        "run_id": run,
        "scope": f"1/0/{verb}",
        "content": digest(body),
        "round": 1,
        "silo": "north",
        "protocol": protocol,
        "verb": verb,
        "cohort": ("north", "south") if attest else ("north",),
        "manifest": manifest,
        "attestations": told,
        "issued": now,
        "expires": now + 60,
        "head": "h" * 64,
        **said,
    }
    reply = answerer(silo)(Parcel(Header(**fields).signed(KEY).encode(), body))
    header = ReplyHeader.decode(reply.header)
    return header, unpack(reply.body) if header.status == "ok" else {}


def model(job: Any = None) -> dict[str, Any]:
    """The payload of ``train`` and ``evaluate``: an untrained model, and inputs as they are."""
    job = job or clinic.job()
    params = learner_of(job, Encoding.plan(clinic.contract(), job)).parameters()
    return {"params": params, "scale": {"mean": np.zeros(2), "deviation": np.ones(2)}}


def decisions(silo: Silo) -> list[dict[str, Any]]:
    """What the audit log says was decided, request by request."""
    return [e["body"] for e in verify(silo.directory / "audit.jsonl") if e["kind"] == "asked"]


def reserved(silo: Silo) -> int:
    """How many uses of its rows the silo's ledger has reserved."""
    return sum(each["kind"] == "reserved" for each in silo.account.ledger.entries())
