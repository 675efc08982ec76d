"""What runs have left at a coordinator when they are over, by its own servers and files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from report import say

from flows.registry import names
from flows.services.federation import Addresses
from flows.tending.reconcile import runs_in
from flows.tending.servers import ask

_NOT_FINAL = ["RUNNING", "PENDING", "SCHEDULED", "PAUSED", "CANCELLING"]
_MOST = 1000


def left_behind(home: Path, look: Callable[[], None], *, within_s: float = 60.0) -> int:
    """Return how many things are not over, when those that end have had time.

    Args:
        home: the coordinator's directory.
        look: called several times a second.
        within_s: for so long something may still be under way.
    """
    deadline = time.monotonic() + within_s
    while any((left := _not_over(home)).values()) and time.monotonic() < deadline:
        look()
        time.sleep(0.5)
    for what, which in left.items():
        if which:
            say(f"left: {what}: {', '.join(which)}")
    return sum(map(len, left.values()))


def _not_over(home: Path) -> dict[str, list[str]]:
    """Return runs, flow runs, MLflow runs and bodies of messages that are not over."""
    there = Addresses.load(home)
    open_runs = [each.name for each in runs_in(home) if not each.status or each.is_owned]
    asked = {"flow_runs": {"state": {"type": {"any_": _NOT_FINAL}}}}
    flow_runs = [each["name"] for each in ask(f"{there.prefect_api}/flow_runs/filter", asked)]
    tracked = [n for n, run in _tracked(there.tracking_uri) if run["info"]["status"] == "RUNNING"]
    bodies = [str(each) for each in home.glob("superlink/bodies/*/*")]
    return {"runs": open_runs, "flow runs": flow_runs, "MLflow runs": tracked, "bodies": bodies}


def not_shown_once(home: Path, runs: Sequence[str]) -> int:
    """Return how many runs MLflow does not show just once."""
    shown = Counter(name for name, _ in _tracked(Addresses.load(home).tracking_uri))
    wrong = {run: shown[run] for run in runs if shown[run] != 1}
    for run, times in wrong.items():
        say(f"MLflow shows {run} {times} times")
    return len(wrong)


def _tracked(uri: str) -> list[tuple[str, Any]]:
    """Return the runs that MLflow shows: name of the run, and the MLflow run."""
    api = f"{uri}/api/2.0/mlflow"
    experiments = ask(f"{api}/experiments/search", {"max_results": _MOST}).get("experiments", [])
    asked = {
        "experiment_ids": [each["experiment_id"] for each in experiments],
        "max_results": _MOST,
    }
    found = []
    for each in ask(f"{api}/runs/search", asked).get("runs", []):
        tags = {tag["key"]: tag["value"] for tag in each["data"].get("tags", [])}
        if name := names.tag(tags, names.TAG_RUN):
            found.append((name, each))
    return found
