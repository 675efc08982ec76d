"""Boosted trees over three silos in memory, and a job that scores with them; a seam for tests."""

from __future__ import annotations

from typing import Any

import clinic
import numpy as np
import pandas as pd
import vertical

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.protocols.dispatch import answerer
from consilo.transports.local import LocalTransport
from consilo.vertical.score import VerticalScore
from consilo.vertical.training import Turn
from consilo.wire.payload import unpack
from silos.simulation.in_memory import InMemorySilo

COLUMNS = {"bank": ("b0", "b1"), "shop": ("s0", "s1", "s2"), "telecom": ("t0",)}
NAMES = tuple(name for names in COLUMNS.values() for name in names)
ROUNDS = 6
ARGS = {"depth": 3, "folds": 3, "max_bins": 32, "min_rows": 5, "l2": 0.5}


def table(rows: int = 1500, *, task: str = "binary", seed: int = 5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, len(NAMES)))
    score = values[:, 0] + 3 * (values[:, 2] > 0) * (values[:, 5] > 0) - 2 * np.abs(values[:, 3])
    noisy = score + 0.5 * rng.logistic(size=rows)
    y = (noisy > np.median(noisy)).astype(int) if task == "binary" else noisy
    return pd.DataFrame(values, columns=list(NAMES)).assign(y=y)


def job_of(task: str = "binary", **changes: Any) -> Job:
    args = {**ARGS, **changes.pop("args", {})}
    protocol = {"rounds": ROUNDS, **changes.pop("protocol", {})}
    return vertical.job_of(
        "vertical_trees", COLUMNS, task=task, protocol=protocol, args=args, **changes
    )


def contract_of(task: str = "binary") -> Contract:
    return vertical.contract_of(COLUMNS, classes=2 if task == "binary" else None)


def run(
    rows: pd.DataFrame, task: str = "binary", **changes: Any
) -> tuple[Turn, dict[str, InMemorySilo]]:
    """Train; return what the coordinator learns, and the silos."""
    hosts = vertical.silos_of(rows, COLUMNS)
    found, _ = vertical.driven(job_of(task, **changes), contract_of(task), hosts)
    return found, hosts


def scored(hosts: dict[str, InMemorySilo], task: str = "binary") -> pd.DataFrame:
    """What a scoring job keeps in the label silo, in the joint order."""
    job = clinic.job(
        kind="scoring",
        contract="joint@1",
        task=task,
        protocol={
            "name": "vertical_score",
            "args": {
                "match": "m",
                "label_silo": vertical.LABEL,
                "columns": {name: list(held) for name, held in COLUMNS.items()},
                "model": "r",
            },
        },
    )
    moved = LocalTransport({name: answerer(host) for name, host in hosts.items()})
    contract = contract_of(task)
    kernel = Kernel(moved, run_id="s", job=job, contract=contract, observe=lambda each: None)
    fed = Federation(tuple(sorted(hosts)), job, contract, lambda: tuple(hosts))
    kernel.run("vertical_score", VerticalScore.from_job(job), fed, Turn())
    return hosts[vertical.LABEL].scores["s"]


def trained_scores(hosts: dict[str, InMemorySilo]) -> Any:
    """What the model of all rows says of the rows that it was trained on, as the silo has it."""
    kept = unpack(hosts[vertical.LABEL].state["r", f"models-{ROUNDS * ARGS['depth']}"])
    return kept["value"]["scores"][0]
