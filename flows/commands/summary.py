"""A run's summary as a person reads it on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from consilo.metrics import NUM_SILOS, SILO_MEAN
from consilo.metrics.words import is_of_one_class
from flows.commands import vertical_summary

FEDERATED = "federated, all held-out rows"
_TITLE = 31
_MOST_CLASSES = 10
"""Of more classes the terminal has no table."""
_VERTICAL = ("vertical", "scoring")


def show(summary: Mapping[str, Any], console: Console) -> None:
    """Print the summary of a run: silos, metrics, model, where to look."""
    silos = summary.get("silos") or {}
    is_vertical = summary.get("kind") in _VERTICAL
    if silos:
        console.print(vertical_summary.silos(summary) if is_vertical else _silos(silos))
    for title, metrics in _metrics(summary):
        _print(console, title, _figures(metrics))
        if title == FEDERATED:
            for beside, items in _besides(summary):
                _print(console, beside, items)
            if 0 < len(_by_class(metrics)) <= _MOST_CLASSES:
                console.print(_classes(_by_class(metrics)))
    for line in vertical_summary.lines(summary) if is_vertical else ():
        console.print(line, soft_wrap=True, highlight=False)
    places = {
        "model": _model(summary.get("model")),
        "Prefect run": (summary.get("prefect") or {}).get("url"),
        "MLflow run": (summary.get("mlflow") or {}).get("url"),
        "run record": summary.get("record"),
    }
    for name, place in places.items():
        if place:
            console.print(f"{name:<12} {place}", soft_wrap=True)
    for note in summary.get("notes") or ():
        console.print(note, soft_wrap=True, highlight=False, markup=False)
    ending(summary, console)


def ending(summary: Mapping[str, Any], console: Console) -> None:
    """Print how it ended, and why."""
    status = str(summary.get("status"))
    colour = {"complete": "green", "degraded": "yellow"}.get(status, "red")
    console.print(f"[bold {colour}]{status}[/] ", _sentence(summary), soft_wrap=True)


def _sentence(summary: Mapping[str, Any]) -> str:
    """Return how the run ended, without the status that it begins with."""
    told = str(summary.get("sentence") or summary.get("reason") or "")
    return told.removeprefix(f"{summary.get('status')}: ")


def _print(console: Console, title: str, items: Sequence[str]) -> None:
    """Print items behind their title; a line that is full goes on below, between two of them."""
    line = f"{title:<{_TITLE - 1}} "
    for item in items:
        if len(line) > _TITLE and len(line) + len(item) > console.width:
            console.print(line.rstrip(), highlight=False, soft_wrap=True, markup=False)
            line = " " * _TITLE
        line += f"{item}  "
    console.print(line.rstrip(), highlight=False, soft_wrap=True, markup=False)


def _figures(metrics: Mapping[str, float]) -> list[str]:
    """Return the figures as texts; of those of single classes only where they stand."""
    told = [f"{name} {value:.4f}" for name, value in metrics.items() if "/" not in name]
    many = len(_by_class(metrics)) > _MOST_CLASSES
    return [*told, "those of single classes: --json"] if many else told


def _by_class(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return class → its figures."""
    found: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        if is_of_one_class(name):
            figure, _, label = name.partition("/")
            found.setdefault(label, {})[figure] = value
    return found


def _classes(figures: Mapping[str, Mapping[str, float]]) -> Table:
    names = list(dict.fromkeys(name for each in figures.values() for name in each))
    table = Table("class", *names)
    for label, each in figures.items():
        table.add_row(label, *(f"{each[name]:.4f}" if name in each else "" for name in names))
    return table


def _besides(summary: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return what else is to be said of the federation's figures: intervals, means over silos."""
    lines = []
    metrics = summary.get("metrics") or {}
    intervals = summary.get("intervals") or {}
    told = {name: ends for name, ends in intervals.items() if "/" not in name}
    if told:
        ends = [f"{name} {low:.4f} to {high:.4f}" for name, (low, high) in told.items()]
        lines.append(("  95 % intervals", ends))
    means = [
        f"{name.removeprefix(SILO_MEAN)} {value:.4f} ({metrics[_count(name)]:.0f} silos)"
        for name, value in metrics.items()
        if name.startswith(SILO_MEAN)
    ]
    if means:
        lines.append(("mean over silos, by their rows", means))
    return lines


def _count(name: str) -> str:
    return NUM_SILOS + name.removeprefix(SILO_MEAN)


_COLUMNS = ("silo", "status", "rounds", "examples", "contract", "ε", "before → after")


def _silos(silos: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = [
        {
            "silo": name,
            "status": str(silo["status"]).replace("_", " "),
            "rounds": str(len(silo["rounds"])),
            "examples": str(silo["num_examples"]),
            "contract": str(silo.get("contract", "")).replace("_", " "),
            "ε": "" if silo.get("epsilon") is None else f"{silo['epsilon']:.3f}",
            "before → after": _change(silo.get("metrics_before") or {}, silo.get("metrics") or {}),
        }
        for name, silo in silos.items()
    ]
    # A private run has no figure of a single silo, a run without privacy no ε.
    columns = [each for each in _COLUMNS if any(row[each] for row in rows)]
    table = Table(*columns)
    for row in rows:
        table.add_row(*(row[each] for each in columns))
    return table


def _change(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    for name in ("roc_auc", "accuracy", "rmse", *after):
        if name in after:
            start = f"{before[name]:.3f} → " if name in before else ""
            return f"{name} {start}{after[name]:.3f}"
    return ""


def _metrics(summary: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    if summary.get("kind") in _VERTICAL:
        label = str(summary.get("label_silo") or "label silo")
        return vertical_summary.metrics(summary.get("metrics") or {}, label)
    rows = [(FEDERATED, summary.get("metrics") or {})]
    # Only a demo has it: no coordinator has the rows.
    rows.append(("the same model, without noise", summary.get("judged_exactly") or {}))
    rows.append(("pooled rows", summary.get("pooled_baseline") or {}))
    for name, metrics in (summary.get("local_baselines") or {}).items():
        rows.append((f"{name} alone", metrics))
    return [row for row in rows if row[1]]


def _model(model: Mapping[str, Any] | None) -> str | None:
    if not model or "path" in model:
        return model["path"] if model else None
    return f"{model['name']} version {model['version']}  ({model['uri']})"
