"""A small made-up contract with rows, jobs and silos; a seam for many tests, not a test itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from consilo.contracts.contract import Contract
from consilo.horizontal.holdout import PURPOSE, held_out
from consilo.jobs.job import Job, merged
from consilo.kernel.loop import Party
from consilo.protocols.dispatch import answerer
from consilo.runs.horizontal import Run
from consilo.runs.outcome import RunResult
from consilo.transports.local import LocalTransport
from consilo.wire.parcel import Answer, Transport
from silos.simulation.in_memory import InMemorySilo

CONTRACT = """
name: clinic
version: 1
columns:
  age: {type: float, range: {min: 0, max: 120}, nullable_share: 0.9}
  smoker: {type: boolean}
  ward: {type: category, allowed: [a, b, c], nullable_share: 0.9}
  ill: {type: integer, role: target, allowed: [0, 1]}
"""
JOB = {
    "name": "clinic",
    "contract": "clinic@1",
    "model": "consilo.learners.tabular:LogisticRegression",
    "protocol": {"name": "fedavg", "rounds": 3},
    "local": {"batch_size": 8, "epochs": 1, "lr": 0.3},
    "quorum": {"min_silos": 1},
}


@functools.cache
def contract(text: str = CONTRACT) -> Contract:
    return Contract.parse(yaml.safe_load(text), where="clinic.yaml")


def job(kind: str = "horizontal", **changes: Any) -> Any:
    """Return a job with the sections of `JOB`, changed; of another kind, where one is named."""
    if kind == "horizontal":
        return Job.from_json(JOB).changed(**changes)
    return Job.from_json({**merged(Job.from_json(JOB).to_json(), changes), "kind": kind})


def frame(rows: int, seed: int = 0, *, missing: float = 0.2) -> pd.DataFrame:
    """Rows that keep the contract, with gaps."""
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, rows)
    ill = (age + rng.normal(0, 10, rows) > 55).astype(int)
    ward = rng.choice(np.array(["a", "b", "c"], dtype=object), rows)
    ward[rng.random(rows) < missing] = None
    age[rng.random(rows) < missing] = np.nan
    return pd.DataFrame(
        {
            "age": age,
            "smoker": rng.random(rows) < 0.3,
            "ward": pd.Series(ward, dtype="string"),
            "ill": ill,
        }
    )


def learnt(rows: pd.DataFrame, silo: str, job_: Any) -> pd.DataFrame:
    """Return the rows that a silo in memory trains on."""
    key = InMemorySilo(silo).lasting(PURPOSE)
    return rows[~held_out(rows, contract(), job_.evaluation, key)]


def frames(*sizes: int) -> dict[str, pd.DataFrame]:
    names = ("east", "north", "south", "west", "zenith")
    return {
        name: frame(size, seed) for seed, (name, size) in enumerate(zip(names, sizes, strict=False))
    }


def hosts(rows: Mapping[str, pd.DataFrame], **settings: Any) -> dict[str, InMemorySilo]:
    return {name: InMemorySilo(name, each, **settings) for name, each in rows.items()}


def run_of(
    job: Job,
    answers: Mapping[str, Answer | InMemorySilo],
    directory: Path,
    *,
    run_id: str = "r1",
    contract_: Contract | None = None,
    key: Ed25519PrivateKey | None = None,
    search_path: tuple[Path, ...] = (),
    silos: tuple[str, ...] = (),
    absent: Mapping[str, str] | None = None,
    resume: bool = False,
    standing: Callable[[str], str] = lambda silo: "",
    wrap: Callable[[Transport], Transport] = lambda transport: transport,
    parties: Mapping[str, Party] | None = None,
) -> Run:
    """A run over hosts in memory, past its statistics: ready for `train_round`."""
    made = {
        n: answerer(each) if isinstance(each, InMemorySilo) else each for n, each in answers.items()
    }
    run = Run(
        job,
        contract_ or contract(),
        wrap(LocalTransport(made)),
        silos=silos or tuple(made),
        directory=directory,
        run_id=run_id,
        key=key or Ed25519PrivateKey.generate(),
        search_path=search_path,
        absent=absent,
        resume=resume,
        standing=standing,
        parties=parties,
    )
    for name in run.silos:
        run.check(name)
    return run


def trained(job: Job, answers: Mapping[str, Any], directory: Path, **settings: Any) -> Run:
    """A run that has done all its rounds."""
    run = run_of(job, answers, directory, **settings)
    run.admit()
    run.standardize()
    while run.rounds_left:
        run.train_round()
    return run


def finished(run: Run) -> RunResult:
    """Do what is left of a run, and close it; what goes wrong is raised."""
    run.admit()
    if run.state is None:
        run.standardize()
    while run.rounds_left:
        run.train_round()
    run.evaluate()
    return run.close()
