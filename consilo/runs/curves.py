"""Learning curves: what a model's figures did over the rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = ("roc_auc", "accuracy", "log_loss", "r2", "rmse", "loss")
"""The figures that are drawn first."""


def learning_curves(
    rounds: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    silos: Mapping[str, Mapping[str, float]],
) -> Figure:
    """Return each figure over the rounds, drawn: all silos together thick, each silo thin.

    Args:
        rounds: one report per round.
        metrics: the final model's, over all silos.
        silos: silo → the final model's in it.
    """
    # Figure alone draws with Agg and opens no window.
    from matplotlib.figure import Figure

    shown = _metrics(rounds)
    figure = Figure(figsize=(5.2 * max(1, len(shown)), 3.6), layout="constrained")
    for place, name in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), place)
        for silo, own in silos.items():
            points = _curve([(r, r["silos"].get(silo, {})) for r in rounds], name)
            points += _final(rounds, own, name)
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1, alpha=0.7, label=silo)
        points = _curve([(each, each) for each in rounds], name)
        points += _final(rounds, metrics, name)
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=2.5, color="black", label="all silos")
        axes.set_title(name)
        axes.set_xlabel("rounds of training")
        axes.grid(alpha=0.3)
        if points and len(silos) <= 12:
            axes.legend(fontsize=7)
    return figure


def _metrics(rounds: Sequence[Mapping[str, Any]]) -> list[str]:
    reported = {key for each in rounds for key in each["metrics"]}
    known = [name for name in SHOWN if name in reported]
    return (known + sorted(reported - set(known)))[:3] or ["loss"]


def _curve(rows: list[tuple[Any, Any]], name: str) -> list[tuple[int, float]]:
    """Return (rounds of training, value); a silo measures the model that it receives."""
    return [
        (int(report["round"]) - 1, own["metrics"][name])
        for report, own in rows
        if name in own.get("metrics", {})
    ]


def _final(
    rounds: Sequence[Mapping[str, Any]], metrics: Mapping[str, float], name: str
) -> list[tuple[int, float]]:
    return [(int(rounds[-1]["round"]), metrics[name])] if name in metrics and rounds else []
