"""The governed step before vertical training: which rows of the silos are the same people.

The match stays in the silos, under its handle, until it expires; a later job names the handle.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.states import Completed

from flows.beginning import Seconds, flow_run_name, says_whose


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
    says_whose()
    import threading

    from consilo.errors import ConsiloError  # late, as in flows/pipeline.py
    from consilo.jobs.job import Job
    from consilo.runs.match import contract_of
    from flows.endings import failed, quiet_errors, refused
    from flows.meeting import Meeting, match_entities
    from flows.services.connection import connect, home_directory, job_file
    from flows.services.order import Order
    from flows.telling.shown import flow_run, rename

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
