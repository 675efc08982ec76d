"""The governed step before vertical training: which rows of the silos are the same people.

The match stays in the silos, under its handle, until it expires; a later job names the handle.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed
from pydantic import Field

from consilo.errors import ConsiloError
from consilo.jobs.job import Job
from consilo.record.run_record import new_run_id
from consilo.runs.match import contract_of, run_match
from flows.endings import failed, flow_run_name, quiet_errors, refused
from flows.services.connection import connect, home_directory, job_file
from flows.services.order import Connection, Order
from flows.services.owning import owning
from flows.shown import flow_run, opens, rename

Seconds = Annotated[float, Field(ge=0, le=86_400)]


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


@flow(name="match", flow_run_name=flow_run_name, persist_result=False)
def match(
    job: str, wait_s: Seconds = 60.0, bundle: str | None = None, home: str | None = None
) -> Any:
    """Find which rows of the silos are the same people, and keep that in each of them.

    Args:
        job: the job file, with a section ``match``: a path, a path below home, or the name of a job
            that comes with Consilo.
        wait_s: how long to wait for silos that are not connected yet, in seconds.
        bundle: what the author of the job's code has signed, as a path, or a path below home; it is
            carried as it is. Empty makes a bundle here, which the coordinator signs.
        home: the coordinator's directory; empty takes the worker's CONSILO_HOME.
    """
    import threading

    quiet_errors()
    try:
        place = home_directory(home)
        path = job_file(job, place)
        asked = Job.load(path).to_match()
        contract = contract_of(asked, [path.parent])
        order = Order(
            place,
            asked,
            contract,
            (path.parent,),
            threading.Event(),
            bundle=place / bundle if bundle else None,
        )
        with connect(order) as connection:
            result = match_entities(Meeting(connection, order, str(flow_run())), wait_s)
    except ConsiloError as error:
        return refused(error)
    tags = (f"job:{asked.name}", f"contract:{contract.ref}", result["status"])
    rename(flow_run(), f"{asked.name} · match · {result['status']}", tags=tags)
    if result["status"] == "failed":
        return failed(result["reason"], result)
    return Completed(message=f"matched under '{result['handle']}'", data=result)
