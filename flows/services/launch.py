"""Run a job's pipeline in a child process and tell a person how it goes."""

from __future__ import annotations

import json
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from consilo.errors import ServiceFailed
from consilo.jobs.job import Job
from consilo.machine.environment import child_environment
from consilo.machine.processes import Service, Supervisor
from consilo.metrics.words import in_short
from consilo.record.run_record import new_run_id
from consilo.reduce.draw import in_words
from flows.services.place import Say

_MOST_AGAIN = 3
"""How often a pipeline whose process was killed is started again."""


@dataclass(frozen=True)
class Launched:
    """A pipeline on its way.

    Args:
        service: its process.
        result: where its summary will be.
        record: of its run; the file appears when the run is opened.
        again: starts another process that goes on with the run.
        command: what a person says to go on with the run.
        told: bytes of the record that are old, in a run that goes on.
    """

    service: Service
    result: Path
    record: Path
    again: Callable[[], Launched]
    command: str
    told: int = 0

    def wait(self, say: Say, look: Callable[[], None] = lambda: None) -> dict[str, Any]:
        """Return the summary when the pipeline has ended; tell of its stages meanwhile.

        Of a run that failed and is not over, ``resume`` is the command that goes on with it.

        A pipeline whose process is killed is gone on with, three times at most.

        Args:
            say: told of the stages.
            look: called several times a second.

        Raises:
            ServiceFailed: where it ended without one.
        """
        going = self
        for left in range(_MOST_AGAIN, -1, -1):
            summary = going._follow(say, look)
            if summary is not None:
                if summary.get("status") == "failed" and can_go_on(self.record):
                    summary["resume"] = going.command
                    say(f"the run is not over; go on with it: {going.command}")
                return summary
            if not (left and going.service.signal_number and can_go_on(self.record)):
                break
            say(
                f"the pipeline's process was {going.service.ending}; going on with "
                f"{self.record.parent.name} from its last checkpoint"
            )
            going = going.again()
        further = f"; go on with it: {self.command}" if can_go_on(self.record) else ""
        failed = ServiceFailed(
            f"the pipeline ended without a result ({going.service.ending}){further}; the end of "
            f"{going.service.log}:\n{going.service.last_lines()}"
        )
        failed.resume = self.command if further else ""
        raise failed

    def _follow(self, say: Say, look: Callable[[], None]) -> dict[str, Any] | None:
        """Return the summary when the process has ended; None where it left none."""
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
            look()
            time.sleep(0.2)
        self.service.stop()  # lets go of its guard: whoever runs many would keep a pipe of each
        if not self.result.exists():
            return None
        summary: dict[str, Any] = json.loads(self.result.read_text())
        return summary


def can_go_on(record: Path) -> bool:
    """Return whether a run has begun and not ended, as its record says."""
    entries, _ = following(record, 0)
    return bool(entries) and entries[-1]["kind"] != "closed"


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
    further = {**parameters, "resume": run_id}
    return Launched(
        service,
        result,
        record,
        lambda: launch(supervisor, home, job, further),
        _command(home, further),
        told,
    )


def _command(home: Path, parameters: Mapping[str, Any]) -> str:
    """Return how a person starts a pipeline with these parameters."""
    named = ("rounds", "epsilon", "folds", "fold", "bundle")
    options = {"--dir": home, **{f"--{n}": parameters.get(n) for n in named}}
    options |= {"--resume": parameters["resume"]}
    what = ["run", str(parameters["job"])]
    if "extend" in parameters:
        what = ["extend", str(parameters["extend"])]
        options["--job"] = parameters["job"]
    said = [str(part) for pair in options.items() if pair[1] is not None for part in pair]
    return shlex.join(["consilo", "job", *what, *said])


def _line(entry: Mapping[str, Any]) -> str:
    kind, body = entry["kind"], entry["body"]
    if kind == "resumed" and body.get("changed"):
        return f"resumed with other hardware or software: {', '.join(body['changed'])}"
    if kind == "contract":
        why = f": {body['reason']}" if body["reason"] else ""
        return f"contract check {body['silo']}: {body['verdict']}{why}"
    if kind == "waiting":
        away = ", ".join(body["missing"]) or "silos"
        return f"waiting for {away} until {body['until']}: {body['reason']}"
    if kind == "went_on":
        return f"the silos are back after {body['waited_s']:.0f} s; the run goes on"
    if kind == "standardized":
        return f"standardised over {len(body['rows'])} silos"
    if kind == "matched" and "rows" in body:
        how = "used again" if body["reused"] else "made"
        return f"match '{body['handle']}' {how}: {body['rows']} rows"
    if kind == "round":
        faults = "".join(f", {silo} {code}" for silo, code in body["faults"].items())
        drawn = in_words(body.get("cohort", {}))
        return f"round {body['round']}: {len(body['silos'])} silos{faults}{drawn}"
    if kind == "evaluated":
        return _evaluated(body)
    if kind == "closed":
        return f"run {body['status']}"
    return ""


def _evaluated(body: Mapping[str, Any]) -> str:
    metrics: Mapping[str, float] = body["metrics"]
    if (scored := body.get("facts", {}).get("scored")) is not None:
        return f"{scored:.0f} rows scored; the scores stay in their silo"
    for name in ("roc_auc", "r2", "accuracy"):
        if f"joined/{name}" in metrics:  # of three ways, each with its figures, one is enough here
            told = {key: value for key, value in metrics.items() if key.endswith(f"/{name}")}
            return "evaluated: " + ", ".join(f"{key} {value:.4f}" for key, value in told.items())
    return f"evaluated: {in_short(metrics)}"
