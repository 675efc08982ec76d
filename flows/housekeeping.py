"""What is put in order each day: what lapses goes; what nobody owns, and what ends, is told.

`consilo up` does the same every quarter of a minute; as a flow it leaves a table for people in
Prefect, and is there where a deployment's schedule says so.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact
from prefect.states import Completed
from pydantic import Field

Days = Annotated[int, Field(ge=1, le=365)]


@flow(name="housekeeping", persist_result=False)
def housekeeping(ahead_days: Days = 30, home: str | None = None) -> Any:
    """Let lapse what is kept for a time only, settle what nobody owns, tell what ends soon.

    Args:
        ahead_days: how early certificates and keys are told that end.
        home: the coordinator's directory; empty takes the worker's CONSILO_HOME.
    """
    from consilo.errors import ConsiloError  # late, as in flows/pipeline.py
    from consilo.membership.coordinator import Keep, Reachable
    from flows.endings import failed, quiet_errors
    from flows.registry import names
    from flows.services.connection import home_directory
    from flows.services.federation import Addresses
    from flows.tending.events import expiring
    from flows.tending.reconcile import reconcile
    from flows.tending.retention import let_lapse

    quiet_errors()
    try:
        place = home_directory(home)
        known = Reachable.load(place)
        gone = let_lapse(place, Keep() if known is None else known.keep, now=time.time())
        addresses = Addresses.load(place)
        found = reconcile(
            place,
            prefect_api=addresses.prefect_api,
            tracking_uri=addresses.tracking_uri,
            act=True,
        )
        soon = list(expiring(place, ahead_days=ahead_days, now=datetime.now(UTC)))
    except ConsiloError as error:
        reason = f"{type(error).__name__}: {error}"
        return failed(reason, {"status": "failed", "reason": reason})
    rows = [{"what": str(each), "do": each.todo} for each in found]
    rows += [{"what": each.what, "do": each.command} for each in soon]
    if rows:
        told = "What nobody owns, and what ends soon"
        create_table_artifact(rows, key=names.HOUSEKEEPING_ARTIFACT, description=told)
    for each in rows:
        get_run_logger().warning("%s: %s", each["what"], each["do"])
    told = f"{len(gone)} files lapsed, {len(found)} findings, {len(soon)} dates ahead"
    summary = {"status": "complete", "lapsed": len(gone), "findings": rows, "reason": ""}
    return Completed(message=told, data=summary)
