"""Silos that nobody has: rows made of the job's contracts, for a rehearsal without any data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.contract import Column, Contract
from consilo.contracts.made_up import made_up_frame
from consilo.jobs.job import Job
from consilo.jobs.joint import JointJob
from consilo.yaml_text import to_yaml
from silos.gate.policy import TEMPLATE

if TYPE_CHECKING:
    import pandas as pd

ROWS = 240
"""Of each silo, unless its contract wants more."""
_NAMES = ("north", "south", "east", "west", "centre", "coast", "hill", "lake", "river", "valley")
_DAY = np.datetime64("2020-01-01")


def write_made_up(folder: Path, job: Job, contract: Contract, keys: Contract | None) -> None:
    """Write as many silos below ``folder`` as the job needs, and one more where it may miss one.

    Args:
        folder: of all silos; each gets a directory of its own.
        job: says who is needed.
        contract: of the rows.
        keys: of the columns by which rows are matched; None where the job matches none.
    """
    if isinstance(job, JointJob):
        _write_joint(folder, job, contract, keys)
        return
    number = max(3, job.quorum.min_silos + 1, len(job.quorum.mandatory) + 1)
    names = [*job.quorum.mandatory, *(n for n in _NAMES if n not in job.quorum.mandatory)]
    size = max(ROWS, contract.rules.min_rows.count if contract.rules.min_rows else 0)
    frame = made_up_table(contract, size * number)
    for place, name in enumerate(names[:number]):
        part = frame.iloc[place * size : (place + 1) * size]
        _write_silo(folder / name, name, part, [contract], TEMPLATE)


def made_up_table(contract: Contract, num_rows: int) -> pd.DataFrame:
    """Return rows that keep a contract's types, ranges, codes and medians, and can be learnt from.

    Args:
        contract: whose table it is.
        num_rows: how many.
    """
    rng = np.random.default_rng(0)
    targets, table = contract.targets, contract.table
    numeric = [each.name for each in table if each.type in ("float", "integer", "boolean")]
    coded = [each.name for each in table if each.type == "category" and each.allowed]
    frame = made_up_frame(
        contract, numeric=numeric, categories=coded, classes=(), target="", num_rows=num_rows
    )
    for column in table:
        if column.name not in frame:
            frame[column.name] = _texts(column, num_rows, rng)
        elif column.name in numeric and not column.allowed and column.typical is not None:
            frame[column.name] = _typical(column, num_rows, rng)
        if column.name in numeric and column.type != "float":
            frame[column.name] = frame[column.name].astype(int)
    leading = next((n for n in numeric if n in contract.features), None)
    for name in targets if leading is not None else ():
        rank = frame[leading].rank(method="first").to_numpy(float) - 1
        _follow(frame, contract.columns[name], rank / num_rows)
    return frame[[each.name for each in table]]


def _follow(frame: pd.DataFrame, column: Column, place: np.ndarray[Any, Any]) -> None:
    """Let a target follow a feature, so that a model learns something."""
    classes = column.classes
    if classes:
        chosen = [classes[int(each * len(classes))] for each in place]
        frame[column.name] = [int(c) if isinstance(c, bool) else c for c in chosen]
    else:
        frame[column.name] = np.sort(frame[column.name].to_numpy())[
            (place * len(frame)).astype(int)
        ]


def _typical(column: Column, size: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    """Return values around the middle of where their median must lie."""
    bounds = [each for each in (column.typical, column.range) if each is not None]
    lows = [float(each.min) for each in bounds if isinstance(each.min, int | float)]
    highs = [float(each.max) for each in bounds if isinstance(each.max, int | float)]
    low = max(lows) if lows else min(highs) - max(1.0, abs(min(highs)))
    high = min(highs) if highs else low + max(1.0, abs(low))
    values = low + (high - low) * rng.random(size)
    return np.round(values) if column.type == "integer" else values


def _texts(column: Column, size: int, rng: np.random.Generator) -> Any:
    if column.type == "date":
        days = _DAY - rng.integers(0, 20_000, size).astype("timedelta64[D]")
        return [str(each) for each in days]
    if column.allowed:
        return [str(column.allowed[each]) for each in rng.integers(len(column.allowed), size=size)]
    return [f"{column.name[:1].upper()}{each:07d}" for each in rng.permutation(size) * 7 + 1]


def _write_joint(folder: Path, job: JointJob, contract: Contract, keys: Contract | None) -> None:
    """Write silos that hold their parts of the same rows, each in an order of its own."""
    import pandas as pd

    holders = job.holders
    whole = made_up_table(contract, ROWS)
    people = None if keys is None else made_up_table(keys, ROWS)
    rng = np.random.default_rng(1)
    for name in holders.columns:
        has_labels = name == holders.label_silo
        part = whole[[each.name for each in job.part(contract, name).table]]
        frame = part if people is None else pd.concat([people, part], axis=1)
        mapped = [contract] if keys is None else [contract, keys]
        frame = frame.iloc[rng.permutation(ROWS)]
        _write_silo(folder / name, name, frame, mapped, to_yaml(_joint_policy(has_labels)))


def _joint_policy(has_labels: bool) -> dict[str, Any]:
    about_rows = {"label": True, "update": True} if has_labels else {"embedding": True}
    told = {"sealed": True, "match": True, "statistic": True, "metric": True}
    return {
        "allow": [{"jobs": ["*"]}],
        "disclosures": {**told, **about_rows},
        "min_cohort": 2,
        "matching": {"min_set_size": 50, "min_intersection": 20},
    }


def _write_silo(
    directory: Path, name: str, rows: pd.DataFrame, contracts: Sequence[Contract], policy: str
) -> None:
    directory.mkdir(parents=True, mode=0o700)
    rows.to_csv(directory / "rows.csv", index=False)
    data = {"rows": {"type": "csv", "path": "rows.csv"}}
    (directory / "silo.yaml").write_text(to_yaml({"name": name, "data": data}))
    (directory / "policy.yaml").write_text(policy)
    (directory / "mappings").mkdir(mode=0o700)
    for each in contracts:
        said = {"contract": each.ref, "agreed": each.digest}
        (directory / "mappings" / f"{each.ref}.yaml").write_text(to_yaml(said))
