"""One run that matches entities: asks the silos, keeps the record, tells everybody that it ended.

It trains nothing. The match itself stays in the silos, under its handle; the record says who took
part, by which recipe, and what the silos let the coordinator know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contract import Contract
from consilo.errors import ConsiloError, IncompatibleJob, TransportError
from consilo.job import Job
from consilo.kernel import Exchange, Federation, Kernel, Party
from consilo.parcel import Transport
from consilo.protocols.conclude import Conclude
from consilo.protocols.psi import Psi
from consilo.record import RunRecord
from consilo.vertical.blocks import holders_of

_POLL_S = 0.2


def contract_of(job: Job, search: Sequence[Path]) -> Contract:
    """Return the contract whose columns the job's key recipe is made of.

    Raises:
        IncompatibleJob: where the job matches nothing.
        ConfigInvalid: where the recipe names a column that the contract lacks.
    """
    if job.match is None:
        raise IncompatibleJob(f"job '{job.name}' has no section 'match'; say at least a recipe")
    contract = Contract.load(job.match.contract or job.contract, search=search)
    known = [column.name for column in contract.table]
    job.match.recipe.require_columns(known, where=f"match.recipe, for {contract.ref}")
    return contract


def ahead_of(job: Job) -> Job:
    """Return a job whose match is made now, for a run to come: as that run would make it.

    A vertical or scoring job names the match and says who takes part; any other matches everybody
    under its own name.
    """
    if job.match is None or job.kind == "horizontal":
        return job
    holders = holders_of(job)
    needed = holders.members if holders.missing_blocks == "refuse" else (holders.label_silo,)
    return job.changed(
        match={
            "hub": job.match.hub or holders.label_silo,
            "handle": job.match.handle or holders.match,
        },
        quorum={"min_silos": max(len(needed), 2), "mandatory": list(needed)},
    )


def run_match(
    job: Job,
    contract: Contract,
    transport: Transport,
    *,
    silos: Sequence[str],
    directory: Path,
    run_id: str,
    key: Ed25519PrivateKey,
    parties: Mapping[str, Party] | None = None,
    absent: Mapping[str, str] | None = None,
    bundle: str = "",
    wait_s: float = 0.0,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Match the rows of all silos that take part; return what the coordinator may know.

    Args:
        job: with a section ``match``.
        contract: of `contract_of`.
        transport: how the silos are reached.
        silos: everybody who is registered; those that the job excludes, and those that hold nothing
            of a vertical job, are not asked.
        directory: gets the record; made here.
        run_id: unique.
        key: signs requests and record.
        parties: silo → how it signs; a silo that is not in it is simulated.
        absent: silo → why it is not asked at all.
        bundle: SHA-256 of the code that silos execute; empty in process.
        wait_s: how long to wait for silos that are not connected yet.
        sleep: waits.

    Returns:
        run_id, status (``complete`` or ``failed``), reason, record, seconds, bytes by silo, and
        of a match handle, hub, recipe and the silos' figures.

    Raises:
        ConsiloError: only from what is wrong before the first message.
    """
    protocol = Psi.from_job(job)
    asked = set(silos) - set(job.exclude)
    if job.kind != "horizontal":
        asked &= set(holders_of(job).members)
    names = tuple(sorted(asked))
    left = {name: why for name, why in (absent or {}).items() if name in names}
    here = {name: each for name, each in (parties or {}).items() if name in names}
    expected = set(names) - set(left)
    record = RunRecord(directory / "record.jsonl", key)
    exchanges: list[Exchange] = []
    kernel = Kernel(
        transport,
        run_id=run_id,
        job=job,
        contract=contract,
        observe=exchanges.append,
        key=key,
        bundle=bundle,
        parties=here,
        head=lambda: record.head,
    )

    def online() -> tuple[str, ...]:
        return tuple(name for name in transport.online() if name in expected)

    fed = Federation(names, job, contract, online, left=left)
    record.add(
        "opened",
        run_id=run_id,
        job=job.to_json(),
        job_digest=job.digest,
        contract=contract.ref,
        contract_digest=contract.digest,
        bundle=bundle,
        silos=list(names),
        manifest=kernel.manifest.digest,
        recipe=protocol.spec.recipe.hash,
        signing_keys={name: each.signing_key for name, each in here.items()},
    )
    started = time.monotonic()
    while set(online()) < expected and time.monotonic() - started < wait_s:
        sleep(_POLL_S)
    status, reason, found = "complete", "", {}
    try:
        found = kernel.run("psi", protocol, fed)
        record.add("matched", **found)
    except ConsiloError as cause:
        status, reason = "failed", f"{type(cause).__name__}: {cause}"
    before = len(exchanges)
    _record_replies(record, exchanges)
    _conclude(kernel, fed, here, online(), status, record)
    _record_replies(record, exchanges[before:])
    seconds = time.monotonic() - started
    record.close(status=status, reason=reason)
    return {
        "run_id": run_id,
        "status": status,
        "reason": reason,
        "record": str(record.path),
        "seconds": round(seconds, 3),
        "bytes_down": _by_silo(exchanges, "bytes_down"),
        "bytes_up": _by_silo(exchanges, "bytes_up"),
        "silo_seconds": _by_silo(exchanges, "silo_seconds"),
        **found,
    }


def _record_replies(record: RunRecord, exchanges: Sequence[Exchange]) -> None:
    replies = [asdict(each.reply) for each in exchanges if each.reply and each.reply.signature]
    if replies:
        record.add("replies", headers=replies)


def _conclude(
    kernel: Kernel,
    fed: Federation,
    parties: Mapping[str, Party],
    online: Sequence[str],
    status: str,
    record: RunRecord,
) -> None:
    """Tell the silos that sign that the run has ended, so that they erase what they keep of it."""
    told = [name for name in online if name in parties and parties[name].wire >= 2]
    try:
        kernel.run("conclude", Conclude(told, status), fed)
    except TransportError as cause:
        record.add("not_concluded", reason=type(cause).__name__)


def _by_silo(exchanges: Sequence[Exchange], name: str) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for each in exchanges:
        total[each.silo] = round(total.get(each.silo, 0) + getattr(each, name), 3)
    return total
