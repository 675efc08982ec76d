"""A made-up survival contract with rows; a seam for tests, not a test itself."""

from __future__ import annotations

import functools

import numpy as np
import pandas as pd
import yaml

from consilo.contracts.contract import Contract
from consilo.horizontal.asked.answers import Answers, answers
from consilo.horizontal.asked.axes import Axes
from consilo.horizontal.asked.pooled import Part, Pooled
from consilo.horizontal.asked.release import Cut, exact, table_names
from consilo.jobs.job import Job
from consilo.jobs.sections.questions import every_question

CONTRACT = """
name: remission
version: 1
columns:
  arm: {type: category, allowed: [drug, placebo]}
  sex: {type: boolean}
  weeks: {type: float, range: {min: 0, max: 40}}
  relapse: {type: boolean, role: target}
  age: {type: float, unit: year, range: {min: 0, max: 100}, nullable_share: 0.9}
  bmi: {type: float, range: {min: 10, max: 60}}
  stage: {type: integer, allowed: [1, 2, 3], nullable_share: 0.9}
groups: [arm, sex]
analytics:
  bins:
    age: {from: 0, to: 100, step: 10}
    bmi: [10, 20, 25, 30, 60]
    stage: values
  survival: {time: weeks, event: relapse, grid: {from: 0, to: 36, step: 1}}
"""
JOB = {
    "name": "ask",
    "kind": "analytics",
    "contract": "remission@1",
    "quorum": {"min_silos": 2},
    "questions": ["counts", {"ask": "survival", "by": ["arm"]}],
}


@functools.cache
def contract(text: str = CONTRACT) -> Contract:
    return Contract.parse(yaml.safe_load(text), where="remission.yaml")


def job(**changes) -> Job:
    return Job.from_json({**JOB, **changes})


def frame(rows: int, seed: int = 0, *, missing: float = 0.1) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "arm": rng.choice(["drug", "placebo"], rows),
            "sex": rng.random(rows) < 0.5,
            "weeks": rng.integers(1, 39, rows).astype(float),
            "relapse": rng.random(rows) < 0.6,
            "age": np.where(
                rng.random(rows) < missing, np.nan, rng.normal(55, 15, rows).clip(1, 99)
            ),
            "bmi": rng.normal(26, 4, rows).clip(11, 59),
            "stage": pd.array(rng.integers(1, 4, rows), dtype="Int64"),
        }
    )


def told(table: pd.DataFrame, least: int, of: Contract | None = None):
    """Return every table of some rows, exactly, and how their cells are put together."""
    axes = Axes.of(of or contract())
    return exact(Cut.of(axes, table), table_names(axes), least)


def pooled(tables: dict[str, pd.DataFrame], least: int, of: Contract | None = None) -> Pooled:
    axes = Axes.of(of or contract())
    parts = {}
    for name, table in tables.items():
        found, how = told(table, least, of)
        parts[name] = Part(len(table), found, how, 0.0)
    return Pooled(axes, parts)


def every_answer(
    tables: dict[str, pd.DataFrame], least: int = 1, of: Contract | None = None
) -> Answers:
    used = of or contract()
    return answers(pooled(tables, least, of), every_question(used))
