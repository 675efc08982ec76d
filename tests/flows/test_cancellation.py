"""Cancelling the flow run in Prefect, or ending its process, stops the federation's run."""

from __future__ import annotations

import contextvars
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.states import Cancelled, Cancelling

from consilo.errors import RunCancelled
from consilo.record import run_record as record
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Parcel
from flows.cancellation import Cancellable
from flows.endings import summary_of
from flows.pipeline import pipeline
from flows.services.connection import connecting

pytestmark = pytest.mark.flow


def when_training(act) -> threading.Thread:
    """Call ``act(flow_run_id)`` once the first round of the job ``toy-model`` has begun."""

    def look() -> None:
        with get_client(sync_client=True) as client:
            wanted = FlowRunFilter(name=FlowRunFilterName(any_=["toy-model · 1 · running"]))
            for _ in range(300):
                time.sleep(0.1)
                for flow_run in client.read_flow_runs(flow_run_filter=wanted):
                    if flow_run.state is None or not flow_run.state.is_running():
                        continue
                    picked = FlowRunFilter(id={"any_": [flow_run.id]})
                    runs = client.read_task_runs(flow_run_filter=picked)
                    if any(each.name == "round-1" for each in runs):
                        act(client, flow_run.id)
                        return

    thread = threading.Thread(target=contextvars.copy_context().run, args=(look,), daemon=True)
    thread.start()
    return thread


def by_state(kind):
    return lambda client, flow_run_id: client.set_flow_run_state(flow_run_id, kind(), force=False)


def by_force(client, flow_run_id) -> None:
    client.set_flow_run_state(flow_run_id, Cancelled(), force=True)


def by_signal(client, flow_run_id) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("act", [by_state(Cancelling), by_force, by_signal])
def test_a_cancelled_run_stops_and_is_closed(act, federation):
    slow = federation.job.with_name("slow.yaml")
    slow.write_text(federation.job.read_text().replace("rounds: 2", "rounds: 500"))
    federation.answer_s = 0.2
    cancelling = when_training(act)
    with connecting(federation.connect()):
        state = pipeline(str(slow), home=str(federation.home), wait_s=0, return_state=True)
    cancelling.join(timeout=5)
    assert state.is_cancelled()
    summary = summary_of(state)
    assert summary["status"] == "failed"
    assert summary["reason"].startswith("RunCancelled")
    assert summary["model"] is None
    assert federation.finished == [(False, "cancelled")]
    assert record.verify(Path(summary["record"]))["status"] == "failed"
    run = MlflowClient(federation.tracking_uri).get_run(summary["mlflow"]["run_id"])
    assert run.info.status == "KILLED"
    with get_client(sync_client=True) as client:
        told = client.read_flow_run(summary["prefect"]["flow_run_id"]).state
    assert told.is_cancelled()


def test_a_cancelled_transport_sends_nothing_more():
    cancelled = threading.Event()
    sent = []

    def answer(parcel: Parcel) -> Parcel:
        sent.append(parcel)
        cancelled.set()
        return parcel

    transport = Cancellable(LocalTransport({"a": answer, "b": answer}), cancelled)
    parcels = {"a": Parcel(b"{}", b""), "b": Parcel(b"{}", b"")}
    with pytest.raises(RunCancelled):
        list(transport.exchange(parcels, deadline_s=1.0))
    assert len(sent) == 1
    with pytest.raises(RunCancelled):
        transport.online()
