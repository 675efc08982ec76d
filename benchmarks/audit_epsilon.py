"""What an attacker can learn of one row, as a lower bound of ε, beside the ε that is stated.

Each path that promises differential privacy is asked many times about two tables that differ in one
row, made to stand out as much as it can. An attacker who knows both tables guesses which it was, by
a threshold on how far the answer lies in the row's direction; the threshold is chosen on a third of
the answers. Clopper-Pearson bounds on how often it is right give a lower bound of ε at the stated δ
(Jagielski, Ullman, Oprea 2020, arXiv 2006.07709), which holds with a confidence of 1 - 0.05 over
the number of paths. Above what is stated, it proves that the statement is wrong. Far below, it
proves nothing: so few answers cannot show more than ``most_that_can_be_shown``.

The same is done to copies that are broken on purpose, and must be caught: their noise is off, their
clipping is off, their scale is exact, or their rows are computed in the order of the table.

    bookkeeping_*, rows_*, hooks_*, functorch_*, written_down_*, poisson_*, moments_*, histogram_*
    scale_*, figures_*, cut_layer_*
    places_*: a model that gives a row another gradient in each place of the batch
    dp_sgd_subject_*, statistics_subject_*, figures_subject_*: a person with 40 rows, or without
    PATH_stated                    ε of a path, at δ 1e-5
    PATH_lower                     lower bound of what it spends
    PATH_noise_off_lower           of the copy without noise
    PATH_clipping_off_lower        of the copy without clipping
    PATH_in_order_lower            of the copy whose places are those of the table
    PATH_clipped_per_row_lower     of the copy that clips a subject's rows one by one
    PATH_weights_off_lower         of the copy in which each row of a subject counts as one
    scale_exact_lower              of the copy whose own scale is exact
    most_that_can_be_shown         by an attacker who is always right
    answers                        about each table
"""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch
from report import Report, columns, load_now, options, say, sized
from torch import Tensor, nn

from consilo.contracts.contract import Contract
from consilo.horizontal.dataset import local_scale
from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import learner_of, private_fit
from consilo.horizontal.private_figures import bounds_of, clipped_sums, noisy_tally
from consilo.horizontal.scaling import scaled_rows
from consilo.horizontal.subjects import Subjects
from consilo.jobs.job import Job
from consilo.kernel.headers import Header, Manifest
from consilo.kernel.view import SiloView
from consilo.learners.graphs import Graph, traced
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import Arrays, FitPlan, FitSession, TorchLearner
from consilo.privacy.accounting import noise_multiplier
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.noise import SecretStream
from consilo.privacy.sums import Sums, noisy_histogram
from consilo.vertical.split.layers import Noise, embed, learn_bottom
from silos.simulation.in_memory import InMemorySilo

EPSILON, DELTA, NORM = 1.0, 1e-5, 0.5
FAILURE = 0.05
_OFF = 1e-9

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ask: TypeAlias = Callable[[bool], Floats]
"""Answers once about the table with the row, or about the one without; a vector."""


@dataclass(frozen=True)
class Path:
    """One way on which something private leaves.

    Args:
        ask: the sound one.
        exact: the same without noise, whose difference is the row's direction.
        broken: copies that must be caught, by what is broken.
    """

    ask: Ask
    exact: Ask
    broken: Mapping[str, Ask]


def lower_bound(without: Floats, with_: Floats, *, failure: float) -> float:
    """Return the ε at `DELTA` that scores prove, 0 or more.

    Args:
        without: scores of answers about the table without the row, in random order.
        with_: about the table with it.
        failure: probability with which the bound may be wrong.
    """
    from scipy.stats import beta

    third = len(without) // 3
    no, yes = np.sort(without[:third]), np.sort(with_[:third])
    seen = np.sort(np.concatenate([no, yes]))
    tried = (seen[:-1] + seen[1:]) / 2.0
    best = tried[np.argmax(np.searchsorted(no, tried) - np.searchsorted(yes, tried))]
    bound = 0.0
    wrong, right = int((without[third:] > best).sum()), int((with_[third:] > best).sum())
    number = len(without) - third
    # A half of the failure for each of the two rates; either hypothesis may be the one to reject.
    level = failure / 2
    high = beta.ppf(1 - level, wrong + 1, number - wrong) if wrong < number else 1.0
    low = beta.ppf(level, right, number - right + 1) if right else 0.0
    for more, less in ((low, high), (1 - high, 1 - low)):
        if more > DELTA and less > 0:
            bound = max(bound, math.log((more - DELTA) / less))
    return bound


def audited(ask: Ask, direction: Floats, number: int, *, failure: float) -> float:
    """Return the lower bound that ``number`` answers about either table prove."""
    scores = {
        there: np.array([float(ask(there) @ direction) for _ in range(number)])
        for there in (False, True)
    }
    return lower_bound(scores[False], scores[True], failure=failure)


def secret(purpose: str) -> SecretStream:
    """Return a stream that nobody can guess."""
    return SecretStream(os.urandom(32), purpose)


class Linear(nn.Module):
    """A linear layer on the row as it is, which book-keeping never takes apart."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        found: Tensor = self.layer(features)
        return found


class Rows(Linear):
    """A linear layer on a sequence: each row's gradient is made."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        found: Tensor = self.layer(features.reshape(-1, 2, 2)).sum(dim=1)
        return found


class Twice(Linear):
    """A layer that is used twice in a forward: Opacus' hooks take it."""

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        found: Tensor = self.layer(features) + self.layer(features / 2)
        return found


class Own(nn.Module):
    """A parameter that belongs to no known layer: Opacus takes it by functorch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4))

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        return features @ self.weight


@functools.cache
def _said() -> dict[str, Any]:
    return traced(Linear(), 4)


def written_down() -> nn.Module:
    """Return a linear layer as a silo has it whose code it may not run: a list of operations."""
    state = {name: each.detach().numpy() for name, each in Linear().state_dict().items()}
    return Graph(_said(), state, frozenset(state))


class Unclipped(DPHook):
    """Broken: rows are as long as they are."""

    def prepare(self, session: FitSession) -> None:
        """Clip to a length that no row has."""
        super().prepare(session)
        sums: Any = self._sums
        sums._max_norm = 1e30


def training(
    there: bool,
    *,
    make: Callable[[], nn.Module],
    kind: type[DPHook] = DPHook,
    sigma: float,
    rate: float = 1.0,
    steps: int = 1,
) -> Floats:
    """Return how far a fit moves the parameters, in gradients, with or without an extreme row."""
    rows = np.zeros((9 if there else 8, 4), np.float32)
    rows[:8, 0] = 1e-3
    if there:
        rows[8] = 1e6
    model = make()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    learner = TorchLearner(model, Task.of("binary"))
    hook = kind(sigma=sigma, max_grad_norm=NORM, sample_rate=rate, stream=secret("audit"))
    plan = FitPlan(batch_size=8, steps=steps, lr=1e-12)
    data = Arrays(rows, np.arange(len(rows)) % 2)
    learner.fit(data, plan, rng=np.random.default_rng(0), hooks=[hook])
    moved = [value.reshape(-1) for value in learner.parameters().values()]
    # The expected batch is public: what the number of rows makes of it is taken out.
    return np.concatenate(moved).astype(np.float64) * len(rows) * rate / plan.lr


def training_path(make: Callable[[], nn.Module], *, rate: float = 1.0, steps: int = 1) -> Path:
    """Return DP-SGD on a model that is clipped in one of the ways."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=rate, steps=steps)
    ask = partial(training, make=make, rate=rate, steps=steps)
    return Path(
        partial(ask, sigma=sigma),
        partial(training, make=make, sigma=_OFF),
        {
            "noise_off": partial(ask, sigma=_OFF),
            "clipping_off": partial(ask, sigma=sigma, kind=Unclipped),
        },
    )


PLACES = 32
"""Of a batch; both tables fill two of them, or all but one place."""


class ByPlace(Linear):
    """A linear layer whose input has another sign in each place of the batch.

    The last bit of a matrix product depends on a row's place, and weights can be chosen that make
    of it which way the row's gradient points (`tests/attacks/test_clipping_underflow.py`). Which
    places are rounded otherwise depends on the machine; here they are the same on all.
    """

    def forward(self, features: Tensor) -> Tensor:
        """Return logits."""
        turned: Tensor = super().forward(features * signs(len(features))[:, None])
        return turned


def signs(number: int) -> Tensor:
    """Return for each place of a batch 1 or -1."""
    bits = np.random.default_rng(0).integers(0, 2, PLACES)
    return torch.from_numpy(2.0 * bits[np.arange(number) % PLACES] - 1.0).float()


class InOrder(DPHook):
    """Broken: the first row that is drawn has the first place, the second the second."""

    def _clipped(self, session: FitSession, rows: Any, places: Any) -> list[Tensor]:
        return super()._clipped(session, rows, np.arange(len(places)))


def places_path() -> Path:
    """Return DP-SGD where a row more could move the others to other places of the batch.

    All gradients point one way where each row is in its own place; with one row less, those after
    it are in their neighbours'.
    """
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=1)
    features = np.zeros((2 * PLACES, 4), np.float32)
    features[:, 0] = 1e3 * signs(len(features)).numpy()

    def ask(there: bool, *, kind: type[DPHook]) -> Floats:
        rows = features if there else np.delete(features, 3, axis=0)
        model = ByPlace()
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        learner = TorchLearner(model, Task.of("binary"))
        hook = kind(
            sigma=sigma,
            max_grad_norm=NORM,
            sample_rate=1.0,
            stream=secret("audit"),
            max_physical_batch=PLACES,
        )
        plan = FitPlan(batch_size=len(rows), steps=1, lr=1e-12)
        data = Arrays(rows, np.ones(len(rows), np.int64))
        learner.fit(data, plan, rng=np.random.default_rng(0), hooks=[hook])
        moved = [value.reshape(-1) for value in learner.parameters().values()]
        return np.concatenate(moved).astype(np.float64) * len(rows) / plan.lr

    def without_noise(there: bool) -> Floats:
        return np.eye(5)[0] * there  # the first weight, in which all gradients lie

    return Path(partial(ask, kind=DPHook), without_noise, {"in_order": partial(ask, kind=InOrder)})


MANY = 40
"""Rows of the person who is there or not."""


def whose(there: bool) -> Subjects:
    """Return whose rows a table has: eight people with a row each, and one with `MANY`."""
    return Subjects(np.concatenate([np.arange(8), np.full(MANY * there, 8)]))


def subject_training_path() -> Path:
    """Return DP-SGD in which whole people are hidden."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=1)

    def ask(there: bool, *, sigma: float, clip_rows: bool = False) -> Floats:
        people = whose(there)
        rows = np.zeros((len(people.codes), 4), np.float32)
        rows[:8, 0], rows[8:] = 1e-3, 1e6
        model = Linear()
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        learner = TorchLearner(model, Task.of("binary"))
        hook = DPHook(
            sigma=sigma,
            max_grad_norm=NORM,
            sample_rate=1.0,
            stream=secret("audit"),
            subjects=None if clip_rows else people.codes,
            max_rows_per_subject=MANY,
        )
        plan = FitPlan(batch_size=8, steps=1, lr=1e-12)
        data = Arrays(rows, np.zeros(len(rows), np.int64))
        learner.fit(data, plan, rng=np.random.default_rng(0), hooks=[hook])
        moved = [value.reshape(-1) for value in learner.parameters().values()]
        units = len(rows) if clip_rows else people.count
        return np.concatenate(moved).astype(np.float64) * units / plan.lr

    return Path(
        partial(ask, sigma=sigma),
        partial(ask, sigma=_OFF),
        {
            "noise_off": partial(ask, sigma=_OFF),
            "clipped_per_row": partial(ask, sigma=sigma, clip_rows=True),
        },
    )


def subject_statistics_path() -> Path:
    """Return noisy sums and counts per bin in which whole people are hidden."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=2)

    def ask(there: bool, *, sigma: float, weighted: bool = True) -> Floats:
        people = whose(there)
        weights = people.weights if weighted else np.ones(len(people.codes))
        values = np.where(people.codes[:, None] < 8, 50.0, np.full((1, 3), 1e6))
        sums = Sums.of(
            values,
            low=_LOW,
            high=_HIGH,
            codes=np.minimum(people.codes, 1),
            num_classes=2,
            weights=weights,
            rows=people.count,
        )
        # Far from 0, at which counts are cut off.
        last = 1e4 + np.bincount(people.codes // 8, weights=weights, minlength=2)
        counts = noisy_histogram({name: last for name in "abc"}, sigma, secret("bins"))
        noisy = sums.noisy(sigma, secret("moments")).vector
        return np.concatenate([noisy, *counts.values()])

    return Path(
        partial(ask, sigma=sigma),
        partial(ask, sigma=_OFF),
        {
            "noise_off": partial(ask, sigma=_OFF),
            "weights_off": partial(ask, sigma=sigma, weighted=False),
        },
    )


_LOW, _HIGH = np.zeros(3), np.full(3, 100.0)


def sums_of(there: bool, *, clipping: bool = True) -> Sums:
    """Return the sums of a table with or without a row far outside of the ranges."""
    values = np.full((9 if there else 8, 3), 50.0)
    if there:
        values[8] = 1e6
    codes = np.arange(len(values)) % 2
    made = Sums.of(values, low=_LOW, high=_HIGH, codes=codes, num_classes=2)
    return made if clipping else replace(made, first=((values - 50.0) / 50.0).sum(axis=0))


def moments_path() -> Path:
    """Return the noisy sums that moments and class counts are made of."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=1)

    def ask(there: bool, *, sigma: float, clipping: bool = True) -> Floats:
        return sums_of(there, clipping=clipping).noisy(sigma, secret("moments")).vector

    return Path(
        partial(ask, sigma=sigma),
        partial(ask, sigma=_OFF),
        {
            "noise_off": partial(ask, sigma=_OFF),
            "clipping_off": partial(ask, sigma=sigma, clipping=False),
        },
    )


def histogram_path() -> Path:
    """Return noisy counts per bin of three columns."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=1)

    def ask(there: bool, *, sigma: float) -> Floats:
        # Far from 0, at which counts are cut off.
        counts = {name: np.array([1e4, 1e4 + there]) for name in "abc"}
        return np.concatenate(list(noisy_histogram(counts, sigma, secret("bins")).values()))

    exact = partial(ask, sigma=_OFF)
    return Path(partial(ask, sigma=sigma), exact, {"noise_off": exact})


def scale_path() -> Path:
    """Return a round of training whose inputs a silo standardises by its own, private, scale."""
    contract = Contract.model_validate(
        {
            "name": "audit",
            "version": 1,
            "columns": {
                "value": {"type": "float", "range": {"min": 0, "max": 1000}},
                "ill": {"type": "integer", "role": "target", "allowed": [0, 1]},
            },
        }
    )
    job = Job.from_json(
        {
            "name": "audit",
            "contract": "audit@1",
            "model": "consilo.learners.tabular:LogisticRegression",
            "features": {"standardize": "silo"},
            "protocol": {"rounds": 1},
            "local": {"batch_size": 64, "steps": 1, "lr": 1e-4},
            "privacy": {
                "epsilon": EPSILON,
                "delta": DELTA,
                "max_grad_norm": NORM,
                "statistics_epsilon": EPSILON / 3,
                "accountant": "rdp",
            },
            "evaluation": {"holdout": 1e-9},
        }
    )
    encoding = Encoding.plan(contract, job)
    manifest = Manifest.of("audit", job, contract, "")
    kept_numbers: dict[str, float] = {}

    def table(there: bool) -> pd.DataFrame:
        # The classes differ by a hair, so that the scale alone says how much that counts.
        ill = np.arange(64) % 2
        value = 500.0 + np.where(ill == 1, 1e-2, -1e-2)
        if there:
            value[-1] = 1000.0
        return pd.DataFrame({"value": value, "ill": ill})

    def ask(there: bool, *, exact: bool) -> Floats:
        silo = InMemorySilo("silo", table(there), kept_numbers=kept_numbers)
        header = Header(
            "audit", "1/0/train", "0" * 64, 1, "silo", "fedavg", "train", ("silo",), manifest
        )
        view = SiloView(silo, job, contract, header)
        sent = local_scale(view, encoding) if exact else None
        rows = scaled_rows(view, encoding, sent)
        learner = learner_of(job, encoding)
        private_fit(view, learner, rows.train, fingerprint=rows.fingerprint)
        moved = learner.parameters()["linear.weight"].reshape(-1)
        return moved.astype(np.float64) * len(rows.train) / 1e-4

    def without_noise(there: bool) -> Floats:
        return np.array([0.0 if there else 1.0])  # the row makes all others equal

    return Path(partial(ask, exact=False), without_noise, {"exact": partial(ask, exact=True)})


def cut_layer_path() -> Path:
    """Return what a feature silo shows of a row in an epoch: its embedding, and what it learnt."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=2)

    def ask(there: bool, *, sigma: float, clip: float = NORM) -> Floats:
        bottom = nn.Linear(2, 2, bias=False)
        nn.init.eye_(bottom.weight)
        start = bottom.weight.detach().clone()
        rows = torch.zeros(4, 2)
        rows[0] = 1e6 if there else -1e6
        noise = Noise(sigma=sigma, clip=clip, clip_update=clip, stream=secret("cut layer"))
        with torch.no_grad():
            sent = noise.on_rows(embed(bottom, rows, None))[0]
        optimizer = torch.optim.SGD(bottom.parameters(), lr=1.0)
        learn_bottom(bottom, optimizer, rows, torch.ones(4, 2), None, noise)
        moved = (start - bottom.weight.detach()).reshape(-1) * len(rows)
        return torch.cat([sent, moved]).double().numpy()

    return Path(
        partial(ask, sigma=sigma),
        partial(ask, sigma=_OFF),
        {
            "noise_off": partial(ask, sigma=_OFF),
            "clipping_off": partial(ask, sigma=sigma * NORM / 1e9, clip=1e9),
        },
    )


def figures_path() -> Path:
    """Return noisy figures of merit, on held-out rows with or without one that is very wrong."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=1)
    learner = TorchLearner(nn.Linear(1, 1, bias=False), Task.of("binary"))
    nn.init.ones_(learner.model.weight)  # type: ignore[arg-type]
    silo: Any = None  # figures of a classifier ask it nothing

    def ask(there: bool, *, sigma: float, clipping: bool = True) -> Floats:
        features = np.array([[0.0]] * 8 + [[1e9]] * there, np.float32)
        data = Arrays(features, np.zeros(len(features), np.int64))
        sums = clipped_sums(silo, learner, data, places=secret("places"))
        if there and not clipping:
            sums["log_loss_sum"] = sums["log_loss_sum"] + 1e9
        stream = secret("figures")
        tally = noisy_tally(sums, bounds_of(silo, learner.task.kind), len(data), sigma, stream)
        names = ("correct", "log_loss_sum", "scores_0", "scores_1")
        bounds = bounds_of(silo, learner.task.kind)
        return np.concatenate([np.atleast_1d(tally[name]) / bounds[name] for name in names])

    return Path(
        partial(ask, sigma=sigma),
        partial(ask, sigma=_OFF),
        {
            "noise_off": partial(ask, sigma=_OFF),
            "clipping_off": partial(ask, sigma=sigma, clipping=False),
        },
    )


def subject_figures_path() -> Path:
    """Return noisy figures of merit in which whole people are hidden."""
    sigma = noise_multiplier(target_epsilon=EPSILON, delta=DELTA, sample_rate=1.0, steps=1)
    learner = TorchLearner(nn.Linear(1, 1, bias=False), Task.of("binary"))
    nn.init.ones_(learner.model.weight)  # type: ignore[arg-type]
    silo: Any = None  # figures of a classifier ask it nothing
    bounds = bounds_of(silo, learner.task.kind)

    def ask(there: bool, *, sigma: float, weighted: bool = True) -> Floats:
        people = whose(there)
        features = np.where(people.codes < 8, 0.0, 1e9).astype(np.float32)[:, None]
        data = Arrays(features, np.zeros(len(features), np.int64))
        weights = people.weights if weighted else None
        sums = clipped_sums(
            silo, learner, data, weights, num_units=people.count, places=secret("places")
        )
        tally = noisy_tally(sums, bounds, people.count, sigma, secret("figures"))
        names = ("correct", "log_loss_sum", "scores_0", "scores_1")
        return np.concatenate([np.atleast_1d(tally[name]) / bounds[name] for name in names])

    return Path(
        partial(ask, sigma=sigma),
        partial(ask, sigma=_OFF),
        {
            "noise_off": partial(ask, sigma=_OFF),
            "weights_off": partial(ask, sigma=sigma, weighted=False),
        },
    )


PATHS: Mapping[str, Callable[[], Path]] = {
    "bookkeeping": partial(training_path, Linear),
    "rows": partial(training_path, Rows),
    "hooks": partial(training_path, Twice),
    "functorch": partial(training_path, Own),
    "written_down": partial(training_path, written_down),
    "poisson": partial(training_path, Linear, rate=0.5, steps=4),
    "moments": moments_path,
    "histogram": histogram_path,
    "scale": scale_path,
    "places": places_path,
    "figures": figures_path,
    "cut_layer": cut_layer_path,
    "dp_sgd_subject": subject_training_path,
    "statistics_subject": subject_statistics_path,
    "figures_subject": subject_figures_path,
}


def audit(number: int, number_broken: int) -> dict[str, float]:
    """Return all figures.

    Args:
        number: answers about either table of a sound path.
        number_broken: of a broken copy; few are enough.
    """
    failure = FAILURE / len(PATHS)
    figures: dict[str, float] = {"answers": float(number)}
    surely = np.arange(number) / number
    figures["most_that_can_be_shown"] = lower_bound(surely, surely + 2.0, failure=failure)
    for name, make in PATHS.items():
        path = make()
        direction = path.exact(True) - path.exact(False)
        direction = direction / np.linalg.norm(direction)
        figures[f"{name}_stated"] = EPSILON
        figures[f"{name}_lower"] = audited(path.ask, direction, number, failure=failure)
        for what, ask in path.broken.items():
            found = audited(ask, direction, number_broken, failure=failure)
            figures[f"{name}_{what}_lower"] = found
        say(f"{name} done")
    return figures


def faults(figures: Mapping[str, float]) -> list[str]:
    """Return what is wrong: a path that spends more than it states, a copy that is not caught."""
    found = []
    for name in PATHS:
        stated, lower = figures[f"{name}_stated"], figures[f"{name}_lower"]
        if lower > stated:
            found.append(f"{name}: at least {lower:.3g} is spent, {stated:.3g} is stated")
        for what, value in copies(figures, name).items():
            if value <= stated:
                found.append(f"{name}_{what}_lower: {value:.3g}; the broken copy was not caught")
    return found


def copies(figures: Mapping[str, float], name: str) -> dict[str, float]:
    """Return the lower bounds of a path's broken copies, by what is broken."""
    others = tuple(f"{each}_" for each in PATHS if each.startswith(f"{name}_"))
    return {
        key.removeprefix(f"{name}_").removesuffix("_lower"): value
        for key, value in figures.items()
        if key.startswith(f"{name}_") and key.endswith("_lower") and key != f"{name}_lower"
        if not (others and key.startswith(others))
    }


def main() -> int:
    """Run from the command line; 1 where a statement is wrong, or a broken copy is not caught."""
    given = options(__doc__).parse_args()
    load = load_now()
    torch.set_num_threads(1)
    number, broken = sized(given, full=(4000, 200), quick=(400, 90), smoke=(30, 30))
    figures = audit(number, broken)
    rows = [("path", "stated", "at least", "broken copies, at least")]
    for name in PATHS:
        broken_ones = [f"{what} {value:.2f}" for what, value in copies(figures, name).items()]
        shown = f"{figures[f'{name}_lower']:.3f}"
        rows.append((name, f"{figures[f'{name}_stated']:g}", shown, ", ".join(broken_ones)))
    Report("audit_epsilon", given.size, load, figures).show(as_json=given.json, table=columns(rows))
    wrong = faults(figures) if given.size != "smoke" else []
    for each in wrong:
        say(each)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
