"""The run's pictures beside its learning curves: what joining is worth, who took part when."""

from __future__ import annotations

import math
from pathlib import Path

from consilo.record.participation import OUTCOMES
from consilo.runs.curves import SHOWN
from consilo.runs.outcome import RunResult

_COLOURS = {
    "trained": "#2a6f97",
    "late": "#f4a261",
    "dropped": "#d9d9d9",
    "refused": "#6d597a",
    "rejected": "#c1121f",
    "unused": "#a8dadc",
    "left_out": "#8d99ae",
    "not_asked": "#ffffff",
    "not_drawn": "#f4f4f4",
}


def participation(result: RunResult, path: Path) -> None:
    """Draw what became of each silo in which round, a row per silo."""
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    became = {(each.round, each.silo): each.outcome for each in result.participation}
    numbers = sorted({number for number, _ in became})
    silos = list(result.silos)
    took = [[OUTCOMES.index(became[number, silo]) for number in numbers] for silo in silos]
    height = 1.6 + 0.28 * len(silos)
    figure = Figure(figsize=(max(5.0, 1.8 + 0.3 * len(numbers)), height), layout="constrained")
    axes = figure.add_subplot(1, 1, 1)
    axes.imshow(
        took,
        aspect="auto",
        cmap=ListedColormap(list(_COLOURS.values())),
        vmin=-0.5,
        vmax=len(OUTCOMES) - 0.5,
        interpolation="nearest",
    )
    found = [each for each in OUTCOMES if each in set(became.values())]
    marks = [Patch(color=_COLOURS[each], label=each.replace("_", " ")) for each in found]
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), fontsize=8)
    every = max(1, math.ceil(len(numbers) / 20))
    axes.set_xticks(range(0, len(numbers), every), [str(each) for each in numbers[::every]])
    axes.set_yticks(range(len(silos)), silos)
    axes.set_xlabel("round")
    axes.set_title("what became of each silo", fontsize=9)
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
