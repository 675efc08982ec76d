"""Flows of deployments are killed where it is hardest; nobody says a command, and nothing is lost.

Each run is held against what it must come to: one that waited for silos against the undisturbed
run, an asynchronous one against the job done again with answers in the recorded order.
"""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest
from mlflow import MlflowClient

from consilo.machine.leases import holder
from consilo.machine.reaper import _PR_SET_CHILD_SUBREAPER, prctl
from consilo.record.run_record import read, verify
from consilo.yaml_text import to_yaml
from flows.registry import names
from flows.rehearsal.copies import prepare
from flows.rehearsal.deployed import submit
from flows.rehearsal.place import rehearsal_place
from flows.rehearsal.replay import Ended, ended, replays
from flows.rehearsal.standing import Standing, standing
from flows.services.federation import Addresses
from flows.services.launch import can_go_on
from flows.services.owning import OWNER
from flows.tending.servers import ask

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(2400)]

JOB = {
    "name": "stays",
    "contract": "breast_cancer@1",
    "model": "consilo.learners.tabular:LogisticRegression",
    "protocol": {"name": "fedavg", "rounds": 6},
    "local": {"batch_size": 32, "steps": 4, "lr": 0.1},
    "privacy": {"epsilon": 4.0, "delta": 1e-4},
    "quorum": {"min_silos": 2, "deadline": 600},
}
T = TypeVar("T")
WITHIN_S = 900.0
"""Nothing here takes a tenth of it; a machine that others use too may."""


@pytest.fixture(scope="module")
def there() -> Iterator[Standing]:
    """A federation as ``consilo up --worker`` has it, with three silos of this machine."""
    with rehearsal_place(None) as at:
        file = at.folder / "stays.yaml"
        file.write_text(to_yaml(JOB))
        rehearsed = prepare(file, at, None, rounds=None)
        try:
            with standing(at, rehearsed, print, worker=True, before=None) as made:
                assert made.settle(WITHIN_S)[1] == []
                yield made
        finally:
            prctl(_PR_SET_CHILD_SUBREAPER, 0)  # other tests' orphans are none of ours


def doing(there: Standing, name: str, **changes: Any) -> Standing:
    """Return the federation with the job changed, and called otherwise."""
    job = there.rehearsed.job.changed(name=name, **changes)
    file = there.place.jobs / f"{name}.yaml"
    file.write_text(to_yaml(job.to_json()))
    return replace(there, rehearsed=replace(there.rehearsed, job=job, file=file))


def until(there: Standing, what: str, look: Callable[[], T | None]) -> T:
    """Return the first answer that is one; what died is started again meanwhile."""
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        there.watch.look()
        if (found := look()) is not None:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} did not come within {WITHIN_S:.0f} s")


def begun(there: Standing) -> tuple[str, Path]:
    """Let the worker begin a run; return its flow run, and the record of the run."""
    known = set((there.home / "runs").glob("*"))
    flow_run = submit(there, wait_s=5.0)  # who goes on without a silo waits by its quorum soon

    def look() -> Path | None:
        new = set((there.home / "runs").glob("*/record.jsonl"))
        return next((each for each in new if each.parent not in known), None)

    return flow_run, until(there, "a run", look)


def bodies(record: Path, kind: str) -> list[dict[str, Any]]:
    if not record.exists() or not record.stat().st_size:
        return []
    return [each["body"] for each in read(record) if each["kind"] == kind]


def line(there: Standing, record: Path, kind: str, number: int = 1) -> dict[str, Any]:
    """Wait for the n-th line of a kind in a record."""
    return until(
        there,
        f"line {number} '{kind}' of {record}",
        lambda: dict(enumerate(bodies(record, kind), start=1)).get(number),
    )


def killed(there: Standing, record: Path) -> int:
    """Kill the process that owns a run by SIGKILL; return its id when it is gone."""
    owner = holder(record.with_name(OWNER))
    assert owner.is_here
    owner.kill()
    until(there, "the flow's death", lambda: None if psutil.pid_exists(owner.pid) else True)
    return owner.pid


def over(there: Standing, record: Path) -> Ended:
    """Return what a run came to; its record is whole."""
    until(there, f"the end of {record}", lambda: None if can_go_on(record) else True)
    verify(record)
    return ended(record, there.rehearsed.silos)


def require_one_run_shown(there: Standing, died: str, record: Path, *, rounds: int) -> None:
    """Fail where Prefect or MLflow show anything else than one run that a second flow run ended."""
    run = record.parent.name
    at = Addresses.load(there.home)
    assert ask(f"{at.prefect_api}/flow_runs/{died}")["state"]["type"] == "CRASHED"
    (first, second) = bodies(record, "opened")[0]["run_id"], bodies(record, "resumed")
    assert (first, len(second)) == (run, 1)

    def adopted() -> dict[str, Any] | None:
        asked = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
        found = ask(f"{at.prefect_api}/flow_runs/filter", asked, within_s=60)
        return next((each for each in found if each["parameters"].get("resume") == run), None)

    assert until(there, "the flow run that went on", adopted)["id"] != died
    client = MlflowClient(at.tracking_uri)
    ids = [each.experiment_id for each in client.search_experiments()]

    def shown() -> Any:
        found = [e for e in client.search_runs(ids) if names.tag(e.data.tags, names.TAG_RUN) == run]
        assert len(found) == 1
        return found[0] if found[0].info.status != "RUNNING" else None

    tracked = until(there, "the end of the MLflow run", shown)
    assert tracked.info.status == "FINISHED"
    for name in tracked.data.metrics:
        steps = Counter(e.step for e in client.get_metric_history(tracked.info.run_id, name))
        assert set(steps.values()) == {1}, (name, steps)
    # Of each round once: who trained, however often a process did it.
    assert [b["round"] for b in bodies(record, "round")][-1] == rounds


def test_one_that_waits_for_its_quorum_goes_on_waiting_and_comes_to_the_same(
    there: Standing,
) -> None:
    waits = doing(
        there, "waits", quorum={"min_silos": 3, "on_loss": "wait", "for": "60m", "deadline": 600}
    )
    _, calm = begun(waits)
    twin = over(waits, calm)
    assert (twin.status, len(twin.rounds)) == ("complete", 6)

    flow_run, record = begun(waits)
    line(waits, record, "round")
    node = waits.service("silo", "south")
    waits.kill(node, held=True)
    first = line(waits, record, "waiting")
    assert list(first["missing"]) == ["south"]
    killed(waits, record)
    line(waits, record, "resumed")
    again = line(waits, record, "waiting", 2)
    # Who goes on waits for what is left, and not for an hour more.
    ends = [datetime.fromisoformat(each["until"]) for each in (first, again)]
    assert abs(ends[1] - ends[0]) < timedelta(seconds=5)
    assert can_go_on(record)
    assert bodies(record, "went_on") == []
    waits.start_again(node)
    came = over(waits, record)
    assert (came.status, came.reason) == ("complete", twin.reason)
    assert len(bodies(record, "went_on")) == 1
    assert came.participation == twin.participation
    assert came.params == twin.params != ""
    assert came.epsilon == twin.epsilon
    assert all(came.epsilon.values())
    assert came.is_as(twin)
    require_one_run_shown(waits, flow_run, record, rounds=6)


def test_an_asynchronous_one_comes_to_what_the_order_of_arrival_makes(there: Standing) -> None:
    arrives = doing(there, "arrives", protocol={"name": "fedbuff", "rounds": 6, "buffer": 2})
    flow_run, record = begun(arrives)
    line(arrives, record, "round", 2)
    killed(arrives, record)
    done = len(bodies(record, "round"))
    assert done < 6
    came = over(arrives, record)
    assert came.status == "complete", came.reason
    assert sorted(came.rounds) == sorted(came.order) == [1, 2, 3, 4, 5, 6]
    assert all(each.answers for each in came.order.values())
    assert came.params
    assert all(came.epsilon.values())
    twins = list(replays(arrives.rehearsed, came, arrives.place.folder / "replayed"))
    assert any(came.is_as(each) for each in twins), (came, twins)
    require_one_run_shown(arrives, flow_run, record, rounds=6)


@pytest.mark.parametrize("with_worker", [False, True])
def test_one_that_dies_before_it_has_a_run_is_asked_for_again(
    there: Standing, with_worker: bool
) -> None:
    """Also where its worker dies at the same time, which would have told Prefect."""
    early = doing(there, f"early-{with_worker}".lower(), protocol={"name": "fedavg", "rounds": 2})
    runs, api = there.home / "runs", Addresses.load(there.home).prefect_api
    known = set(runs.glob("*"))
    died = submit(early)

    def begun_by() -> int | None:
        told = ask(f"{api}/flow_runs/{died}", within_s=60)["infrastructure_pid"]
        return int(told.rpartition(":")[2]) if told else None

    process = until(early, "its process", begun_by)
    if with_worker:
        early.kill(early.service("worker"), held=False)
    else:
        os.kill(process, signal.SIGKILL)
    (record,) = until(
        early,
        "a run",
        lambda: [r for r in runs.glob("*/record.jsonl") if r.parent not in known] or None,
    )
    came = over(early, record)
    assert (came.status, len(came.rounds)) == ("complete", 2)
    asked = {"flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}

    def ended_well() -> dict[str, Any] | None:
        found = ask(f"{api}/flow_runs/filter", asked, within_s=60)
        mine = [e for e in found if names.run_tag(record.parent.name) in e["tags"]]
        return mine[0] if mine else None

    further = until(early, "the end of its flow run", ended_well)
    first = ask(f"{api}/flow_runs/{died}", within_s=60)
    assert (first["state"]["type"], names.runs_of(first["tags"])) == ("CRASHED", ())
    assert further["id"] != died
    assert further["parameters"] == first["parameters"]
    assert {each for each in runs.glob("*") if each.is_dir()} - known == {record.parent}
