"""The one task of a match: all silos of an open federation at once, and its place in Prefect."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from consilo.record.run_record import new_run_id
from consilo.runs.match import run_match
from flows.services.order import Connection, Order
from flows.services.owning import owning
from flows.telling.shown import opens


class Meeting:
    """An open federation and what it shall match; a plain object, which Prefect hands on as it is.

    Args:
        connection: the open federation.
        order: job and contract.
        flow_run_id: of Prefect.
    """

    def __init__(self, connection: Connection, order: Order, flow_run_id: str) -> None:
        self.connection = connection
        self.order = order
        self.flow_run_id = flow_run_id


@task(task_run_name="match-entities", persist_result=False, cache_policy=NO_CACHE)
def match_entities(meeting: Meeting, wait_s: float) -> dict[str, Any]:
    """Match the rows of all silos of an open federation; return what the coordinator may know."""
    connection, order = meeting.connection, meeting.order
    run_id = new_run_id(order.job.name, "match")
    directory = connection.home / "runs" / run_id
    opens(UUID(meeting.flow_run_id), run_id)
    with owning(directory, flow_run=meeting.flow_run_id):
        result = run_match(
            order.job,
            order.contract,
            connection.transport,
            silos=connection.silos,
            directory=directory,
            run_id=run_id,
            key=connection.signing_key,
            parties=connection.parties,
            absent=connection.absent,
            bundle=connection.bundle,
            wait_s=wait_s,
            on_wait=lambda waiting: get_run_logger().warning(waiting.told),
        )
    connection.finish(result["status"] == "complete", result["reason"] or "matched")
    get_run_logger().info("match %s: %s %s", run_id, result["status"], result["reason"])
    return result
