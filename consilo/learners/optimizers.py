"""Make a torch optimiser from its name in a plan."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from consilo.config import nearest
from consilo.errors import JobInvalid
from consilo.learners.modules import resolve
from consilo.learners.plans import FitPlan


def make_optimizer(
    plan: FitPlan, model: nn.Module, search_path: Sequence[Path] = ()
) -> torch.optim.Optimizer:
    """Return a new optimiser over the parameters of ``model`` that require gradients.

    Args:
        plan: names it: one of ``torch.optim``, or ``module:Class``.
        model: what it changes.
        search_path: where the job's own modules lie.

    Raises:
        JobInvalid: where there is no such optimiser, or it does not take the arguments.
    """
    found = _optimizer_class(plan.optimizer, search_path)
    args: dict[str, Any] = {"lr": plan.lr}
    if plan.momentum is not None:
        args["momentum"] = plan.momentum
    if plan.weight_decay is not None:
        args["weight_decay"] = plan.weight_decay
    args |= plan.optimizer_args
    known = list(inspect.signature(found).parameters)
    findings = []
    for name in args:
        if name not in known and "kwargs" not in known:
            guess = nearest(name, known)
            hint = f"; did you mean '{guess}'?" if guess else ""
            if name == "momentum" and "betas" in known:
                hint = "; it has args: {betas: [0.9, 0.999]}, of which the first is its momentum"
            findings.append(f"optimizer {plan.optimizer!r} has no argument {name!r}{hint}")
    closure = inspect.signature(found.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        findings.append(
            f"optimizer {plan.optimizer!r} evaluates the loss several times a step, which is not"
            " supported; choose one like sgd or adam"
        )
    if findings:
        raise JobInvalid("local", findings)
    try:
        return found([each for each in model.parameters() if each.requires_grad], **args)
    except (TypeError, ValueError) as cause:
        raise JobInvalid("local", [f"optimizer {plan.optimizer!r}: {cause}"]) from cause


def is_own_optimizer(name: str) -> bool:
    """Return whether a plan's optimiser is one of the job's own modules, and none of torch's."""
    dotted = name.replace(":", ".")
    return "." in dotted and not dotted.startswith("torch.optim.")


def _optimizer_class(name: str, search_path: Sequence[Path]) -> type[torch.optim.Optimizer]:
    if ":" in name or "." in name:
        module, _, last = name.replace(":", ".").rpartition(".")
        found: type[torch.optim.Optimizer] = resolve(
            f"{module}:{last}", search_path, what="optimizer", of=torch.optim.Optimizer
        )
        return found
    known = {
        each.lower(): value
        for each, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
    }
    known.pop("optimizer", None)
    if name.lower() not in known:
        guess = nearest(name.lower(), sorted(known))
        hint = f"; did you mean '{guess}'?" if guess else f"; known: {', '.join(sorted(known))}"
        raise JobInvalid("local", [f"unknown optimizer {name!r}{hint}"])
    return known[name.lower()]
