"""Figures of merit as a line of text has room for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from consilo.metrics.figures import NUM_SILOS, SILO_MEAN

_ORDER = (
    *("roc_auc", "roc_auc_macro", "accuracy", "balanced_accuracy", "f1_macro", "log_loss"),
    *("rmse", "mae", "r2", "pr_auc", "f1", "recall", "precision", "brier", "calibration_error"),
)


def is_of_one_class(name: str) -> bool:
    """Return whether a figure is that of a single class, as ``recall/CLASS`` is.

    >>> is_of_one_class("recall/benign"), is_of_one_class("silo_mean/loss")
    (True, False)
    """
    return "/" in name and not name.startswith((SILO_MEAN, NUM_SILOS))


def in_short(metrics: Mapping[str, float], *, most: int = 4) -> str:
    """Return the figures that tell most, on a line: own ones first, none of a single class.

    >>> in_short({"brier": 0.1, "roc_auc": 0.9, "accuracy": 0.8, "recall/a": 1.0}, most=2)
    'roc_auc 0.9000, accuracy 0.8000'
    """
    return ", ".join(f"{name} {metrics[name]:.4f}" for name in foremost(metrics)[:most])


def foremost(metrics: Iterable[str]) -> list[str]:
    """Return the names of figures, those that tell most first; none of a single class.

    >>> foremost(["brier", "roc_auc", "recall/a", "mine"])
    ['mine', 'roc_auc', 'brier']
    """
    ranks = {name: place for place, name in enumerate(_ORDER)}
    names = [n for n in metrics if not is_of_one_class(n) and not n.startswith(NUM_SILOS)]
    return sorted(names, key=lambda name: ranks.get(name, -1))
