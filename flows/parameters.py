"""What the deployed flows have in common in Prefect's form: a parameter, and what a run is called.

Prefect's worker imports this, see `flows.pipeline`: Prefect and pydantic are all that it takes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prefect import runtime
from pydantic import Field

Seconds = Annotated[float, Field(ge=0, le=86_400)]


def flow_run_name() -> str:
    """Return what Prefect calls a flow run: its job."""
    return Path(runtime.flow_run.parameters["job"]).stem
