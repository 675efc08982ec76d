"""What an organisation installs: sources, mapping, contract checks, policy, node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from silos.simulation.simulation import simulate

__all__ = ["simulate"]


def __getattr__(name: str) -> Any:
    # Late, because the node imports this package and must stay small.
    if name == "simulate":
        from silos.simulation.simulation import simulate

        return simulate
    raise AttributeError(f"module 'silos' has no attribute '{name}'")
