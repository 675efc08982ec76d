"""A run that asks how the columns are spread trains nothing and needs no model."""

from __future__ import annotations

from pathlib import Path

import clinic
import pytest

from consilo.errors import IncompatibleJob
from consilo.jobs.job import Job
from consilo.record.run_record import read
from silos import simulate

SPREAD = {"name": "spread", "kind": "analytics", "contract": "clinic@1", "quorum": {"min_silos": 2}}


def test_silos_answer_and_nothing_is_trained(tmp_path):
    frames = {"a": clinic.frame(40, 0), "b": clinic.frame(60, 1)}
    result = simulate(
        Job.from_json(SPREAD), frames, contract=clinic.contract(), directory=tmp_path / "home"
    )
    assert result.status == "complete", result.reason
    assert {each.status for each in result.silos.values()} == {"answered"}
    assert (result.rounds, result.metrics, result.params) == ((), {}, {})
    kinds = [each["kind"] for each in read(Path(result.record))]
    assert "standardized" in kinds
    assert "round" not in kinds


def test_a_silo_that_breaks_the_contract_is_left_out(tmp_path):
    broken = clinic.frame(40, 0).assign(age=900.0)
    frames = {"a": clinic.frame(40, 0), "b": clinic.frame(60, 1), "c": broken}
    result = simulate(
        Job.from_json(SPREAD), frames, contract=clinic.contract(), directory=tmp_path / "home"
    )
    assert result.status == "degraded"
    assert result.silos["c"].status == "left_out"


def test_a_match_has_no_stages():
    recipe = {"keys": [{"parts": [{"column": "age"}]}]}
    job = Job.from_json({**SPREAD, "kind": "match", "match": {"recipe": recipe}})
    with pytest.raises(IncompatibleJob, match="run it with 'consilo match run'"):
        simulate(job, {"a": clinic.frame(40, 0)}, contract=clinic.contract())
