"""One run that matches entities: asks the silos, keeps the record, tells everybody that it ended.

It trains nothing. The match itself stays in the silos, under its handle; the record says who took
part, by which recipe, and what the silos let the coordinator know.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError
from consilo.jobs.job import Job
from consilo.kernel.loop import Exchange, Party
from consilo.matching.protocol import Psi
from consilo.runs.conversation import Conversation
from consilo.runs.patience import WAITING, WENT_ON, Patience, Waiting
from consilo.wire.parcel import Transport


def contract_of(job: Job, search: Sequence[Path]) -> Contract:
    """Return the contract whose columns the job's key recipe is made of.

    Raises:
        IncompatibleJob: where the job matches nothing.
        ConfigInvalid: where the recipe names a column that the contract lacks.
    """
    spec = job.match_spec
    contract = Contract.load(spec.contract or job.contract, search=search)
    known = [column.name for column in contract.table]
    spec.recipe.require_columns(known, where=f"match.recipe, for {contract.ref}")
    return contract


def run_match(
    job: Job, contract: Contract, transport: Transport, **settings: Any
) -> dict[str, Any]:
    """Match as `match_rows` does; how it ended is told as ``status`` and ``reason``.

    Args:
        job: as there.
        contract: as there.
        transport: as there.
        settings: its others.

    Returns:
        What it returns, and status (``complete`` or ``failed``) and reason.

    Raises:
        ConsiloError: only from what is wrong before the first message.
    """
    told, error = match_rows(job, contract, transport, **settings)
    reason = "" if error is None else f"{type(error).__name__}: {error}"
    return {**told, "status": "failed" if reason else "complete", "reason": reason}


def match_rows(
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
    clock: Callable[[], float] = time.monotonic,
    patience: Patience | None = None,
    on_wait: Callable[[Waiting], None] = lambda waiting: None,
) -> tuple[dict[str, Any], ConsiloError | None]:
    """Match the rows of all silos that take part, as one conversation with a record of its own.

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
        clock: seconds, monotonic.
        patience: of the run that this is a part of; None: of its own, as the job says.
        on_wait: told of it where it is its own.

    Returns:
        What the coordinator may know: run_id, record, seconds, bytes by silo, and of a match
        handle, hub, recipe and the silos' figures; and why they are not matched, None where they
        are.

    Raises:
        ConsiloError: only from what is wrong before the first message.
    """
    protocol = Psi.from_job(job)
    names = tuple(sorted((set(silos) - set(job.exclude)) & set(job.asked(silos))))
    talk = Conversation(
        job,
        contract,
        transport,
        silos=names,
        run_id=run_id,
        key=key,
        parties=parties,
        absent=absent,
        bundle=bundle,
    )
    record = talk.keep_record(directory / "record.jsonl", recipe=protocol.spec.recipe.hash)
    started = clock()
    talk.wait(seconds=wait_s, clock=clock, sleep=sleep)

    def waits(waiting: Waiting) -> None:
        record.add(WENT_ON if waiting.waited_s is not None else WAITING, **waiting.to_json())
        on_wait(waiting)

    patience = patience or Patience(
        job.quorum.patience_s, online=talk.online, tell=waits, clock=clock, sleep=sleep
    )
    error: ConsiloError | None = None
    matched: dict[str, Any] = {}
    try:
        matched = patience.hold(lambda: talk.ask("psi", protocol))
        record.add("matched", **matched)
    except ConsiloError as cause:
        error = cause
    status = "complete" if error is None else "failed"
    talk.note_replies()
    talk.conclude(status)
    seconds = clock() - started
    record.close(status=status, reason="" if error is None else f"{type(error).__name__}: {error}")
    told = {
        "run_id": run_id,
        "record": str(record.path),
        "seconds": round(seconds, 3),
        "bytes_down": _by_silo(talk.exchanges, "bytes_down"),
        "bytes_up": _by_silo(talk.exchanges, "bytes_up"),
        "silo_seconds": _by_silo(talk.exchanges, "silo_seconds"),
        **matched,
    }
    return told, error


def _by_silo(exchanges: Sequence[Exchange], name: str) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for each in exchanges:
        total[each.silo] = round(total.get(each.silo, 0) + getattr(each, name), 3)
    return total
