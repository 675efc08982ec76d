"""Fed-Heart-Disease as FLamby runs it (Ogier du Terrail et al. 2022), on Consilo's own code.

FLamby's preparation, split, model, seeds and settings; training and evaluation are Consilo's
protocols, learner, privacy and local transport. Each row stands beside the published one, with the
distance in published standard deviations: 1 or less is the target. FLamby standardises each centre
by its exact moments, which its ε does not cover, so nor does the ε of the rows here. Without
``--data`` a smoke run makes up rows of the same form.

    METHOD.mean_of_clients             accuracy, mean over clients and seeds
    METHOD.sd                          of the seeds' means
    METHOD.pooled_test                 accuracy on all test rows together
    dp_*.epsilon                       the most that a silo spent
    METHOD.distance_in_published_sd    of the mean of clients; where one was published

    python benchmarks/flamby_heart.py --data DIR      DIR holds heart_disease/, or is it
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pandas as pd
import torch
from made_up import CENTRES, heart_disease
from report import Report, columns, load_now, options, say, sized

from consilo.contracts.contract import Contract
from consilo.errors import ConsiloError, SchemaDrift
from consilo.horizontal.evaluation import Evaluated, Evaluation
from consilo.horizontal.features import Scale
from consilo.horizontal.training import TrainState
from consilo.jobs.job import Job
from consilo.kernel import seeds
from consilo.kernel.federation import Federation
from consilo.kernel.loop import Kernel
from consilo.kernel.roles import Arrays
from consilo.kernel.steps import Publish
from consilo.privacy.accounting import noise_multiplier
from consilo.protocols.dispatch import answerer
from consilo.protocols.names import find_protocol
from consilo.transports.local import LocalTransport
from silos.simulation.in_memory import InMemorySilo

SEEDS = (42, 43, 44, 45, 46)
ROUNDS, UPDATES, BATCH = 15, 100, 4
EPSILON, DELTA = 1.0, 1e-4
INPUTS = (
    *("age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak"),
    *("cp_2", "cp_3", "cp_4", "restecg_1", "restecg_2"),
)


@dataclass(frozen=True)
class Method:
    """One row of FLamby's table.

    Args:
        protocol: the job's section, without rounds.
        lr: the silos' learning rate.
        private: with DP-SGD.
        published: mean of the clients' accuracies over the five seeds; None for ours alone.
        published_sd: what a distance of 1 means.
        published_pooled: accuracy on the pooled test rows.
        flamby_noise: noise as FLamby calibrates it; see `flamby_sigma`.
        draws: trainings per seed, each with noise of its own.
    """

    protocol: Mapping[str, Any]
    lr: float
    private: bool = False
    published: float | None = None
    published_sd: float = 0.028
    published_pooled: float | None = None
    flamby_noise: bool = False
    draws: int = 1


# FLamby's configuration: FedOpt with betas (0.9, 0.999) and tau 1e-8, FedProx with mu 0.01.
_ADAPTIVE = {"server_lr": 0.01, "betas": (0.9, 0.999), "tau": 1e-8}
# Opacus divides the noisy sum by the expected batch rounded down: 199 rows in 50 batches are 3.98,
# so 3. FLamby's DP rows with lr 0.001 thus take steps 4/3 as long in three silos of four, 1.215
# times as long in the mean over rows. We divide by the exact expectation.
_OPACUS_LR = 0.001215
METHODS = {
    "fedavg": Method({"name": "fedavg"}, 0.001, False, 0.6850, 0.028, 0.7480),
    "fedprox": Method({"name": "fedprox", "mu": 0.01}, 0.001, False, 0.6850, 0.028, 0.7480),
    "fedadam": Method({"name": "fedadam", **_ADAPTIVE}, 0.01, False, 0.7255, 0.014, 0.7787),
    "fedyogi": Method({"name": "fedyogi", **_ADAPTIVE}, 0.003162, False, 0.7314, 0.013, 0.7787),
    # No deviation was published for this row; FedAvg's stands for it. Noise alone moves the mean
    # of five seeds by 0.01, so each seed is trained three times.
    "dp_eps1": Method({"name": "fedavg"}, _OPACUS_LR, True, 0.6853, 0.028, draws=3),
    "dp_eps1_plain_lr": Method({"name": "fedavg"}, 0.001, True, 0.6853, 0.028, draws=3),
    "dp_flamby_noise": Method(
        {"name": "fedavg"}, _OPACUS_LR, True, 0.6853, 0.028, flamby_noise=True, draws=3
    ),
}


def prepare(folder: Path) -> pd.DataFrame:
    """Return all centres' usable rows: inputs, ``target``, ``centre``, ``set``.

    Columns 10, 11, 12 (slope, ca, thal) go, then every row with a ``?``; columns 2 (cp) and 6
    (restecg) become indicators over the four centres together, the first value dropped.
    """
    parts = []
    for name in CENTRES:
        raw = pd.read_csv(folder / f"processed.{name}.data", header=None, na_values="?")
        parts.append(raw.drop(columns=[10, 11, 12]).dropna().assign(centre=name))
    whole = pd.concat(parts).rename_axis("row").reset_index()
    table = pd.get_dummies(whole[list(range(10))].astype(float), columns=[2, 6], drop_first=True)
    table.columns = pd.Index(INPUTS)
    table = table.astype(np.float32)
    table["target"] = (whole[13] > 0).astype(np.int64)
    split = pd.read_csv(folder / "flamby_split.csv").rename(columns={"name": "centre"})
    keys = whole[["centre", "row"]]
    table["centre"] = keys["centre"]
    table["set"] = keys.merge(split, how="left", on=["centre", "row"], validate="1:1")["set"]
    if table["set"].isna().any() or len(split) != len(table):
        raise SchemaDrift(f"{folder / 'flamby_split.csv'} does not fit the four files beside it")
    return table


def prepared(table: pd.DataFrame, *, pooled: bool) -> dict[str, Arrays]:
    """Return each centre's rows, standardised as FLamby does.

    Args:
        table: from `prepare`.
        pooled: by mean and deviation (ddof 1) of all training rows, as FLamby's pooled test set;
            else by those of the centre's own.
    """
    found: dict[str, Arrays] = {}
    for name in CENTRES:
        rows = table[table["centre"] == name]
        base = table if pooled else rows
        reference = base.loc[base["set"] == "train", list(INPUTS)].to_numpy(np.float32)
        centre, width = reference.mean(axis=0), reference.std(axis=0, ddof=1) + np.float32(1e-9)
        arrays: Arrays = {"fingerprint": np.zeros(32, np.uint8)}
        for part in ("train", "test"):
            chosen = rows[rows["set"] == part]
            features = (chosen[list(INPUTS)].to_numpy(np.float32) - centre) / width
            arrays[f"{part}_features"] = features.astype(np.float32)
            arrays[f"{part}_targets"] = chosen["target"].to_numpy()
        found[name] = arrays
    return found


def contract() -> Contract:
    """Return the contract of the prepared rows."""
    inputs = {name: {"type": "float"} for name in INPUTS}
    target = {"type": "integer", "allowed": [0, 1], "role": "target"}
    return Contract.model_validate(
        {"name": "flamby_heart", "version": 1, "columns": {**inputs, "target": target}}
    )


def job_of(method: Method, *, seed: int, rounds: int) -> Job:
    """Return the job of one row of the table with one seed."""
    privacy = {
        "epsilon": 5.0 if method.flamby_noise else EPSILON,
        "delta": DELTA,
        "max_grad_norm": 1.1,
    }
    return Job.from_json(
        {
            "name": "flamby-heart",
            "contract": "flamby_heart@1",
            "model": {
                "name": "consilo.learners.tabular:LogisticRegression",
                "args": {"zero_init": False},
            },
            "features": {"standardize": "none"},  # the rows are prepared
            "protocol": {**method.protocol, "rounds": rounds},
            "local": {"batch_size": BATCH, "steps": UPDATES, "optimizer": "sgd", "lr": method.lr},
            "privacy": privacy if method.private else None,
            "quorum": {"min_silos": len(CENTRES), "deadline": 3600.0},
            "seed": seed,
        }
    )


def first_params(seed: int) -> dict[str, np.ndarray[Any, Any]]:
    """Return FLamby's initial model: torch's own start of a linear layer after ``manual_seed``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = torch.nn.Linear(len(INPUTS), 1)
    return {
        "linear.weight": layer.weight.detach().numpy().copy(),
        "linear.bias": layer.bias.detach().numpy().copy(),
    }


class FlambyNoise(InMemorySilo):
    """A silo that takes FLamby's noise multiplier in place of one calibrated for all its steps."""

    def number(self, key: str) -> float | None:
        """Return the noise multiplier, or another number."""
        if not key.startswith("sigma "):
            return super().number(key)
        assert self.prepared is not None
        return flamby_sigma(len(self.prepared["train_targets"]))


def flamby_sigma(num_rows: int) -> float:
    """Return the noise multiplier that FLamby trains with at ε 1.

    It tells Opacus that it trains for as many epochs as it has rounds, but takes 100 batches a
    round: 1,500 steps where 15 epochs have 120 (Switzerland) to 750 (Cleveland).
    """
    steps = math.ceil(num_rows / BATCH)
    return noise_multiplier(
        target_epsilon=EPSILON,
        delta=DELTA,
        sample_rate=1 / steps,
        steps=ROUNDS * steps,
        accountant="rdp",
    )


@dataclass(frozen=True)
class Score:
    """One seed's outcome: accuracies, and the largest ε that a silo spent."""

    mean_of_clients: float
    pooled_test: float
    epsilon: float


def train(
    method: Method,
    own: Mapping[str, Arrays],
    pooled: Mapping[str, Arrays],
    *,
    seed: int,
    draw: int,
    rounds: int,
) -> Score:
    """Train once and evaluate on the clients' test rows and on the pooled ones.

    Args:
        method: the row of the table.
        own: rows standardised by centre.
        pooled: rows standardised together.
        seed: of the first model and the batches.
        draw: of the noise.
        rounds: how many.

    Raises:
        QuorumLost: where a silo fails; its reason is in the message.
    """
    job, agreed = job_of(method, seed=seed, rounds=rounds), contract()
    reports: list[Mapping[str, Any]] = []

    def kernel(rows: Mapping[str, Arrays], job: Job) -> tuple[Kernel, Federation]:
        kind, run_id = FlambyNoise if method.flamby_noise else InMemorySilo, f"flamby-{seed}"
        hosts = [
            kind(
                name,
                prepared=arrays,
                run_secrets={run_id: seeds.derive("flamby_heart", seed, draw, name)},
            )
            for name, arrays in rows.items()
        ]
        transport = LocalTransport({host.name: answerer(host) for host in hosts})

        def publish(step: Publish) -> None:
            reports.append(step.value)

        made = Kernel(
            transport,
            run_id=run_id,
            job=job,
            contract=agreed,
            observe=lambda _: None,
            publish=publish,
        )
        return made, Federation(CENTRES, job, agreed, transport.online)

    driver, fed = kernel(own, job)
    protocol = find_protocol(job.protocol.name).from_job(job)
    start = first_params(seed)
    unit = Scale.unit(len(INPUTS))
    state = TrainState(start, rounds, server=protocol.begin(start), scale=unit)
    state = driver.run(job.protocol.name, protocol, fed, state)
    # Whoever publishes a table has the rows: figures are exact, and no part of the run.
    exact = job.changed(privacy=None)
    alone, fed = kernel(own, exact)
    clients: Evaluated = alone.run("evaluation", Evaluation(state), fed)
    together, everybody = kernel(pooled, exact)
    whole: Evaluated = together.run("evaluation", Evaluation(state), everybody)
    spent = [each["epsilon"] or 0.0 for each in reports[-1]["silos"].values()]
    return Score(
        mean(each["accuracy"] for each in clients.silos.values()),
        whole.metrics["accuracy"],
        max(spent),
    )


def measure(table: pd.DataFrame, chosen: argparse.Namespace, load: float) -> Report:
    """Return the report over all methods and seeds."""
    used, rounds, most_draws = sized(
        chosen, full=(SEEDS, ROUNDS, 3), quick=(SEEDS[:1], 2, 3), smoke=(SEEDS[:1], 1, 1)
    )
    own, pooled = prepared(table, pooled=False), prepared(table, pooled=True)
    figures: dict[str, float] = {}
    ratios: dict[str, float] = {}
    for name, method in METHODS.items():
        scores = []
        for seed, draw in product(used, range(min(method.draws, most_draws))):
            score = train(method, own, pooled, seed=seed, draw=draw, rounds=rounds)
            scores.append(score)
            say(f"{name} seed {seed}: {score.mean_of_clients:.4f}, {score.pooled_test:.4f}")
        clients = [each.mean_of_clients for each in scores]
        figures[f"{name}.mean_of_clients"] = mean(clients)
        figures[f"{name}.pooled_test"] = mean(each.pooled_test for each in scores)
        figures[f"{name}.sd"] = stdev(clients) if len(clients) > 1 else 0.0
        if method.private:
            figures[f"{name}.epsilon"] = max(each.epsilon for each in scores)
        if method.published is not None:
            distance = abs(figures[f"{name}.mean_of_clients"] - method.published)
            ratios[f"{name}.distance_in_published_sd"] = distance / method.published_sd
    return Report("flamby_heart", chosen.size, load, figures, ratios)


def table_of(report: Report) -> str:
    """Return the report beside the published figures."""
    head = ("method", "mean of clients", "sd", "published", "sd", "distance", "pooled", "published")
    rows = [(*head, "ε")]
    for name, method in METHODS.items():
        figure = {key: report.figures.get(f"{name}.{key}") for key in _FIGURES}
        distance = report.ratios.get(f"{name}.distance_in_published_sd")
        rows.append(
            (
                name,
                _number(figure["mean_of_clients"]),
                _number(figure["sd"], 3),
                _number(method.published),
                _number(method.published_sd, 3),
                "" if distance is None else f"{distance:.2f} sd",
                _number(figure["pooled_test"]),
                _number(method.published_pooled),
                _number(figure["epsilon"], 3),
            )
        )
    return columns(rows)


_FIGURES = ("mean_of_clients", "sd", "pooled_test", "epsilon")


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def main() -> int:
    """Run from the command line."""
    parser = options(__doc__)
    parser.add_argument("--data", type=Path, help="folder of the four files and flamby_split.csv")
    chosen = parser.parse_args()
    load = load_now()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="flamby-") as made:
        if chosen.data is not None:
            below = chosen.data / "heart_disease"
            folder = below if below.is_dir() else chosen.data
        elif chosen.size == "smoke":
            folder = heart_disease(Path(made) / "heart_disease")
            say("rows are made up")
        else:
            parser.error(
                "name with --data the folder that has heart_disease/; a smoke run needs none"
            )
        missing = [
            name
            for name in ("flamby_split.csv", *(f"processed.{each}.data" for each in CENTRES))
            if not (folder / name).is_file()
        ]
        if missing:
            parser.error(f"{folder} lacks {', '.join(missing)}")
        try:
            report = measure(prepare(folder), chosen, load)
        except ConsiloError as cause:
            print(cause, file=sys.stderr)
            return 1
    report.show(as_json=chosen.json, table=table_of(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
