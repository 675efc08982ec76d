"""Adaptive server optimisers (Reddi et al. 2021, Algorithm 2) as torch optimisers.

They differ from torch.optim's in that nothing is corrected for bias and the adaptivity τ is added
to the root: x ← x - η · m / (√v + τ), where the gradient is the pseudo-gradient ``server -
silos``.

Differences from the paper: v starts at ``initial``, 0 unless told otherwise; the paper has v₋₁ ≥
τ².
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch


class _Adaptive(torch.optim.Optimizer):
    """First moment β1, and a second moment that the subclass updates."""

    def __init__(
        self,
        params: Iterable[torch.Tensor],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.99),
        tau: float = 1e-3,
        initial: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "tau": tau, "initial": initial})

    def second(self, v: torch.Tensor, square: torch.Tensor, beta2: float) -> torch.Tensor:
        """Return the new second moment."""
        raise NotImplementedError

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step along the pseudo-gradient in ``grad``."""
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state: dict[str, Any] = self.state[parameter]
                if not state:
                    state["m"] = torch.zeros_like(parameter)
                    state["v"] = torch.full_like(parameter, group["initial"])
                gradient = parameter.grad
                state["m"] = beta1 * state["m"] + (1 - beta1) * gradient
                state["v"] = self.second(state["v"], gradient**2, beta2)
                parameter.sub_(group["lr"] * state["m"] / (state["v"].sqrt() + group["tau"]))


class Adagrad(_Adaptive):
    """v ← v + Δ²."""

    def second(self, v: torch.Tensor, square: torch.Tensor, beta2: float) -> torch.Tensor:
        """Return the new second moment."""
        return v + square


class Adam(_Adaptive):
    """v ← β2·v + (1-β2)·Δ²."""

    def second(self, v: torch.Tensor, square: torch.Tensor, beta2: float) -> torch.Tensor:
        """Return the new second moment."""
        return beta2 * v + (1 - beta2) * square


class Yogi(_Adaptive):
    """v ← v - (1-β2)·Δ²·sign(v - Δ²)."""

    def second(self, v: torch.Tensor, square: torch.Tensor, beta2: float) -> torch.Tensor:
        """Return the new second moment."""
        return v - (1 - beta2) * square * torch.sign(v - square)
