"""What an organisation installs: sources, mapping, contract checks, policy, node.

What is listed here may be imported from here for good; docs/api.md has the whole border.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silos.rows.cache import CanonicalCache
    from silos.rows.mapping import Mapping
    from silos.rows.sources.kinds import load_source
    from silos.simulation.asked import analytics
    from silos.simulation.cross_validation import cross_validate
    from silos.simulation.in_memory import InMemorySilo
    from silos.simulation.simulation import simulate, simulate_cut

__all__ = [
    "CanonicalCache",
    "InMemorySilo",
    "Mapping",
    "analytics",
    "cross_validate",
    "load_source",
    "simulate",
    "simulate_cut",
]

_HOMES = {
    "CanonicalCache": "silos.rows.cache",
    "InMemorySilo": "silos.simulation.in_memory",
    "Mapping": "silos.rows.mapping",
    "analytics": "silos.simulation.asked",
    "load_source": "silos.rows.sources.kinds",
    "cross_validate": "silos.simulation.cross_validation",
    "simulate": "silos.simulation.simulation",
    "simulate_cut": "silos.simulation.simulation",
}


def __getattr__(name: str) -> Any:
    # Late, because the node imports this package and must stay small.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'silos' has no attribute '{name}'")
