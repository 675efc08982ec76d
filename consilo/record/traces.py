"""What stays of a silo that leaves: by the records, the model versions that contain its updates."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from consilo.errors import ConsiloError
from consilo.record import run_record as record


@dataclass(frozen=True)
class ModelVersion:
    """A registered model version with a silo's updates in it.

    Args:
        name: the registered model's.
        version: counted by the registry.
        run_id: the run that trained it.
        rounds: in how many of its rounds the silo's update was used.
        num_examples: how many of the silo's rows were trained on.
    """

    name: str
    version: str
    run_id: str
    rounds: int
    num_examples: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Traces:
    """What the run records say of one silo.

    Args:
        models: versions with its updates in them, by run.
        unreadable: runs whose record does not verify, so that nothing can be said of them.
    """

    models: tuple[ModelVersion, ...]
    unreadable: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        models = [each.to_json() for each in self.models]
        return {"models": models, "unreadable_runs": list(self.unreadable)}


def traces_of(silo: str, runs: Path) -> Traces:
    """Return where a silo's updates went, from the records of all runs.

    A silo counts for a model where at least one of its rounds used the silo's update, also where it
    dropped out later, or where that was in a run that the model's run went on with.

    Args:
        silo: its name.
        runs: the folder of the coordinator's runs.
    """
    found: list[ModelVersion] = []
    unreadable: list[str] = []
    used: dict[str, dict[int, int]] = {}  # run → round → the silo's rows in it
    ends: dict[str, tuple[list[str], Any]] = {}  # run → all runs of its training, its model
    for path in sorted(runs.glob("*/record.jsonl")):
        try:
            record.verify(path)
            entries = record.read(path)
        except (ConsiloError, OSError):
            unreadable.append(path.parent.name)
            continue
        model = next((e["body"].get("model") for e in entries if e["kind"] == "model"), None)
        # A round that was done again is told again, and counts as it was told last.
        rounds = {e["body"]["round"]: e["body"]["silos"] for e in entries if e["kind"] == "round"}
        opened = entries[0]["body"]
        run_id = str(opened["run_id"])
        used[run_id] = {
            number: int(silos[silo]["num_examples"])
            for number, silos in rounds.items()
            if silo in silos
        }
        before = ((opened.get("job") or {}).get("continues") or {}).get("runs", ())
        ends[run_id] = ([*before, run_id], model)
    for run_id, (runs_of_it, model) in ends.items():
        part = {n: r for each in runs_of_it for n, r in used.get(each, {}).items()}
        if model and part:
            name, version = model["name"], str(model["version"])
            found.append(ModelVersion(name, version, run_id, len(part), max(part.values())))
    return Traces(tuple(found), tuple(unreadable))
