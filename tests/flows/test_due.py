"""A run that trains only where it is due: why it is, who is asked, how it ends otherwise."""

from __future__ import annotations

import importlib
import json
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from mlflow import MlflowClient

from consilo.errors import JobInvalid
from consilo.horizontal.between.drift import Moved
from consilo.jobs.retrain import Retrain
from consilo.record.run_record import read, verify
from flows.due import by_records, by_silos
from flows.endings import summary_of
from flows.pipeline import pipeline
from flows.registry import names
from flows.services.connection import connecting
from flows.watching.standing import Standing
from flows.watching.trained import Training, last_training

pytestmark = pytest.mark.flow

# As in conftest.py: silos train in this process, while the flow's thread imports.
importlib.import_module("torch._dynamo")

NOW = datetime(2026, 11, 27, 2, 30, tzinfo=UTC)
LAST = Training("heart-1", NOW - timedelta(days=3), 4)


def standing(*, behind, days=1.0):
    at = NOW - timedelta(days=days)
    return Standing("heart", 4, behind, "auc fell by 0.05", "heart-monitor-1", at, {})


def test_who_was_never_trained_is_due_and_who_is_too_old_or_too_young_asks_nobody():
    rule = Retrain(max_age="30d", min_age="2d")
    assert by_records(rule, None, None, now=NOW).cause == "first"
    old = Training("heart-0", NOW - timedelta(days=31), 1)
    due = by_records(rule, old, None, now=NOW)
    assert (due.cause, due.told) == (
        "age",
        "the last training, heart-0, is 31 days old, 30d is the most (retrain.max_age)",
    )
    young = Training("heart-2", NOW - timedelta(hours=30), 5)
    due = by_records(rule, young, None, now=NOW)
    assert (due.cause, due.told) == (
        "",
        "the last training, heart-2, is 30 hours old, 2d is the least (retrain.min_age)",
    )
    assert by_records(rule, LAST, None, now=NOW) is None
    assert by_records(Retrain(when=(), max_age="30d"), LAST, None, now=NOW).cause == ""


def test_a_champion_that_fell_behind_since_the_last_training_is_a_cause_where_the_job_says_so():
    behind = standing(behind=True)
    due = by_records(Retrain(when=("drift", "performance")), LAST, behind, now=NOW)
    assert (due.cause, due.told, due.asked_in) == (
        "performance",
        "auc fell by 0.05",
        "heart-monitor-1",
    )
    assert by_records(Retrain(when="drift"), LAST, behind, now=NOW) is None
    stale = standing(behind=True, days=5)  # of the champion before that training
    both = Retrain(when=("drift", "performance"))
    assert by_records(both, LAST, stale, now=NOW) is None
    assert by_records(both, LAST, standing(behind=False), now=NOW) is None


def test_so_many_silos_as_the_job_says_make_it_due():
    moved = {
        "north": Moved(True, True, {"psi": {"age": 0.31}}, {"age": ("psi",)}),
        "south": Moved(True, False),
        "west": Moved(False, False),
    }
    due = by_silos(Retrain(), moved, LAST, now=NOW, run_id="heart-drift-1")
    assert due.cause == "drift"
    assert due.told == "rows have drifted at north: age (psi 0.31)"
    due = by_silos(Retrain(silos=2), moved, LAST, now=NOW, run_id="heart-drift-1")
    assert due.cause == ""
    assert due.told == (
        "rows have drifted at north: age (psi 0.31), and retrain.silos wants 2 silos; west had "
        "nothing to compare with, and will next time; the last training, heart-1, is 3 days old"
    )


def run(federation, **parameters):
    with connecting(federation.connect()):
        return pipeline(
            str(federation.job),
            home=str(federation.home),
            wait_s=0,
            return_state=True,
            **parameters,
        )


def test_a_night_trains_first_then_has_nothing_to_do_then_finds_rows_that_moved(federation):
    job = yaml.safe_load(federation.job.read_text())
    job |= {"privacy": None, "retrain": {"when": "drift", "psi": 0.3}}
    federation.job.write_text(yaml.safe_dump(job))
    state = run(federation, rounds=1, when_due=True)
    first = summary_of(state)
    assert state.name == "Completed"
    assert "trained because no model of this job has been trained yet" in state.message
    assert last_training(federation.home, job["name"]).run_id == first["run_id"]

    state = run(federation, rounds=1, when_due=True)
    told = summary_of(state)
    assert (state.name, told["status"]) == ("NotDue", "not_due"), state.message
    assert state.message.startswith(
        "not due: no silo's rows have drifted since the last training; the last training, "
        f"{first['run_id']}, is 0 hours old"
    )
    asked = federation.home / "runs" / told["due"]["asked_in"] / "record.jsonl"
    verify(asked)
    kinds = [each["kind"] for each in read(asked)]
    assert {"drift", "due"} <= set(kinds)
    assert "round" not in kinds
    assert read(asked)[0]["body"]["question"] == "drift"

    anna = federation.silos["anna"]
    anna.table = anna.table.assign(visits=anna.table["visits"] + 60)
    state = run(federation, rounds=1, when_due=True)
    third = summary_of(state)
    assert state.name == "Completed"
    assert "trained because rows have drifted at anna: visits (psi" in state.message
    record = read(federation.home / "runs" / third["run_id"] / "record.jsonl")
    (due,) = [each["body"] for each in record if each["kind"] == "due"]
    assert due["cause"] == "drift"
    assert "remembered" in {each["kind"] for each in record}
    tags = MlflowClient(federation.tracking_uri).get_run(third["mlflow"]["run_id"]).data.tags
    assert tags[names.TAG_DUE_TOLD] == due["told"]
    assert json.loads(tags[names.TAG_DUE])["asked_in"] == due["asked_in"] != third["run_id"]

    state = run(federation, rounds=1, when_due=True)
    assert state.name == "NotDue", state.message


def test_a_job_that_does_not_say_when_is_refused_with_what_to_write(federation):
    state = run(federation, when_due=True)
    assert state.is_failed()
    assert "retrain: {when: drift, max_age: 30d}" in state.message
    assert JobInvalid.__name__ in state.message
