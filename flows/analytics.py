"""The weekly report: does every silo still keep the contract, and do their data drift apart?

No model is trained. What leaves the silos is what the pipeline's standardisation needs, and counts
per bin of a histogram. A job with questions has those answered in its place, on the cells that its
contract declares.
"""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner
from pydantic import Field

from flows.beginning import Seconds, flow_run_name, says_whose

Bins = Annotated[int, Field(ge=2, le=200)]


@flow(
    name="analytics",
    flow_run_name=flow_run_name,
    persist_result=False,
    # Prefect's task runners are invariant in their futures: none is what `flow` is said to take.
    task_runner=ThreadPoolTaskRunner(max_workers=16),  # type: ignore[arg-type]
)
def analytics(job: str, bins: Bins = 20, wait_s: Seconds = 60.0, home: str | None = None) -> Any:
    """Check every silo, then report each column over all silos; nothing is trained.

    Args:
        job: the job file, whose contract and features are reported on: of the kind ``analytics``,
            or of one that trains on these columns; a path, a path below home, or the name of a job
            that comes with Consilo.
        bins: of the histogram of each column.
        wait_s: how long to wait for silos that are not connected yet, in seconds.
        home: the coordinator's directory; empty takes the worker's CONSILO_HOME.
    """
    says_whose()
    from consilo.errors import ConsiloError  # late, as in flows/pipeline.py
    from consilo.jobs.job import Job
    from consilo.runs.analytics import AnalyticsRun
    from flows.endings import refused
    from flows.registry import names
    from flows.services.connection import home_directory, job_file
    from flows.session import final_state, opened, order_of
    from flows.stages import spread

    try:
        place = home_directory(home)
        path = job_file(job, place)
        asked = Job.load(path)
        order = order_of(asked, home=place, search_path=(path.parent,))
        experiment = names.analytics_experiment(asked.name)
        with opened(order, experiment=experiment, stages=AnalyticsRun) as session:
            spread(session, wait_s, bins)
    except ConsiloError as error:
        return refused(error)
    return final_state(session)
