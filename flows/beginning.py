"""How the deployed flows begin: a parameter that they share, what a run is called, whose it is.

Prefect's worker imports this, see `flows.pipeline`: Prefect and pydantic are all that it takes.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from pydantic import Field

Seconds = Annotated[float, Field(ge=0, le=86_400)]


def flow_run_name() -> str:
    """Return what Prefect calls a flow run: its job."""
    return Path(runtime.flow_run.parameters["job"]).stem


def says_whose() -> None:
    """Let a flow run that no deployment started say whose process it is.

    Else one that is killed before it has a run is shown as running for good
    (`flows.tending.dead_flow_runs`).
    """
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.deployment_id is not None:
        return
    whose = f"{socket.gethostname()}:{os.getpid()}"
    with get_client(sync_client=True) as client:
        client.update_flow_run(context.flow_run.id, infrastructure_pid=whose)
