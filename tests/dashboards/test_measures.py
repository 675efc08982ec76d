"""``/metrics`` counts what the records say, and the dashboards ask only for what is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from consilo.transports.flower.superlink import Presence
from dashboards.measures import Measures
from dashboards.reading.asked import Asked
from dashboards.reading.reading import FlowRun, Reading

FOLDER = Path(__file__).parents[2] / "dashboards" / "grafana"
BOARDS = sorted(FOLDER.glob("*.json"))


@pytest.fixture
def families(reading: Reading) -> dict[str, Any]:
    reading.presences = Asked(
        lambda: {"clinic-01": Presence("online", "2026-11-27T11:00:00+00:00")},
        fresh_s=60,
        pool=reading._pool,
    )
    waiting = (FlowRun("1", "heart · 1", "Late", (), ""),)
    reading.flow_runs = Asked(lambda: waiting, fresh_s=60, pool=reading._pool)
    reading.freshen(wait_s=5)
    text = Measures(reading).text().decode()
    return {each.name: each for each in text_string_to_metric_families(text)}


def samples(family: Any, **labels: str) -> list[float]:
    return [
        each.value
        for each in family.samples
        if all(each.labels.get(key) == value for key, value in labels.items())
    ]


def test_what_is_counted_is_what_the_records_say(families: dict[str, Any], reading: Reading):
    briefs = reading.records.briefs()
    assert sum(samples(families["consilo_rounds"])) == sum(each.done for each in briefs)
    trained = sum(each.outcomes.get("trained", 0) for each in briefs)
    assert sum(samples(families["consilo_participations"], outcome="trained")) == trained
    assert samples(families["consilo_runs"], status="degraded") == [1.0]
    assert sum(samples(families["consilo_bytes"])) == sum(b.bytes_down + b.bytes_up for b in briefs)
    newest = next(each for each in briefs if "clinic-01" in each.epsilon)
    found = samples(families["consilo_epsilon"], silo="clinic-01")
    assert found == [pytest.approx(newest.epsilon["clinic-01"])]
    assert samples(families["consilo_silo_online"], silo="clinic-01") == [1.0]
    assert samples(families["consilo_silo_online"], silo="clinic-02") == [0.0]
    assert samples(families["consilo_flow_runs_waiting"]) == [1.0]


def test_what_nobody_says_is_no_number(reading: Reading):
    text = Measures(reading).text().decode()
    assert "consilo_silo_online{" not in text
    assert 'consilo_unknown{server="superlink"} 1.0' in text


def test_metrics_are_served(client: TestClient):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert "consilo_rounds_total" in answer.text
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("board", BOARDS, ids=lambda each: each.stem)
def test_a_dashboard_asks_for_metrics_that_exist(board: Path, families: dict[str, Any]):
    known = {
        sample.name: set(sample.labels) for each in families.values() for sample in each.samples
    }
    # Of a counter that has nothing yet there is no sample, and still its name and its labels.
    known |= {"consilo_failures_total": {"job", "cause"}}
    asked = [each["expr"] for p in json.loads(board.read_text())["panels"] for each in p["targets"]]
    assert asked
    for expression in asked:
        names = re.findall(r"\bconsilo_\w+", expression)
        assert names, expression
        assert [each for each in names if each not in known] == []
        by = re.findall(r"by \(([\w, ]+)\)", expression)
        labels = {word.strip() for each in by for word in each.split(",")}
        assert labels <= set().union(*(known[each] for each in names)), expression
