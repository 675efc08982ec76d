"""A flow run that died before it had a run was asked for again by nobody: the night was lost."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.states import Cancelled, Cancelling, Completed, Crashed, Running

from flows.registry import names
from flows.services.owning import owning
from flows.tending.findings import Finding
from flows.tending.reconcile import _adopt, reconcile
from flows.tending.servers import ask, end_died
from flows.tending.unbegun import DAY_S, MOST_ASKED, unbegun

pytestmark = pytest.mark.flow

ASKED = {"job": "heart", "rounds": 3}
"""What the flow runs here are asked for."""


@dataclass
class Nightly:
    """A deployment of a pool that no worker serves, and what it is asked for."""

    api: str
    home: Path
    client: Any
    deployment: UUID
    pool: str
    told: list[Finding] = field(default_factory=list)

    def died(self, *, tags: tuple[str, ...] = (), state: Any = None, **parameters: Any) -> Any:
        """A flow run that began and whose process died."""
        made = self.client.create_flow_run_from_deployment(
            self.deployment, parameters={**ASKED, **parameters}, tags=tags
        )
        self.ends(made.id, state or Crashed(message="Process exited with status code: -9"))
        return made

    def ends(self, run: UUID, state: Any) -> None:
        self.client.set_flow_run_state(run, Running(), force=True)
        self.client.set_flow_run_state(run, state, force=True)

    def begins(self, run: str) -> None:
        """Write the first line of a run's record."""
        (self.home / "runs" / run).mkdir(parents=True, exist_ok=True)
        (self.home / "runs" / run / "record.jsonl").write_text("{}\n")

    def look(self, *, act: bool = True, later_s: float = 0.0) -> list[Finding]:
        now = time.time() + later_s
        return list(unbegun(self.api, self.home, act, pool=self.pool, now=now))

    def runs(self) -> list[Any]:
        return [e for e in self.client.read_flow_runs() if e.deployment_id == self.deployment]

    def further(self, *known: Any) -> Any:
        """The one flow run that is none of these."""
        (found,) = [e for e in self.runs() if e.id not in {each.id for each in known}]
        return found


@pytest.fixture
def nightly(services: Any, tmp_path: Path) -> Iterator[Nightly]:
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("unbegun")
        pool = f"unbegun-{uuid4().hex}"  # the runs of other tests are in Consilo's own
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
        deployment = client.create_deployment(flow, "nightly", work_pool_name=pool)
        made = Nightly(services.prefect_api, tmp_path, client, deployment, pool)
        yield made
        for each in made.runs():
            client.delete_flow_run(each.id)
        client.delete_deployment(deployment)
        client.delete_work_pool(pool)


def test_it_is_asked_for_again_once_and_as_it_was(nightly: Nightly) -> None:
    died = nightly.died(tags=("mine", names.run_tag("heart-1"), "died"))
    (told,) = nightly.look(act=False)
    assert told.name == died.name
    assert told.what.startswith("died before it had a run (Process exited with status code: -9")
    assert "consilo up" in told.done
    assert len(nightly.runs()) == 1
    (found,) = nightly.look()
    assert found.done.endswith("was asked for in its place")
    further = nightly.further(died)
    assert further.parameters == died.parameters == ASKED
    assert further.tags == ["mine"]
    assert further.state.is_scheduled()
    assert nightly.look() == [found]
    assert len(nightly.runs()) == 2
    nightly.ends(further.id, Completed())
    assert nightly.look() == nightly.look(act=False) == []
    assert len(nightly.runs()) == 2


def test_whoever_tends_the_directory_looks_for_them(services: Any, tmp_path: Path) -> None:
    with get_client(sync_client=True) as client:
        flow = client.create_flow_from_name("unbegun")
        deployment = client.create_deployment(flow, "tended", work_pool_name=names.POOL)
        nightly = Nightly(services.prefect_api, tmp_path, client, deployment, names.POOL)
        died, owner = nightly.died(), nightly.died(rounds=4)
        with owning(tmp_path / "runs" / "heart-1", flow_run=str(owner.id)):
            nightly.begins("heart-1")  # by a release that had no such tag
            found = reconcile(tmp_path, prefect_api=nightly.api, tracking_uri="", act=False)
        named = [each.name for each in found if each.kind == "flow run"]
        assert died.name in named
        assert owner.name not in named
        for each in nightly.runs():
            client.delete_flow_run(each.id)
        client.delete_deployment(deployment)


def test_one_that_dies_each_time_is_asked_for_three_times_and_then_a_person_is(
    nightly: Nightly,
) -> None:
    known = [nightly.died()]
    for _ in range(MOST_ASKED):
        (found,) = nightly.look()
        assert (bool(found.done), found.todo) == (True, "")
        known.append(nightly.further(*known))
        nightly.ends(known[-1].id, Crashed())
    for act in (True, False):
        (found,) = nightly.look(act=act)
        assert (found.name, found.done) == (known[-1].name, "")
        assert "3 times again" in found.what
        assert f"prefect deployment run --id {nightly.deployment}" in found.todo
        assert '{"job": "heart", "rounds": 3}' in found.todo
        assert "logs/worker.log" in found.todo
    assert len(nightly.runs()) == 1 + MOST_ASKED
    nightly.died(state=Completed())  # by a person
    assert nightly.look() == []


def test_what_has_a_run_or_was_cancelled_or_is_old_is_left_alone(nightly: Nightly) -> None:
    nightly.begins("heart-1")
    nightly.died(tags=(names.run_tag("heart-1"),))
    nightly.died(resume="heart-1")
    nightly.died(state=Cancelled())
    nightly.died(state=Completed())
    assert nightly.look() == []
    # All of these were before it, and are what it should have been: only what comes after counts.
    died = nightly.died()
    assert [each.name for each in nightly.look(act=False)] == [died.name]
    assert nightly.look(later_s=DAY_S + 60) == []
    nightly.died(rounds=4)
    assert len(nightly.look(act=False)) == 2
    nightly.died(state=Completed(), rounds=4)
    assert [each.name for each in nightly.look(act=False)] == [died.name]


def test_where_its_deployment_is_gone_a_person_is_told(
    nightly: Nightly, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = nightly.died()

    def gone(url: str, body: Any = None) -> Any:
        if url.endswith("/create_flow_run"):
            raise OSError("HTTP Error 404: Not Found")
        return ask(url, body)

    monkeypatch.setattr("flows.tending.unbegun.ask", gone)
    (found,) = nightly.look()
    assert (found.name, found.done) == (died.name, "")
    assert "no other flow run could be made (HTTP Error 404" in found.what
    assert "prefect deployment run" in found.todo


def test_one_that_somebody_was_cancelling_when_it_died_is_cancelled(nightly: Nightly) -> None:
    """It was shown as Crashed, and gone on with against the will of who had cancelled it."""
    stopped = nightly.died(state=Cancelling())
    end_died(nightly.api, ask(f"{nightly.api}/flow_runs/{stopped.id}"), "its process died")
    state = nightly.client.read_flow_run(stopped.id).state
    assert (state.is_cancelled(), state.message) == (True, "its process died")
    assert nightly.look() == []


def test_a_successor_that_died_before_it_took_the_run_over_is_asked_for_again(
    nightly: Nightly,
) -> None:
    """Its run was reported to a person at once, though nobody had gone on with it yet."""
    died = nightly.died(tags=(names.run_tag("heart-1"),))
    nightly.begins("heart-1")
    known, asked = [died], ask(f"{nightly.api}/flow_runs/{died.id}")
    for _ in range(1 + MOST_ASKED):
        further = _adopt(nightly.api, asked, "heart-1", 0)
        assert further["state"]["type"] == "SCHEDULED"
        assert further["parameters"]["resume"] == "heart-1"
        known.append(nightly.further(*known))
        assert str(known[-1].id) == further["id"]
        assert names.runs_of(known[-1].tags) == ("heart-1",)
        nightly.ends(known[-1].id, Crashed())
        assert nightly.look() == []  # the record of its run knows more
    assert _adopt(nightly.api, asked, "heart-1", 0)["state"]["type"] == "CRASHED"
    assert len(nightly.runs()) == len(known)
