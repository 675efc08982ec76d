"""What nobody owns is adopted, ended or reported; what somebody owns is left alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from typer import Typer
from typer.testing import CliRunner

from consilo.errors import RunNotResumable
from consilo.machine.leases import BEAT_S
from consilo.membership.coordinator import Coordinator
from consilo.membership.keys import load_or_create_signing_key
from consilo.record.run_record import RunRecord, read, verify
from flows.commands.status import status
from flows.registry import names
from flows.services.owning import OWNER, owning
from flows.tending import reconcile as reconciling
from flows.tending.reconcile import end_run, reconcile
from flows.tending.servers import ask

app = Typer()
app.command()(status)

OWNS = """
import sys, time
from pathlib import Path
from flows.services.owning import owning
with owning(Path(sys.argv[1]), flow_run=""):
    print("owned", flush=True)
    time.sleep(120)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    with Coordinator(tmp_path / "coordinator"):
        pass
    return tmp_path / "coordinator"


def begin(home: Path, run: str, *, flow_run: str = "", **opened: Any) -> RunRecord:
    key = load_or_create_signing_key(home / "keys" / "record.key")
    with owning(home / "runs" / run, flow_run=flow_run):
        record = RunRecord(home / "runs" / run / "record.jsonl", key)
        record.add("opened", run_id=run, **opened)
        record.add("round", round=1)
    return record


def disk(home: Path, *, act: bool) -> list[Any]:
    return reconcile(home, prefect_api="", tracking_uri="", act=act)


def ask_status(home: Path) -> tuple[int, dict[str, Any]]:
    found = CliRunner().invoke(app, ["--dir", str(home), "--json"])
    return found.exit_code, json.loads(found.stdout)


def test_a_run_that_was_cut_off_is_reported_until_somebody_decides(home: Path) -> None:
    begin(home, "study-1")
    begin(home, "study-2").close(status="complete")
    for act in (False, True):
        (found,) = disk(home, act=act)
        assert (found.kind, found.name, found.done) == ("run", "study-1", "")
        assert f"--dir {home} --resume study-1" in found.todo
        assert "consilo job give-up study-1" in found.todo
    code, told = ask_status(home)
    assert code == 1
    assert told["findings"][0]["name"] == "study-1"
    assert told["runs"]["last"]["name"] == "study-2"
    assert any("study-1 was cut off" in line for line in told["wrong"])
    assert {each["state"] for each in told["services"]} == {"down"}
    end_run(home, "study-1", "nobody wants it")
    assert disk(home, act=False) == []
    assert verify(home / "runs" / "study-1" / "record.jsonl")["reason"] == "nobody wants it"
    with pytest.raises(RunNotResumable, match="has ended"):
        end_run(home, "study-1", "again")
    with pytest.raises(RunNotResumable, match="no run of this name"):
        end_run(home, "study-3", "")


def test_a_run_that_is_owned_is_nobody_elses(home: Path) -> None:
    begin(home, "study-1")
    with owning(home / "runs" / "study-1", flow_run="x"):
        assert disk(home, act=True) == []
        assert ask_status(home)[1]["runs"]["running"] == ["study-1"]
        with pytest.raises(RunNotResumable, match=f"process {os.getpid()} is at work"):
            end_run(home, "study-1", "")
    assert len(disk(home, act=True)) == 1


def test_an_owner_that_hangs_is_ended_and_its_run_is_free(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(home, "study-1")
    run = home / "runs" / "study-1"
    process = subprocess.Popen(
        [sys.executable, "-c", OWNS, str(run)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        assert disk(home, act=True) == []
        monkeypatch.setattr(reconciling, "LEASE_S", BEAT_S + 1)
        process.send_signal(signal.SIGSTOP)
        time.sleep(BEAT_S + 1.5)
        (told,) = disk(home, act=False)
        assert (told.kind, told.done) == ("owner", "")
        (found, *_) = disk(home, act=True)
        assert "has not stirred" in found.what
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.communicate(timeout=10)
    (left,) = disk(home, act=True)
    assert left.kind == "run"


def test_a_match_that_died_and_what_was_half_written_are_settled(home: Path) -> None:
    begin(home, "study-match-1", recipe="r" * 64)
    half = home / "runs" / "study-match-1" / ".record.jsonl.0123456789abcdef"
    half.write_text("half")
    assert disk(home, act=False)[0].todo == ""
    assert half.exists()
    (found,) = disk(home, act=True)
    assert found.done
    assert not half.exists()
    closing = read(home / "runs" / "study-match-1" / "record.jsonl")[-1]
    assert (closing["kind"], closing["body"]["status"]) == ("closed", "failed")
    assert disk(home, act=True) == []


def test_a_run_that_died_as_it_ended_is_closed_as_it_said(home: Path) -> None:
    said = {"status": "complete", "reason": "", "metrics": {}, "silos": {}}
    begin(home, "study-1").add("ending", said=said, model={})
    end_run(home, "study-1", "given up")
    assert verify(home / "runs" / "study-1" / "record.jsonl")["status"] == "complete"


@pytest.mark.parametrize(
    ("content", "told"), [(b"", []), (b'{"kind": "op', []), (b"no entry\n", ["study-1"])]
)
def test_a_record_that_says_nothing_hinders_nothing(
    home: Path, content: bytes, told: list[str]
) -> None:
    begin(home, "study-2")
    place = home / "runs" / "study-1"
    place.mkdir()
    (place / "record.jsonl").write_bytes(content)
    assert sorted(each.name for each in disk(home, act=True)) == [*told, "study-2"]


def test_one_run_that_cannot_be_settled_hinders_no_other(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(home, "study-1")
    damaged = home / "runs" / "study-1" / "record.jsonl"
    damaged.write_bytes(b"no" + damaged.read_bytes())  # its last line is whole
    begin(home, "study-2", flow_run="gone")  # of a deployment that was deleted
    died = {"id": "gone", "name": "heart", "deployment_id": "d", "parameters": {}, "tags": []}

    def answers(url: str, body: Any = None) -> Any:
        if url.endswith("/flow_runs/gone"):
            return {**died, "state": {"type": "CRASHED"}}
        if url.endswith("create_flow_run"):
            raise HTTPError(url, 404, "Not Found", Message(), None)
        return []

    monkeypatch.setattr(reconciling, "ask", answers)
    found = reconcile(home, prefect_api="http://p/api", tracking_uri="", act=True)
    assert [each.name for each in found] == ["study-1", "study-2"]
    assert found[0].what == "has no whole record"
    assert "no other flow run could be made (HTTP Error 404" in found[1].what
    assert "--resume study-2" in found[1].todo


def test_a_run_that_begins_while_somebody_looks_is_not_ended_in_mlflow(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = []

    def answers(url: str, body: Any = None) -> Any:
        if url.endswith("/experiments/search"):
            return {"experiments": [{"experiment_id": "1"}]}
        if url.endswith("/runs/search"):
            begin(home, "study-1")
            tags = {"study-1": names.TAG_RUN, "elsewhere": names.TAG_RUN}
            listed = [{"tags": [{"key": key, "value": name}]} for name, key in tags.items()]
            return {"runs": [{"info": {"run_id": "m"}, "data": each} for each in listed]}
        if url.endswith("/runs/update"):
            ended.append(body)
        return {}

    monkeypatch.setattr(reconciling, "ask", answers)
    found = reconcile(home, prefect_api="", tracking_uri="http://m", act=True)
    assert [each.name for each in found] == ["elsewhere"]
    assert len(ended) == 1


@pytest.mark.parametrize("answer", ["no JSON", '{"a": 1', ""])
def test_a_server_that_breaks_its_answer_off_is_one_that_does_not_answer(answer: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        content = f"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{answer}" if answer else "?\r\n"

        def serve() -> None:
            with server.accept()[0] as one:
                one.recv(4096)
                one.sendall(content.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(OSError, match="gave no whole answer"):
            ask(f"http://127.0.0.1:{server.getsockname()[1]}/")
        thread.join(5)


def test_runs_of_every_page_of_experiments_are_found(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciling, "_PAGE", 2)
    ids, updated = ["1", "2", "3", "4", "5"], []

    def answers(url: str, asked: Any = None) -> Any:
        if "/registered-models/" in url:
            return {}
        first, last = int(asked.get("page_token", 0)), int(asked.get("page_token", 0)) + 2
        if url.endswith("/experiments/search"):
            page = {"experiments": [{"experiment_id": each} for each in ids[first:last]]}
            return {**page, "next_page_token": str(last)} if last < len(ids) else page
        if url.endswith("/runs/update"):
            return updated.append(asked["run_id"])
        assert len(asked["experiment_ids"]) <= 2
        tags = [{"key": names.TAG_RUN, "value": "lost"}]
        return {
            "runs": [
                {"info": {"run_id": each}, "data": {"tags": tags}}
                for each in asked["experiment_ids"]
            ]
        }

    monkeypatch.setattr(reconciling, "ask", answers)
    reconcile(home, prefect_api="", tracking_uri="http://mlflow", act=True)
    assert updated == ids


@pytest.mark.flow
def test_a_deployments_run_is_adopted_once_for_each_death(home: Path, services: Any) -> None:
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelled, Running

    def look() -> list[Any]:
        api, uri = services.prefect_api, services.tracking_uri
        found = reconcile(home, prefect_api=api, tracking_uri=uri, act=True)
        return [each for each in found if each.kind == "run"]

    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("adopted")
        deployment = client.create_deployment(flow_id, "nightly", work_pool_name=names.POOL)
        parameters = {"job": "heart", "rounds": 3}
        died = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        client.set_flow_run_state(died.id, Running(), force=True)
        record = begin(home, "study-1", flow_run=str(died.id))
        assert look() == []  # its process has let go of it, and may close its flow run yet
        assert client.read_flow_run(died.id).state.type.value == "RUNNING"
        lease = home / "runs" / "study-1" / OWNER
        lease.write_text(json.dumps({**json.loads(lease.read_text()), "pid": 2**30}))
        (found,) = look()
        assert found.done.endswith("goes on with it")
        assert client.read_flow_run(died.id).state.type.value == "CRASHED"
        assert [each.done for each in look()] == [found.done]  # there is one successor, not two
        runs = [each for each in client.read_flow_runs() if each.deployment_id == deployment]
        (successor,) = [each for each in runs if each.id != died.id]
        assert successor.parameters == {**parameters, "resume": "study-1"}
        # It goes on and dies as well; the third time a person is asked.
        for times in range(1, 4):
            key = load_or_create_signing_key(home / "keys" / "record.key")
            record, _ = RunRecord.reopen(record.path, key)
            record.take_over(at=0.0)
            (found,) = look()
            assert bool(found.todo) is (times == 3), found
        assert "--resume study-1" in found.todo
        assert "consilo job run heart" in found.todo
        # What somebody cancelled is not gone on with.
        stopped = client.create_flow_run_from_deployment(deployment, parameters=parameters)
        client.set_flow_run_state(stopped.id, Cancelled(), force=True)
        begin(home, "study-2", flow_run=str(stopped.id))
        assert [each.todo != "" for each in look()] == [True, True]
        client.delete_deployment(deployment)


@pytest.mark.flow
def test_mlflow_shows_no_run_as_running_that_has_ended(home: Path, services: Any) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(services.tracking_uri)
    experiment = client.create_experiment("reconciled")
    runs = {
        name: client.create_run(experiment, tags={names.TAG_RUN: name} if name else {}).info.run_id
        for name in ("done", "failed", "cancelled", "open", "lost", "")
    }
    begin(home, "done").close(status="degraded")
    begin(home, "failed").close(status="failed", reason="QuorumLost: nobody")
    begin(home, "cancelled").close(status="failed", reason="RunCancelled: by somebody")
    begin(home, "open")
    for _ in range(2):
        reconcile(home, prefect_api="", tracking_uri=services.tracking_uri, act=True)
    found = {name: client.get_run(run_id).info.status for name, run_id in runs.items()}
    assert found == {
        "done": "FINISHED",
        "failed": "FAILED",
        "cancelled": "KILLED",
        "open": "RUNNING",
        "lost": "KILLED",
        "": "RUNNING",  # somebody else's
    }
