"""Prefect orchestration: what the coordinator runs.

What is listed here may be imported from here for good; docs/api.md has the whole border.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flows.services.connection import connecting
    from flows.services.order import Connection, Order

__all__ = ["Connection", "Order", "connecting"]

_HOMES = {
    "Connection": "flows.services.order",
    "Order": "flows.services.order",
    "connecting": "flows.services.connection",
}


def __getattr__(name: str) -> Any:
    # Late, because every command of the coordinator imports this package.
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'flows' has no attribute '{name}'")
