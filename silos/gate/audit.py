"""The silo's audit log: who asked what under which manifest, what was decided, what left.

One hash chain, ``audit.jsonl``, mode 0600. It holds names, counts, sizes and hashes, never a value.
Every reply carries the hash of the line that tells of it, signed by the silo, and every request
carries the newest hash of the coordinator's run record, which is noted here: so neither side can
rewrite its history unnoticed (`consilo.record.crosscheck`).

    asked      a request with its decision: allowed, refused (code, reason) or repeated
    answered   a reply: its status, the fields with their sizes, the SHA-256 of its body; the newest
               hash of the privacy ledger, if anything was spent
    folded     how many lines about requests that were not verified are left out before this one
    bundle     code that was refused or approved
    accepted   people go on after the silo had forgotten what it said: the hash that it lacks
    ledger     the newest hash of the privacy ledger, at the end of a run
    linked     accounts whose rows are the same, why, and the hash of the ledger's line
    apart      people say of accounts that could not be compared that they differ: as above
    histograms people here released noisy histograms of a data set, and what that cost
    match      rows that were to be matched with partners: allowed, refused, disclosed, kept
    part       its part of a model over several silos' columns, kept here: its SHA-256
    scored     rows that such a model scored for people here: how many
    voted      a vote on a model: who trained it, its digest, verdict and reasons
    monitored  the same of a model in use: whether it still is good
    overruled  people say yes, no or abstain of a run's model, and why; without a verdict they take
               that back
    model_dropped  a part was deleted by people here
    left       the silo has left the federation

A line with counts that nobody outside is told has a ``salt``: its hash leaves with the next reply,
and whoever knows all else of it could try every count until that hash fits.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from consilo.errors import Refused
from consilo.kernel.headers import Header, ReplyHeader
from consilo.printable import printable
from consilo.record.chain import Chain
from consilo.wire.payload import digest, pack_pieces

_MAX_REASON = 2000
LEDGER_HEAD = "ledger-head"
"""A key that no field of a reply can have, whose names are identifiers."""


def audit_log(directory: Path) -> Chain:
    """Return the audit log of the silo in ``directory``."""
    return Chain(directory / "audit.jsonl")


def salted(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a line says with random bits beside it, so that its hash tells no number of it.

    16 random bytes: the line's hash goes to the coordinator, who knows all else.
    """
    return {**body, "salt": secrets.token_hex(16)}


def asked(
    chain: Chain,
    header: Header,
    decision: str,
    cause: Refused | None = None,
    consent: Mapping[str, int] | None = None,
    withheld: Mapping[str, str] | None = None,
) -> str:
    """Note a request and what was decided; return the line's hash.

    Args:
        chain: the silo's.
        header: what was asked.
        decision: allowed, refused or repeated.
        cause: of a refusal.
        consent: counts of it that belong to the decision.
        withheld: optional fields that were kept back, each with the reason.
    """
    manifest = header.manifest
    why = {} if cause is None else {"code": cause.code, "reason": _shown(str(cause))}
    return chain.append(
        "asked",
        run=header.run_id,
        step=header.step_id,
        scope=header.scope,
        protocol=header.protocol,
        verb=header.verb,
        cohort=list(header.cohort),
        job=manifest.job,
        job_digest=manifest.job_digest,
        contract=manifest.contract,
        contract_digest=manifest.contract_digest,
        purpose=manifest.purpose,
        bundle=manifest.bundle,
        manifest=manifest.digest,
        coordinator_head=header.head,
        wire=header.wire,
        decision=decision,
        **why,
        **(salted({"consent": dict(consent)}) if consent else {}),
        **({"withheld": dict(withheld)} if withheld else {}),
    )


def asked_by_stranger(chain: Chain, header: Header, cause: Refused) -> str:
    """Note a request that is not the coordinator's for now: what it said of itself, in brief.

    Nobody vouches for a word of it, so its cohort, which may be long, is counted only.
    """
    manifest = header.manifest
    return chain.append(
        "asked",
        run=header.run_id,
        step=header.step_id,
        scope=header.scope,
        protocol=header.protocol,
        verb=header.verb,
        num_cohort=len(header.cohort),
        job=manifest.job,
        manifest=manifest.digest,
        coordinator_head=header.head,
        wire=header.wire,
        decision="refused",
        code=cause.code,
        reason=_shown(str(cause)),
    )


def answered(
    chain: Chain, reply: ReplyHeader, fields: Mapping[str, Any], *, ledger: str = ""
) -> str:
    """Note a reply before it leaves; return the line's hash.

    Args:
        chain: the silo's log.
        reply: what is said of the answer.
        fields: what leaves.
        ledger: the newest hash of the privacy ledger; empty where nothing was ever spent.
    """
    why = {"code": reply.code, "reason": _shown(reply.reason)} if reply.status == "fault" else {}
    return chain.append(
        "answered",
        step=reply.step_id,
        status=reply.status,
        content=reply.content,
        fields={name: _about(value) for name, value in fields.items()},
        **({LEDGER_HEAD: ledger} if ledger else {}),
        **why,
    )


def _shown(reason: str) -> str:
    return printable(reason, most=_MAX_REASON)


def _about(value: Any) -> dict[str, Any]:
    """Return size and hash of a field; a single number has no hash, which would tell it."""
    pieces = pack_pieces({"field": value})
    if isinstance(value, int | float):
        return {"bytes": len(pieces)}
    return {"bytes": len(pieces), "sha256": digest(pieces)}
