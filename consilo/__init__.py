"""Consilo: federated learning across organisations, run the way a team runs a data pipeline.

What is listed here may be imported from here for good; docs/api.md has the whole border.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consilo.contracts.contract import Contract
    from consilo.errors import ConsiloError
    from consilo.horizontal.partition import Partition
    from consilo.jobs.job import Job
    from consilo.runs.outcome import RunResult
    from silos.simulation.cross_validation import cross_validate
    from silos.simulation.in_memory import InMemorySilo
    from silos.simulation.simulation import simulate, simulate_cut

__all__ = [
    "ConsiloError",
    "Contract",
    "InMemorySilo",
    "Job",
    "Partition",
    "RunResult",
    "cross_validate",
    "simulate",
    "simulate_cut",
]

_HOMES = {
    "ConsiloError": "consilo.errors",
    "Contract": "consilo.contracts.contract",
    "Job": "consilo.jobs.job",
    "Partition": "consilo.horizontal.partition",
    "RunResult": "consilo.runs.outcome",
    "InMemorySilo": "silos.simulation.in_memory",
    "cross_validate": "silos.simulation.cross_validation",
    "simulate": "silos.simulation.simulation",
    "simulate_cut": "silos.simulation.simulation",
}


def __getattr__(name: str) -> Any:
    # Late, because every command imports this package and its help must come at once.
    if name in _HOMES:
        _beside("silos")
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'consilo' has no attribute '{name}'")


def _beside(name: str) -> None:
    """Load the package that is installed beside this one, if nothing of that name is loaded.

    A script's folder comes first on the path, and the folder ``silos/`` of the silos' directories,
    which docs/jobs.md has beside a script, would be taken for a package of that name where an
    editable install puts ours behind the path.
    """
    found = sys.modules.get(name)
    if found is not None and getattr(found, "__file__", None) is not None:
        return
    spec = PathFinder.find_spec(name, [str(Path(__file__).parents[1])])
    if spec is None or spec.loader is None or spec.origin is None:
        return
    module = module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
