"""A person who starts a run is told of that run: its id is chosen before its process starts."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from consilo.errors import ServiceFailed
from consilo.jobs.job import Job
from flows.pipeline import pipeline, run_pipeline
from flows.services.connection import connecting
from flows.services.launch import following, launch

JOB = Job.load(Path(__file__).parents[3] / "schemas" / "jobs" / "breast_cancer.yaml")


class Process:
    """A service that ends when its end is asked for the second time."""

    log = Path("pipeline.log")
    signal_number = 0
    ending = "exit code 0"

    def __init__(self) -> None:
        self.asked = 0

    @property
    def returncode(self) -> int | None:
        self.asked += 1
        return None if self.asked < 2 else 0

    def last_lines(self) -> str:
        return ""

    def stop(self) -> None:
        assert self.returncode is not None, "a service that goes on is stopped"


class Supervisor:
    """Keeps the command lines that it is asked to start."""

    def __init__(self) -> None:
        self.started: list[dict[str, str]] = []

    def start(self, name: str, argv: list[str], **_: Any) -> Process:
        said = argv[3:]  # after: python -m flows.runner
        self.started.append(dict(zip(said[::2], said[1::2], strict=True)))
        return Process()


def write(record: Path, *entries: tuple[str, dict[str, Any]], end: str = "\n") -> None:
    record.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"kind": kind, "body": body}) for kind, body in entries]
    with record.open("a") as file:
        file.write("\n".join(lines) + end)


def round_of(number: int, *silos: str) -> tuple[str, dict[str, Any]]:
    return "round", {"round": number, "silos": {name: {} for name in silos}, "faults": {}}


def test_two_runs_in_one_home_are_told_apart(tmp_path):
    # It once told of every directory that had not been there before, another run's too.
    supervisor = Supervisor()
    runs = [launch(supervisor, tmp_path, JOB, {"job": "job.yaml"}) for _ in range(2)]
    ids = [each["--run-id"] for each in supervisor.started]
    assert len(set(ids)) == 2
    assert [each.record.parent.name for each in runs] == ids
    told: dict[str, list[str]] = {}
    for number, (run_id, each) in enumerate(zip(ids, runs, strict=True), start=1):
        write(each.record, round_of(number, "ada"), ("closed", {"status": "complete"}))
        each.result.parent.mkdir(exist_ok=True)
        each.result.write_text(json.dumps({"run_id": run_id}))
    for run_id, each in zip(ids, runs, strict=True):
        told[run_id] = []
        assert each.wait(told[run_id].append) == {"run_id": run_id}
    assert told == {
        ids[0]: ["round 1: 1 silos", "run complete"],
        ids[1]: ["round 2: 1 silos", "run complete"],
    }


def test_of_a_run_that_goes_on_only_what_is_new_is_told(tmp_path):
    record = tmp_path / "runs" / "old" / "record.jsonl"
    write(record, round_of(1, "ada"))
    write(record, round_of(2, "ada"), end="")  # its process died before the line's end
    supervisor = Supervisor()
    run = launch(supervisor, tmp_path, JOB, {"job": "job.yaml", "resume": "old"})
    assert supervisor.started[0]["--run-id"] == "old"
    record.write_bytes(record.read_bytes().splitlines(keepends=True)[0])  # as it is reopened
    write(record, round_of(2, "ada", "berta"))
    run.result.parent.mkdir(exist_ok=True)
    run.result.write_text("{}")
    told: list[str] = []
    run.wait(told.append)
    assert told == ["round 2: 2 silos"]


class Killed(Process):
    """A service that was killed."""

    signal_number = 9
    ending = "killed by SIGKILL"


class Killing(Supervisor):
    """Starts processes of which the first ones are killed; the last leaves a result."""

    def __init__(self, killed: int, record: Path) -> None:
        super().__init__()
        self.killed = killed
        self.record = record

    def start(self, name: str, argv: list[str], **_: Any) -> Process:
        super().start(name, argv)
        write(self.record, round_of(len(self.started), "ada"))
        if len(self.started) <= self.killed:
            return Killed()
        result = Path(self.started[-1]["--result"])
        result.parent.mkdir(parents=True, exist_ok=True)
        result.write_text('{"status": "complete"}')
        return Process()


def test_a_killed_pipeline_is_gone_on_with_by_itself(tmp_path):
    record = tmp_path / "runs" / "old" / "record.jsonl"
    supervisor = Killing(2, record)
    parameters = {"job": "job.yaml", "rounds": 5, "resume": "old"}
    looked: list[int] = []
    told: list[str] = []
    run = launch(supervisor, tmp_path, JOB, parameters)
    assert run.wait(told.append, lambda: looked.append(1)) == {"status": "complete"}
    assert [each["--run-id"] for each in supervisor.started] == ["old"] * 3
    asked = [json.loads(each["--parameters"]) for each in supervisor.started]
    assert asked == [parameters] * 3
    killed = [line for line in told if "killed by SIGKILL; going on with old" in line]
    assert len(killed) == 2
    assert [line for line in told if line not in killed] == [
        f"round {number}: 1 silos" for number in (1, 2, 3)
    ]
    assert looked


def test_one_that_is_killed_for_ever_ends_with_how_to_go_on(tmp_path):
    record = tmp_path / "runs" / "old" / "record.jsonl"
    supervisor = Killing(99, record)
    asked = {"job": "job.yaml", "rounds": 5, "folds": 3, "fold": 2, "resume": "old"}
    run = launch(supervisor, tmp_path, JOB, asked)
    with pytest.raises(ServiceFailed) as caught:
        run.wait(lambda _: None)
    assert len(supervisor.started) == 4
    command = (
        f"consilo job run job.yaml --dir {tmp_path} --rounds 5 --folds 3 --fold 2 --resume old"
    )
    assert f"(killed by SIGKILL); go on with it: {command}; " in str(caught.value)


def test_a_run_that_was_cut_off_says_the_command_that_goes_on_with_it(tmp_path):
    supervisor = Supervisor()
    run = launch(supervisor, tmp_path, JOB, {"job": "job.yaml"})
    run.result.parent.mkdir()
    run.result.write_text('{"status": "failed"}')
    assert run.wait(lambda _: None) == {"status": "failed"}  # it has not begun
    write(run.record, round_of(1, "ada"), ("interrupted", {"reason": "away"}))
    told: list[str] = []
    command = f"consilo job run job.yaml --dir {tmp_path} --resume {run.record.parent.name}"
    assert run.wait(told.append) == {"status": "failed", "resume": command}
    assert told[-1] == f"the run is not over; go on with it: {command}"


def test_one_that_was_killed_after_its_end_is_not_gone_on_with(tmp_path):
    record = tmp_path / "runs" / "old" / "record.jsonl"
    supervisor = Killing(99, record)
    run = launch(supervisor, tmp_path, JOB, {"job": "job.yaml", "resume": "old"})
    write(record, ("closed", {"status": "complete"}))
    with pytest.raises(ServiceFailed) as caught:
        run.wait(lambda _: None)
    assert len(supervisor.started) == 1
    assert "--resume" not in str(caught.value)


def test_a_record_is_read_on_from_where_it_was_read_to(tmp_path):
    record = tmp_path / "record.jsonl"
    assert following(record, 0) == ([], 0)
    write(record, ("opened", {}))
    first, told = following(record, 0)
    assert [each["kind"] for each in first] == ["opened"]
    with record.open("r+b") as file:
        file.write(b"\xff" * (told - 1))  # whoever read it again would stumble
    write(record, round_of(1), ("closed", {}), end="")
    more, told = following(record, told)
    assert [each["kind"] for each in more] == ["round"]
    with record.open("ab") as file:
        file.write(b"\n")
    assert [each["kind"] for each in following(record, told)[0]] == ["closed"]
    assert following(record, record.stat().st_size) == ([], record.stat().st_size)


@pytest.mark.flow
@pytest.mark.parametrize("chosen", ["", "chosen-by-its-starter"])
def test_a_run_bears_the_name_that_its_starter_chose_else_one_of_its_own(make_federation, chosen):
    federation = make_federation("named" if chosen else "unnamed")
    with connecting(federation.connect()):
        summary = run_pipeline(
            home=federation.home, run_id=chosen, job=str(federation.job), wait_s=0
        )
    assert summary["status"] != "failed", summary["reason"]
    assert chosen in summary["run_id"]
    made = [each.name for each in (federation.home / "runs").iterdir() if each.is_dir()]
    assert made == [summary["run_id"]]
    if not chosen:
        assert summary["run_id"].startswith(f"{Job.load(federation.job).name}-")


def test_nobody_is_asked_for_a_run_id_in_the_form():
    assert "run_id" not in inspect.signature(pipeline.fn).parameters
