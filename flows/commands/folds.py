"""``consilo job run --folds``: a run a fold, and what the figures are over them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.metrics.words import is_of_one_class
from consilo.runs.folds import fold_job, over_folds
from flows.commands.terminal import teller
from flows.commands.ways import Once

if TYPE_CHECKING:
    from rich.console import Console


def run_folds(once: Once, job: Any, folds: int, out: Path | None) -> dict[str, Any]:
    """Run a job once a fold, until one fails, and return the summary of all.

    Args:
        once: runs one.
        job: a horizontal one.
        folds: how many.
        out: the summary is kept here, too, beside what each fold's run leaves.
    """
    from consilo.machine.files import write_atomic

    jobs = [fold_job(job, folds=folds, fold=each) for each in range(1, folds + 1)]
    runs: list[dict[str, Any]] = []
    say = teller()
    for number, each in enumerate(jobs, start=1):
        say(f"fold {number} of {folds}")
        runs.append(once(each, {"folds": folds, "fold": number}, f"fold-{number}"))
        if runs[-1]["status"] == "failed":
            break
    summary = {
        "job": job.name,
        **_ending(runs, folds),
        "figures": over_folds([each.get("metrics") or {} for each in runs]),
        "folds": runs,
    }
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(out / "summary.json", json.dumps(summary, indent=1).encode())
        summary["kept"] = {"summary": str(out / "summary.json")}
    return summary


def _ending(runs: list[dict[str, Any]], folds: int) -> dict[str, str]:
    """Return status and reason: those of the worst fold, and which folds were not run."""
    ranks = {"complete": 0, "degraded": 1, "failed": 2}
    status = max((str(each["status"]) for each in runs), key=ranks.__getitem__)
    told = [
        f"fold {number}: {each['reason']}" for number, each in enumerate(runs, 1) if each["reason"]
    ]
    if len(runs) < folds:
        rest = f"fold {folds} was" if len(runs) == folds - 1 else f"{folds - len(runs)} folds were"
        told.append(f"{rest} not run, and the figures are of fewer rows")
    return {"status": status, "reason": "; ".join(told)}


def show_folds(summary: Mapping[str, Any], console: Console) -> None:
    """Print each figure's mean and deviation over the folds, and how each fold ended."""
    from rich.table import Table

    from flows.commands.summary import ending

    table = Table("fold", "status", "held out", "run")
    for number, each in enumerate(summary["folds"], start=1):
        held = sum(silo.get("num_held_out", 0) for silo in (each.get("silos") or {}).values())
        table.add_row(str(number), str(each["status"]), str(held), str(each.get("run_id") or ""))
    console.print(table)
    figures = Table("figure", "mean", "deviation", "folds")
    for name, each in summary["figures"].items():
        if not is_of_one_class(name):
            spread = "" if each["deviation"] is None else f"{each['deviation']:.4f}"
            figures.add_row(name, f"{each['mean']:.4f}", spread, str(each["folds"]))
    console.print(figures)
    for place in (summary.get("kept") or {}).values():
        console.print(f"summary      {place}", soft_wrap=True)
    ending(summary, console)
