"""Silos in memory that hold different columns of the same people; a seam for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import clinic
import numpy as np
import pandas as pd

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.jobs.match import Match
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.protocols.dispatch import answerer
from consilo.protocols.names import find_protocol
from consilo.transports.local import LocalTransport
from consilo.vertical.training import Turn
from silos.simulation.in_memory import InMemorySilo

LABEL = "bank"


def contract_of(columns: dict[str, tuple[str, ...]], *, classes: int | None = 2) -> Contract:
    target: dict[str, Any] = {"type": "float", "role": "target"}
    if classes is not None:
        target = {"type": "integer", "role": "target", "allowed": list(range(classes))}
    features = {name: {"type": "float"} for names in columns.values() for name in names}
    value = {"name": "joint", "version": 1, "columns": {**features, "y": target}}
    return Contract.parse(value, where="joint.yaml")


def silos_of(
    table: pd.DataFrame,
    columns: dict[str, tuple[str, ...]],
    *,
    seed: int = 0,
    spare: int = 5,
    target: str | None = "y",
) -> dict[str, InMemorySilo]:
    """Cut a table by columns; every silo has its rows in an order of its own, some unmatched.

    Place i of the match is row i of ``table``. ``target`` is the label silo's too.
    """
    rng = np.random.default_rng(seed)
    hosts = {}
    for name, held in columns.items():
        mine = table[[*held, target] if target and name == LABEL else list(held)]
        extra = mine.iloc[rng.integers(0, len(mine), spare)]
        order = rng.permutation(len(mine) + spare)
        rows = pd.concat([mine, extra], ignore_index=True).iloc[order].reset_index(drop=True)
        host = InMemorySilo(name, rows)
        now = datetime.now(UTC)
        partners = tuple(each for each in columns if each != name)
        host.keep_match(
            Match(
                "m",
                np.argsort(order)[: len(mine)].astype(np.int64),
                partners,
                "recipe",
                "joint@1",
                "data",
                "unstated",
                now,
                now + timedelta(days=1),
            )
        )
        hosts[name] = host
    return hosts


def job_of(name: str, columns: dict[str, tuple[str, ...]], **changes: Any) -> Job:
    held = {silo: list(names) for silo, names in columns.items()}
    args = {"match": "m", "label_silo": LABEL, "columns": held, **changes.pop("args", {})}
    section = {"name": name, "args": args, **changes.pop("protocol", {})}
    return clinic.job(kind="vertical", contract="joint@1", protocol=section, **changes)


def driven(
    job: Job,
    contract: Contract,
    hosts: dict[str, InMemorySilo],
    *,
    transport: Any = None,
    state: Turn | None = None,
) -> tuple[Turn, list[Any]]:
    """Run the job's protocol to its end; return its result and the exchanges."""
    exchanges: list[Any] = []
    moved = transport or LocalTransport({n: answerer(host) for n, host in hosts.items()})
    kernel = Kernel(moved, run_id="r", job=job, contract=contract, observe=exchanges.append)
    fed = Federation(tuple(sorted(hosts)), job, contract, lambda: tuple(hosts))
    name = job.protocol.name
    return kernel.run(name, find_protocol(name).from_job(job), fed, state or Turn()), exchanges
