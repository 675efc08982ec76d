"""The run's pictures: learning curves, what joining is worth, who took part in which round."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from consilo.runs.outcome import RunResult

_SHOWN = ("roc_auc", "accuracy", "log_loss", "r2", "rmse", "loss")


def learning_curves(result: RunResult, path: Path) -> None:
    """Draw each metric over the rounds: all silos together thick, each silo thin."""
    # Figure alone draws with Agg and opens no window.
    from matplotlib.figure import Figure

    shown = _metrics(result)
    figure = Figure(figsize=(5.2 * max(1, len(shown)), 3.6), layout="constrained")
    for place, name in enumerate(shown, start=1):
        axes = figure.add_subplot(1, len(shown), place)
        for silo in result.silos:
            points = _curve([(r, r["silos"].get(silo, {})) for r in result.rounds], name)
            points += _final(result, result.silos[silo].metrics, name)
            if points:
                axes.plot(*zip(*points, strict=True), linewidth=1, alpha=0.7, label=silo)
        points = _curve([(each, each) for each in result.rounds], name)
        points += _final(result, result.metrics, name)
        if points:
            axes.plot(*zip(*points, strict=True), linewidth=2.5, color="black", label="all silos")
        axes.set_title(name)
        axes.set_xlabel("rounds of training")
        axes.grid(alpha=0.3)
        if points and len(result.silos) <= 12:
            axes.legend(fontsize=7)
    figure.savefig(path, dpi=110)


def participation(result: RunResult, path: Path) -> None:
    """Draw who took part in which round, a row per silo."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    numbers = [int(each["round"]) for each in result.rounds]
    silos = list(result.silos)
    took = [
        [1 if number in result.silos[silo].rounds else 0 for number in numbers] for silo in silos
    ]
    height = 1.2 + 0.28 * len(silos)
    figure = Figure(figsize=(max(4.0, 1.8 + 0.3 * len(numbers)), height), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    colours = ListedColormap(["#d9d9d9", "#2a6f97"])
    axes.imshow(took, aspect="auto", cmap=colours, vmin=0, vmax=1, interpolation="nearest")
    every = max(1, math.ceil(len(numbers) / 20))
    axes.set_xticks(range(0, len(numbers), every), [str(each) for each in numbers[::every]])
    axes.set_yticks(range(len(silos)), silos)
    axes.set_xlabel("round")
    axes.set_title("took part (blue)", fontsize=9)
    figure.savefig(path, dpi=110)


def comparison(result: RunResult, path: Path) -> None:
    """Draw what a vertical model is worth: joined, the label silo alone, and a shuffled join."""
    from matplotlib.figure import Figure

    name = compared(result)
    ways = {n.split("/")[0]: v for n, v in result.metrics.items() if n.endswith(f"/{name}")}
    figure = Figure(figsize=(5.2, 1.2 + 0.4 * len(ways)), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    labels = [each.replace("_", " ") for each in ways]
    bars = axes.barh(labels[::-1], list(ways.values())[::-1], color="#2a6f97")
    axes.bar_label(bars, fmt="%.4f", padding=3)
    axes.margins(x=0.15)
    axes.set_title(f"{name}, held-out rows", fontsize=9)
    figure.savefig(path, dpi=110)


def compared(result: RunResult) -> str:
    """Return the figure of merit that `comparison` draws; empty where a run compares nothing."""
    offered = [n.split("/", 1)[1] for n in result.metrics if n.startswith("joined/")]
    known = [name for name in _SHOWN if name in offered]
    return (known or offered or [""])[0]


def _metrics(result: RunResult) -> list[str]:
    reported = {key for each in result.rounds for key in each["metrics"]}
    known = [name for name in _SHOWN if name in reported]
    return (known + sorted(reported - set(known)))[:3] or ["loss"]


def _curve(rows: list[tuple[Any, Any]], name: str) -> list[tuple[int, float]]:
    """Return (rounds of training, value); a silo measures the model that it receives."""
    return [
        (int(report["round"]) - 1, own["metrics"][name])
        for report, own in rows
        if name in own.get("metrics", {})
    ]


def _final(result: RunResult, metrics: Any, name: str) -> list[tuple[int, float]]:
    return [(int(result.rounds[-1]["round"]), metrics[name])] if name in metrics else []
