"""Consilo: federated learning across organisations, run the way a team runs a data pipeline.

What is listed here may be imported from here for good; docs/api.md has the whole border.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consilo.contracts.contract import Contract
    from consilo.errors import ConsiloError
    from consilo.horizontal.partition import Partition
    from consilo.jobs.job import Job
    from consilo.runs.outcome import RunResult

__all__ = ["ConsiloError", "Contract", "Job", "Partition", "RunResult"]

_HOMES = {
    "ConsiloError": "consilo.errors",
    "Contract": "consilo.contracts.contract",
    "Job": "consilo.jobs.job",
    "Partition": "consilo.horizontal.partition",
    "RunResult": "consilo.runs.outcome",
}


def __getattr__(name: str) -> Any:
    # Late, because every command imports this package and its help must come at once.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'consilo' has no attribute '{name}'")
