"""Run a job's pipeline in a child process and tell a person how it goes."""

from __future__ import annotations

import json
import sys
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.environment import child_environment
from consilo.errors import ServiceFailed
from consilo.job import Job
from consilo.processes import Service, Supervisor
from consilo.record import new_run_id
from flows.federation import Say


@dataclass(frozen=True)
class Launched:
    """A pipeline on its way.

    Args:
        service: its process.
        result: where its summary will be.
        record: of its run; the file appears when the run is opened.
        told: bytes of the record that are old, in a run that goes on.
    """

    service: Service
    result: Path
    record: Path
    told: int = 0

    def wait(self, say: Say) -> dict[str, Any]:
        """Return the summary when the pipeline has ended; tell of its stages meanwhile.

        Raises:
            ServiceFailed: where it ended without one.
        """
        told = self.told
        while True:
            ended = self.service.returncode is not None
            entries, told = following(self.record, told)
            for entry in entries:
                line = _line(entry)
                if line:
                    say(line)
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


def following(record: Path, told: int) -> tuple[list[Mapping[str, Any]], int]:
    """Return what a record says after its first ``told`` bytes, and how many bytes that makes.

    A last line that is being written is left for the next time.
    """
    try:
        with record.open("rb") as file:
            file.seek(told)
            whole, newline, _ = file.read().rpartition(b"\n")
    except FileNotFoundError:  # the run is not opened yet
        return [], told
    return [json.loads(line) for line in whole.splitlines()], told + len(whole) + len(newline)


def launch(supervisor: Supervisor, home: Path, job: Job, parameters: Mapping[str, Any]) -> Launched:
    """Start the pipeline's process; it waits until the federation in ``home`` is up.

    The run's id is chosen here, so that this run is followed and no other one in ``home``.

    Args:
        supervisor: ends it.
        home: the coordinator's directory.
        job: what is run.
        parameters: the flow's; ``job`` is the job's file.
    """
    resumed = parameters.get("resume")
    run_id = resumed or new_run_id(job.name)
    record = home / "runs" / run_id / "record.jsonl"
    _, told = following(record, 0)
    name = uuid.uuid4().hex[:8]  # of this process: a run that goes on has had another one
    result = home / "results" / f"{name}.json"
    argv = [sys.executable, "-m", "flows.runner", "--home", str(home), "--run-id", run_id]
    argv += ["--parameters", json.dumps(dict(parameters)), "--result", str(result)]
    log = home / "logs" / f"pipeline-{name}.log"
    environment = child_environment(home=home / "superlink" / "flwr")
    service = supervisor.start("pipeline", argv, log=log, env=environment)
    return Launched(service, result, record, told)


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
