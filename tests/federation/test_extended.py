"""``consilo job extend`` on services that are up: a finished run goes on as a new one, twice."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from consilo.jobs.job import Job
from consilo.record.run_record import read, verify
from consilo.yaml_text import to_yaml
from flows.registry import names
from tests.federation.conftest import CONSILO, KeptDemo
from tests.federation.test_killed_flow import _rounds

pytestmark = [pytest.mark.federation, pytest.mark.slow, pytest.mark.timeout(1800)]

SILOS = {"north", "south", "east"}
"""Of the demo's those that keep the contract."""


def consilo(demo: KeptDemo, *arguments: str | Path) -> tuple[int, dict[str, Any]]:
    """Return the exit code of a command about jobs, and the document that it printed."""
    command = [str(CONSILO), "job", *map(str, arguments), "--dir", str(demo.home), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def trained(demo: KeptDemo, *arguments: str | Path) -> dict[str, Any]:
    """Return the summary of a run; the broken hospital alone is left out of it."""
    code, summary = consilo(demo, *arguments)
    assert (code, summary["status"]) == (0, "degraded"), summary["reason"]
    assert verify(demo.home / "runs" / summary["run_id"] / "record.jsonl")["status"] == "degraded"
    return summary


def of_run(demo: KeptDemo, summary: dict[str, Any], kind: str) -> list[Any]:
    entries = read(demo.home / "runs" / summary["run_id"] / "record.jsonl")
    return [each["body"] for each in entries if each["kind"] == kind]


def last_params(demo: KeptDemo, summary: dict[str, Any]) -> str:
    return str(_rounds(demo.home / "runs" / summary["run_id"])[-1]["params"])


def tags_of_version(demo: KeptDemo, model: str, run: str) -> dict[str, str]:
    """Return the tags of the version that a run registered."""
    uri = demo.summary["mlflow"]["tracking_uri"]
    found = MlflowClient(uri, uri).search_model_versions(f"name='{model}'")
    (version,) = [each for each in found if names.tag(each.tags, names.TAG_RUN) == run]
    return dict(version.tags)


def test_more_rounds_make_the_model_of_as_many_at_once_and_so_do_more_again(
    demo: KeptDemo,
) -> None:
    file = demo.home / "jobs" / "further.yaml"
    job = Job.load(demo.home / "jobs" / "breast-cancer.yaml").changed(name="further", privacy=None)
    file.write_text(to_yaml(job.to_json()))
    whole = trained(demo, "run", file, "--rounds", "5")
    base = trained(demo, "run", file, "--rounds", "2")
    one = trained(demo, "extend", base["run_id"], "--rounds", "1")
    two = trained(demo, "extend", one["run_id"], "--rounds", "2")
    other = trained(demo, "extend", base["run_id"], "--rounds", "3")
    runs = [each["run_id"] for each in (whole, base, one, two, other)]
    assert len(set(runs)) == 5
    numbers = [[r["round"] for r in _rounds(demo.home / "runs" / each)] for each in runs]
    assert numbers == [[1, 2, 3, 4, 5], [1, 2], [3], [4, 5], [3, 4, 5]]
    assert last_params(demo, two) == last_params(demo, other) == last_params(demo, whole)
    assert last_params(demo, one) != last_params(demo, whole)
    assert two["metrics"] == other["metrics"] == whole["metrics"] != base["metrics"]
    # What each goes on with, in its record and at its model.
    for further, before in ((one, [base]), (two, [base, one]), (other, [base])):
        link = of_run(demo, further, "opened")[0]["job"]["continues"]
        last = read(demo.home / "runs" / before[-1]["run_id"] / "record.jsonl")[-1]
        assert link["runs"] == [each["run_id"] for each in before]
        assert link["record"] == last["hash"]
        tags = tags_of_version(demo, "further", further["run_id"])
        assert names.tag(tags, names.TAG_CONTINUES).startswith(f"{before[-1]['run_id']}, version ")


def test_all_runs_of_a_private_job_together_cost_what_was_asked(demo: KeptDemo) -> None:
    base = demo.summary
    code, refused = consilo(demo, "extend", base["run_id"], "--rounds", "1")
    assert code != 0
    assert "say by epsilon what all runs together may cost" in refused["reason"]
    one = trained(demo, "extend", base["run_id"], "--rounds", "2", "--epsilon", "6")
    two = trained(demo, "extend", one["run_id"], "--rounds", "1", "--epsilon", "7")
    assert [r["round"] for r in _rounds(demo.home / "runs" / one["run_id"])] == [5, 6]
    assert [r["round"] for r in _rounds(demo.home / "runs" / two["run_id"])] == [7]
    for further, before, most in ((one, [base], 6.0), (two, [base, one], 7.0)):
        (reserved,) = of_run(demo, further, "reserved")
        assert reserved["runs"] == [each["run_id"] for each in before]
        assert set(reserved["silos"]) == SILOS
        for silo in SILOS:
            spent = further["silos"][silo]["epsilon"]
            # All of them at once, and as much of it as was allowed: planned as one, not added up.
            assert before[-1]["silos"][silo]["epsilon"] < spent <= most * (1 + 1e-6)
            assert spent > 0.9 * most
            assert reserved["silos"][silo]["epsilon"] == pytest.approx(spent)
