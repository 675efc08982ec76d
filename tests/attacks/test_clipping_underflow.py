"""No weights and no row make the clipped sum move by more than the clipping norm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from consilo.errors import JobInvalid
from consilo.horizontal import private_figures
from consilo.horizontal.subjects import Subjects
from consilo.learners.tabular import MLP
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import Arrays, FitPlan, TorchLearner
from consilo.privacy import dpsgd
from consilo.privacy.clipping import BookKeeping, ClippedSums, HookedRows
from consilo.privacy.dpsgd import DPHook
from consilo.privacy.noise import ARITHMETIC, SecretStream
from consilo.vertical.split.layers import Noise

ROWS = 4
LIMIT = 1.0 + ARITHMETIC
magnitudes = st.floats(-30, 30).map(lambda power: 10.0**power)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(7, 3), nn.Linear(6, 2)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.head(
            self.embed(features[:, :2].abs().clamp(max=6.5).long()).flatten(1)
        )
        return found


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.each, self.head = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.head(torch.relu(self.each(features.reshape(-1, 2, 2))).sum(dim=1))
        return found


class Images(nn.Module):
    def __init__(self, *layers: nn.Module, width: int) -> None:
        super().__init__()
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(width, 2)

    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(features.reshape(-1, 2, 2, 1)).flatten(1))
        return found


class Series(Images):
    def forward(self, features: Tensor) -> Tensor:
        found: Tensor = self.head(self.layers(features.reshape(-1, 2, 2)).flatten(1))
        return found


MODELS = {
    "linear": lambda: nn.Linear(4, 2),
    "perceptron": lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)),
    "sequence": Sequence,
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)),
    "group norm": lambda: Images(nn.GroupNorm(1, 2), width=4),
    "conv1d": lambda: Series(nn.Conv1d(2, 2, 1), nn.ReLU(), width=4),
    "conv2d": lambda: Images(nn.Conv2d(2, 2, 1), nn.ReLU(), width=4),
    "embedding": Tokens,
}


def booked(model: nn.Module, norm: float) -> ClippedSums:
    return BookKeeping(model, list(model.parameters()), norm)


def hooked(model: nn.Module, norm: float) -> ClippedSums:
    return HookedRows(model, list(model.parameters()), norm)


def by_functorch(model: nn.Module, norm: float) -> ClippedSums:
    return HookedRows(model, list(model.parameters()), norm, functorch=True)


def total(sums: ClippedSums, features: Tensor, labels: Tensor) -> Tensor:
    """The clipped sum of rows, in a batch that is filled up to one size."""
    at = [min(place, len(features) - 1) for place in range(ROWS)]
    sums.add(
        lambda model: functional.cross_entropy(model(features[at]), labels[at], reduction="none"),
        ROWS,
        places=torch.arange(len(features)),
    )
    return torch.cat([each.reshape(-1) for each in sums.take()])


@pytest.mark.filterwarnings("ignore:In CPU autocast")
@pytest.mark.parametrize("mode", [booked, hooked, by_functorch])
@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=8, deadline=None)
@given(
    first=magnitudes,
    last=magnitudes,
    inputs=magnitudes,
    odd=magnitudes,
    norm=magnitudes.map(lambda each: min(max(each, 1e-12), 1e12)),
    seed=st.integers(0, 99),
)
def test_one_row_moves_the_sum_by_the_norm_at_most(
    mode, name, first, last, inputs, odd, norm, seed
):
    torch.manual_seed(seed)
    model = MODELS[name]()
    parameters = list(model.parameters())
    with torch.no_grad():
        for each in parameters[:-2]:
            each.mul_(first)
        for each in parameters[-2:]:
            each.mul_(last)
    features = torch.randn(ROWS, 4) * inputs
    features[-1] *= odd / inputs
    labels = torch.randint(0, 2, (ROWS,))
    sums = mode(model, norm)
    try:
        without = total(sums, features[:-1], labels[:-1])
        moved = float((total(sums, features, labels) - without).norm())
        other = features.clone()
        other[-1] = torch.randn(4)
        replaced = float((total(sums, other, labels) - without).norm())
    finally:
        sums.close()
    assert moved <= norm * LIMIT
    assert replaced <= norm * LIMIT


class Spy(DPHook):
    def _release(self, parameters, sums, expected) -> None:
        self.sums = torch.cat([each.reshape(-1) for each in sums]).double()
        super()._release(parameters, sums, expected)


@pytest.mark.parametrize("weight", [1e19, 1e-25, 3e38])
@pytest.mark.parametrize("norm", [1e-6, 1.0])
def test_gradients_whose_float32_squares_vanish_are_clipped(weight: float, norm: float) -> None:
    """The proof: one row moved the sum by 96 times the clipping norm."""

    def sums(last: float) -> Tensor:
        model = MLP(1, 1, hidden=[64])
        with torch.no_grad():
            model.layers[0].weight.fill_(weight)
            model.layers[0].bias.zero_()
            model.layers[2].weight.zero_()
            model.layers[2].bias.fill_(-53.0)
        rows = np.array([*[0.0] * 49, last], np.float32).reshape(-1, 1)
        hook = Spy(
            sigma=1.0, max_grad_norm=norm, sample_rate=1.0, stream=SecretStream(bytes(32), "x")
        )
        TorchLearner(model, Task.of("binary")).fit(
            Arrays(rows, np.zeros(50, np.int64)),
            FitPlan(batch_size=50, steps=1, lr=1e-30),
            rng=np.random.default_rng(0),
            hooks=(hook,),
        )
        return hook.sums

    # One row in place of another is one taken away and one added.
    assert float((sums(1.0) - sums(0.0)).norm()) <= 2 * norm * LIMIT


def test_the_noise_pays_for_what_arithmetic_adds() -> None:
    rng, hook = np.random.default_rng(0), None
    data = Arrays(rng.normal(size=(8, 3)).astype(np.float32), rng.integers(0, 2, 8))
    stds: list[float] = []

    class Noticing(DPHook):
        def _release(self, parameters, sums, expected) -> None:
            super()._release(parameters, sums, expected)
            noisy = torch.cat([each.grad.reshape(-1) for each in parameters]).double() * expected
            stds.append(float(noisy.std()))

    hook = Noticing(
        sigma=5.0, max_grad_norm=1e-3, sample_rate=1.0, stream=SecretStream(bytes(32), "std")
    )
    model = MLP(3, 1, hidden=[200, 200])
    TorchLearner(model, Task.of("binary")).fit(
        data, FitPlan(batch_size=8, steps=1), rng=rng, hooks=(hook,)
    )
    assert stds[0] == pytest.approx(5e-3, rel=0.02)


def betraying(inputs: int, hidden: tuple[int, int], seed: int) -> MLP:
    """A perceptron whose outputs are the last bits of sums, a billion times as large.

    All of its first neurons are alike, and each of its second ones takes one of them from another.
    """
    model, rng = MLP(inputs, 1, hidden=hidden), np.random.default_rng(seed)
    first, second, last = (each for each in model.layers if isinstance(each, nn.Linear))
    with torch.no_grad():
        first.weight[:] = torch.from_numpy(rng.normal(size=inputs) * 3e3)
        first.bias.fill_(2e4)
        second.weight.zero_()
        second.bias.zero_()
        for row in second.weight:
            one, other = rng.integers(0, hidden[0], 2)
            row[one] += 1e6
            row[other] -= 1e6
        last.weight.fill_(1e3)
        last.bias.fill_(-1.0)
    return model


def as_if(left_out: int | None, order: np.ndarray) -> np.ndarray:
    """Places in which all others are where they are with one row more, whose place is free."""
    return order if left_out is None else np.delete(order, left_out)


@pytest.mark.parametrize("rows_a_subject", [None, 3])
@pytest.mark.parametrize("hidden", [(5, 5), (10, 4), (32, 32)], ids=str)
@pytest.mark.parametrize("inputs", [5, 7, 13, 30])
def test_a_row_more_moves_no_other_to_a_place_where_it_is_rounded_otherwise(
    monkeypatch, inputs, hidden, rows_a_subject
) -> None:
    """In the rows' own order one of 200 moved the sum by 5.5 times the norm of clipping.

    The last bit of a matrix product depends on the place in the batch. In random places it does
    so as well, but whether a row is there or not, the others have the same ones.
    """
    rng, left_out = np.random.default_rng(inputs), 7
    count = 60 if rows_a_subject is None else 20
    width = rows_a_subject or 1
    features = rng.normal(size=(count * width, inputs)).astype(np.float32)
    labels = rng.integers(0, 2, len(features))
    codes = np.repeat(np.arange(count), width)

    def sums(without: int | None) -> Tensor:
        order = np.random.default_rng(1).permutation(count)
        monkeypatch.setattr(dpsgd, "drawn_places", lambda *_: as_if(without, order))
        monkeypatch.setattr(dpsgd, "_num_places", lambda *_: (count, count // 2))
        kept = codes != without
        whose = None if rows_a_subject is None else Subjects.of(codes[kept]).codes
        hook = Spy(
            sigma=1.0,
            max_grad_norm=1.0,
            sample_rate=1.0,
            stream=SecretStream(bytes(32), "x"),
            subjects=whose,
            max_rows_per_subject=width,
        )
        TorchLearner(betraying(inputs, hidden, inputs), Task.of("binary")).fit(
            Arrays(features[kept], labels[kept]),
            FitPlan(batch_size=count, steps=1, lr=1e-30),
            rng=np.random.default_rng(0),
            hooks=(hook,),
        )
        return hook.sums

    assert float((sums(None) - sums(left_out)).norm()) <= LIMIT


def test_places_are_random_and_as_many_as_can_be_drawn() -> None:
    stream = SecretStream(bytes(32), "places")
    first, second = (dpsgd.drawn_places(1000, stream) for _ in range(2))
    assert sorted(first) == list(range(1000))
    assert 0 <= (first == second).sum() < 10
    for units, rate in ((40, 1.0), (400, 0.08), (100_000, 0.01), (3, 0.5), (1, 1.0)):
        places, batch = dpsgd._num_places(units, rate, 256)
        assert places % batch == 0
        assert batch <= 256
        assert places >= min(units, rate * units + 9 * (rate * units) ** 0.5)
        assert places <= max(units, 1.2 * 256) + batch


def test_figures_are_of_outputs_in_random_places_too(monkeypatch) -> None:
    """Of a model that tells last bits, one row more changed others' outputs."""
    rng, count, left_out = np.random.default_rng(0), 192, 7
    features = rng.normal(size=(count, 30)).astype(np.float32)
    learner = TorchLearner(betraying(30, (5, 5), 2), Task.of("binary"))
    order = np.random.default_rng(1).permutation(count)

    def outputs(rows: np.ndarray, places: np.ndarray) -> np.ndarray:
        monkeypatch.setattr(private_figures, "drawn_places", lambda *_: places)
        return private_figures.outputs_of(learner, rows, SecretStream(bytes(32), "places"))

    whole = outputs(features, order)
    free = np.append(as_if(left_out, order), order[left_out])
    others = outputs(np.delete(features, left_out, axis=0), free)
    np.testing.assert_array_equal(np.delete(whole, left_out), others)


@pytest.mark.parametrize("norm", [0.0, 1e-13, 1e13, float("nan"), float("inf")])
def test_a_norm_beyond_what_is_stated_is_refused(norm: float) -> None:
    with pytest.raises(JobInvalid, match="max_grad_norm"):
        DPHook(sigma=1.0, max_grad_norm=norm, sample_rate=1.0, stream=SecretStream(bytes(32), "x"))


@given(rows=st.lists(st.tuples(magnitudes, magnitudes), min_size=1, max_size=5))
@settings(max_examples=25, deadline=None)
def test_what_crosses_the_cut_layer_is_clipped_too(rows) -> None:
    """A neighbour: embeddings were measured in float32, and one of infinity became NaN."""
    values = torch.tensor([*rows, (float("inf"), 1.0), (float("nan"), 0.0)], dtype=torch.float32)
    sigma = 1e-3
    noise = Noise(
        sigma=sigma, clip=0.5, clip_update=0.5, stream=SecretStream(bytes(32), "cut layer")
    )
    sent = noise.on_rows(values)
    assert bool(torch.isfinite(sent).all())
    assert float(sent.norm(dim=1).max()) <= 0.5 + 20 * sigma
