"""What the same model learns without a federation: on pooled rows, and on each silo's alone.

Only the demo can pool: in a real federation nobody holds all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo import metrics as figures
from consilo.contracts.contract import Contract
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.holdout import PURPOSE, TEST, TRAIN, held_out, sides
from consilo.horizontal.learning import learner_of, plan_of
from consilo.horizontal.scaling import scale_of_target, target_mode
from consilo.horizontal.statistics import Moments
from consilo.horizontal.training import TrainState
from consilo.jobs.job import Job
from consilo.jobs.model_job import ModelJob
from consilo.kernel import seeds
from consilo.learners.torch_learner import Arrays, FitHook
from consilo.machine.files import write_atomic
from consilo.privacy.accounting import noise_multiplier
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.noise import ReproducibleStream, SecretStream
from consilo.runs.checkpoint import read_checkpoint
from silos.kept.store import lasting_secret
from silos.silo import Silo
from silos.simulation.in_memory import made_up_root

if TYPE_CHECKING:
    import pandas as pd


def baselines(
    job: ModelJob,
    contract: Contract,
    rows: Mapping[str, pd.DataFrame],
    search_path: Sequence[Path] = (),
) -> dict[str, Any]:
    """Return ``pooled_baseline`` and ``local_baselines``: metrics by name.

    Each is the job's model with the job's privacy, as many rounds and steps, tested on the held-out
    rows of all silos: the same rows that the federation is tested on.

    Args:
        job: the job.
        contract: its contract.
        rows: silo → canonical rows.
        search_path: where the job's own modules lie.
    """
    encoding = Encoding.plan(contract, job)
    parts = {name: _halves(job, contract, encoding, name, each) for name, each in rows.items()}

    def trained_on(names: Sequence[str]) -> dict[str, float]:
        return _train(job, contract, encoding, [parts[name] for name in names], parts, search_path)

    return {
        "pooled_baseline": trained_on(list(parts)),
        "local_baselines": {name: trained_on([name]) for name in parts},
    }


def judged_exactly(
    job: ModelJob, contract: Contract, silos: Mapping[str, Path], directory: Path
) -> dict[str, float]:
    """Return the federation's model's exact metrics on the rows that the silos held out.

    Only whoever has all rows can: the silos of a private job tell noisy figures.

    Args:
        job: the job.
        contract: its contract.
        silos: silo → its directory, here because the demo made it.
        directory: the run's.
    """
    import pandas as pd

    encoding = Encoding.plan(contract, job)
    kept = read_checkpoint(directory)
    state = None if kept is None else TrainState.from_payload(kept["state"])
    if state is None or state.scale is None:
        return {}
    held = []
    for directory in silos.values():
        silo = Silo.open(directory)
        usable = encoding.usable(silo.rows.frame(contract, purpose=job.purpose))
        key = silo.secrets.lasting(PURPOSE)
        held.append(usable[held_out(usable, contract, job.evaluation, key)])
    test = pd.concat(held, ignore_index=True)
    learner = learner_of(job, encoding, (), state.target)
    learner.load({**state.params, **state.buffers})
    arrays = Arrays(encoding.features(test, state.scale), encoding.target(test))
    return _rounded(learner.evaluate(arrays)[1])


def _halves(
    job: ModelJob, contract: Contract, encoding: Encoding, name: str, frame: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows that silo ``name`` trains on, and those it holds out."""
    usable = encoding.usable(frame)
    key = lasting_secret(made_up_root(name), PURPOSE)
    side = sides(usable, contract, job.evaluation, key)
    return usable[side == TRAIN], usable[side == TEST]


def _train(
    job: ModelJob,
    contract: Contract,
    encoding: Encoding,
    chosen: Sequence[tuple[pd.DataFrame, pd.DataFrame]],
    everybody: Mapping[str, tuple[pd.DataFrame, pd.DataFrame]],
    search_path: Sequence[Path],
) -> dict[str, float]:
    import pandas as pd

    train = pd.concat([each for each, _ in chosen], ignore_index=True)
    test = pd.concat([each for _, each in everybody.values()], ignore_index=True)
    moments = Moments.of(encoding.raw_numeric(train))
    scale = Scale.of_moments(moments.mean, moments.variance)
    data = Arrays(encoding.features(train, scale), encoding.target(train))
    learner = learner_of(job, encoding, search_path)
    mode = target_mode(job, contract, own_loss=learner.task.has_own_loss(learner.model))
    if mode != "none":
        of = Moments.of(data.targets.reshape(len(data), -1))
        target = scale_of_target(contract, mode, Scale.of_moments(of.mean, of.variance))
        learner = learner_of(job, encoding, search_path, target)
    held_out = Arrays(encoding.features(test, scale), encoding.target(test))
    plan = plan_of(job)
    for number in range(job.protocol.rounds):
        hooks = _hooks(job, len(data), number)
        learner.fit(data, plan, rng=seeds.generator(job.seed, "baseline", number), hooks=hooks)
    _, tally = learner.evaluate(held_out)
    return _rounded(tally)


def _rounded(tally: figures.Tally) -> dict[str, float]:
    return {name: float(np.round(v, 6)) for name, v in figures.metrics_of(tally).items()}


def _hooks(job: ModelJob, num_rows: int, number: int) -> list[FitHook]:
    if job.privacy is None:
        return []
    plan = plan_of(job)
    rate = plan.sample_rate(num_rows)
    sigma = noise_multiplier(
        target_epsilon=job.privacy.epsilon,
        delta=job.privacy.delta,
        sample_rate=rate,
        steps=plan.num_steps(num_rows) * job.protocol.rounds,
        accountant=job.privacy.accountant,
    )
    stream = SecretStream(secrets.token_bytes(32), f"baseline {num_rows} {number}")
    if job.privacy.reproducible:
        key = seeds.derive("baseline", job.seed)
        stream = ReproducibleStream(key, f"baseline {num_rows} {number}")
    norm = job.privacy.max_grad_norm
    return [DPHook(sigma=sigma, max_grad_norm=norm, sample_rate=rate, stream=stream)]


def main() -> None:
    """Compute the demo's baselines and leave them in a file."""
    parser = argparse.ArgumentParser(prog="python -m flows.demo.baselines", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="the demo's job file")
    parser.add_argument("--silos", type=int, required=True, help="how many the demo has")
    parser.add_argument("--seed", type=int, required=True, help="of the demo's data")
    parser.add_argument("--result", type=Path, required=True, help="where the figures go")
    options = parser.parse_args()
    os.nice(5)  # the federation goes first
    from flows.demo.demo_data import hospital_rows

    job = ModelJob.of(Job.load(options.job))
    rows = hospital_rows(count=options.silos, seed=options.seed)
    sound = dict(list(rows.items())[:-1])  # the last one's file breaks the contract
    results = baselines(job, Contract.load(job.contract), sound)
    write_atomic(options.result, json.dumps(results, indent=1).encode())


if __name__ == "__main__":
    main()
