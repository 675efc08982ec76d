"""Run a job's pipeline in a child process and tell a person how it goes."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.environment import child_environment
from consilo.errors import ServiceFailed
from consilo.processes import Service, Supervisor
from flows.federation import Say


@dataclass(frozen=True)
class Launched:
    """A pipeline on its way.

    Args:
        service: its process.
        result: where its summary will be.
        runs: the directory in which its run record appears.
        known: run directories that were there before.
        told: entries of the record that are old, in a run that goes on.
    """

    service: Service
    result: Path
    runs: Path
    known: frozenset[str]
    told: int = 0

    def wait(self, say: Say) -> dict[str, Any]:
        """Return the summary when the pipeline has ended; tell of its stages meanwhile.

        Raises:
            ServiceFailed: where it ended without one.
        """
        told = self.told
        while True:
            ended = self.service.returncode is not None
            entries = list(self._entries())
            for entry in entries[told:]:
                line = _line(entry)
                if line:
                    say(line)
            told = len(entries)
            if ended:
                break
            time.sleep(0.2)
        if not self.result.exists():
            raise ServiceFailed(
                f"the pipeline ended without a result (exit code {self.service.returncode}); the "
                f"end of {self.service.log}:\n{self.service.last_lines()}"
            )
        summary: dict[str, Any] = json.loads(self.result.read_text())
        return summary

    def _entries(self) -> Iterator[Mapping[str, Any]]:
        if not self.runs.is_dir():
            return
        for place in sorted(self.runs.iterdir()):
            record = place / "record.jsonl"
            if place.name in self.known or not record.exists():
                continue
            for line in record.read_text().splitlines():
                try:
                    yield json.loads(line)
                except ValueError:  # the last line is being written
                    return


def launch(supervisor: Supervisor, home: Path, parameters: Mapping[str, Any]) -> Launched:
    """Start the pipeline's process; it waits until the federation in ``home`` is up.

    Args:
        supervisor: ends it.
        home: the coordinator's directory.
        parameters: the flow's.
    """
    runs = home / "runs"
    known = frozenset(each.name for each in runs.iterdir()) if runs.is_dir() else frozenset()
    resumed, told = parameters.get("resume"), 0
    if resumed in known:
        known -= {resumed}
        told = len((runs / str(resumed) / "record.jsonl").read_bytes().splitlines())
    name = uuid.uuid4().hex[:8]
    result = home / "results" / f"{name}.json"
    argv = [sys.executable, "-m", "flows.runner", "--home", str(home)]
    argv += ["--parameters", json.dumps(dict(parameters)), "--result", str(result)]
    log = home / "logs" / f"pipeline-{name}.log"
    environment = child_environment(home=home / "superlink" / "flwr")
    service = supervisor.start("pipeline", argv, log=log, env=environment)
    return Launched(service, result, runs, known, told)


def _line(entry: Mapping[str, Any]) -> str:
    kind, body = entry["kind"], entry["body"]
    if kind == "resumed" and body.get("changed"):
        return f"resumed with other hardware or software: {', '.join(body['changed'])}"
    if kind == "contract":
        why = f": {body['reason']}" if body["reason"] else ""
        return f"contract check {body['silo']}: {body['verdict']}{why}"
    if kind == "standardized":
        return f"standardised over {len(body['rows'])} silos"
    if kind == "matched" and "rows" in body:
        how = "used again" if body["reused"] else "made"
        return f"match '{body['handle']}' {how}: {body['rows']} rows"
    if kind == "round":
        faults = "".join(f", {silo} {code}" for silo, code in body["faults"].items())
        return f"round {body['round']}: {len(body['silos'])} silos{faults}"
    if kind == "evaluated":
        return _evaluated(body)
    if kind == "closed":
        return f"run {body['status']}"
    return ""


def _evaluated(body: Mapping[str, Any]) -> str:
    metrics: Mapping[str, float] = body["metrics"]
    if (scored := body.get("facts", {}).get("scored")) is not None:
        return f"{scored:.0f} rows scored; the scores stay in their silo"
    told = metrics
    for name in ("roc_auc", "r2", "accuracy"):
        if f"joined/{name}" in metrics:  # of three ways, each with its figures, one is enough here
            told = {key: value for key, value in metrics.items() if key.endswith(f"/{name}")}
            break
    return "evaluated: " + ", ".join(f"{name} {value:.4f}" for name, value in told.items())
