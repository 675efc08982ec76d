"""Opacus' Rényi accountant (Mironov 2017): its two functions, without what else it imports.

``import opacus`` takes torch's distributed parts and sympy with it, for its optimisers: more than
``import torch`` itself. The moments and the bound are functions of one file that needs numpy and
scipy alone. Where Opacus is there it is that file's module, else the file is loaded by itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, lru_cache
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]

ORDERS: tuple[float, ...] = (*(1 + x / 10.0 for x in range(1, 100)), *range(12, 64))
"""At which the moments are taken: those of Opacus' ``RDPAccountant``."""


def compute_rdp(*, sample_rate: float, sigma: float, steps: int) -> Floats:
    """Return the Rényi divergences of steps of the subsampled Gaussian mechanism, one per order."""
    found: Floats = _module().compute_rdp(
        q=sample_rate, noise_multiplier=sigma, steps=steps, orders=list(ORDERS)
    )
    return found


def epsilon_of(moments: Floats, delta: float) -> float:
    """Return the ε at ``delta`` that moments, one per order, bound."""
    epsilon, _ = _module().get_privacy_spent(orders=list(ORDERS), rdp=moments, delta=delta)
    return float(epsilon)


_NAME = "opacus.accountants.analysis.rdp"


def remember_orders() -> None:
    """Let Opacus compute each order once per (rate, noise) and process, PRV's calls too.

    PRV asks for the same orders again and again, to choose its mesh; they are nine tenths of its
    time. The function is pure, so remembering its answers changes none of them.
    """
    _module()


def _module() -> ModuleType:
    found = sys.modules.get(_NAME) or _alone()
    if not hasattr(found._compute_rdp, "cache_info"):
        vars(found)["_compute_rdp"] = _remembering()
    return found


@cache
def _remembering() -> Callable[..., float]:
    return lru_cache(maxsize=1 << 16)(_alone()._compute_rdp)


@cache
def _alone() -> ModuleType:
    package = util.find_spec("opacus")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError("no module named 'opacus'", name="opacus")
    path = Path(package.submodule_search_locations[0]).joinpath(*_NAME.split(".")[1:])
    spec = util.spec_from_file_location(f"{__name__}.opacus_rdp", path.with_suffix(".py"))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
