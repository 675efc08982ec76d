"""The run's pictures beside its learning curves: what joining is worth, who took part when."""

from __future__ import annotations

import math
from pathlib import Path

from consilo.runs.curves import SHOWN
from consilo.runs.outcome import RunResult


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
    known = [name for name in SHOWN if name in offered]
    return (known or offered or [""])[0]
