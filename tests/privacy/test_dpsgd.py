from __future__ import annotations

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from consilo.errors import IncompatibleJob, JobInvalid
from consilo.learners.tabular import MLP, LogisticRegression
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import Arrays, FitPlan, FitReport, ProximalHook, TorchLearner
from consilo.privacy import dpsgd
from consilo.privacy.accounting import spent
from consilo.privacy.dpsgd import DPHook, poisson_batches
from consilo.privacy.noise import SecretStream, add_gaussian
from consilo.wire.params import Params

KEY = hashlib.sha256(b"silo secret").digest()


def _data(num_rows: int = 40, *, seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    return Arrays(rng.normal(size=(num_rows, 3)).astype(np.float32), rng.integers(0, 2, num_rows))


def _mlp() -> MLP:
    torch.manual_seed(0)
    return MLP(3, hidden=(5,))


def _hook(**changes: object) -> DPHook:
    settings: dict[str, object] = {
        "sigma": 1.0,
        "max_grad_norm": 0.8,
        "sample_rate": 0.3,
        "stream": SecretStream(KEY, "run/step"),
    }
    return DPHook(**(settings | changes))  # type: ignore[arg-type]


def _fit(
    model: nn.Module,
    data: Arrays,
    *hooks: object,
    plan: FitPlan | None = None,
    task: Task | None = None,
) -> tuple[Params, FitReport]:
    learner = TorchLearner(model, task or Task.of("binary"))
    plan = plan or FitPlan(batch_size=4, steps=6, lr=0.5)
    report = learner.fit(data, plan, rng=np.random.default_rng(1), hooks=hooks)  # type: ignore[arg-type]
    return learner.parameters(), report


def _slow(model: nn.Module, data: Arrays, plan: FitPlan, hook: DPHook) -> Params:
    """The oracle: one row at a time, in plain PyTorch, with the streams that the hook uses."""
    purposes = _purposes(model, data, plan, hook)[:2]
    sampling, noise = (SecretStream(KEY, "run/step").child(each) for each in purposes)
    parameters = list(model.parameters())
    batches = poisson_batches(len(data), hook.sample_rate, sampling)
    for _ in range(plan.steps or 0):
        sums = [np.zeros(tuple(each.shape)) for each in parameters]
        for row in next(batches):
            model.zero_grad()
            output = model(torch.from_numpy(data.features[row : row + 1])).reshape(1)
            target = torch.tensor([float(data.targets[row])])
            nn.functional.binary_cross_entropy_with_logits(output, target).backward()
            grads = [each.grad.double().numpy() for each in parameters]  # type: ignore[union-attr]
            norm = np.sqrt(sum(np.sum(each**2) for each in grads))
            factor = min(1.0, hook.max_grad_norm / norm)
            sums = [total + factor * each for total, each in zip(sums, grads, strict=True)]
        with torch.no_grad():
            flat = np.concatenate([each.ravel() for each in sums])
            noisy = add_gaussian(flat, hook.sigma * hook.max_grad_norm, noise)
            mean = torch.from_numpy(noisy / (hook.sample_rate * len(data))).float()
            for each, part in zip(parameters, mean.split([s.size for s in sums]), strict=True):
                each.sub_(plan.lr * part.view_as(each))
    return {name: value.numpy().copy() for name, value in model.state_dict().items()}


def _purposes(model: nn.Module, data: Arrays, plan: FitPlan, hook: DPHook) -> list[str]:
    found: list[str] = []

    class Spy(SecretStream):
        def child(self, purpose: str, question: str = "") -> SecretStream:
            found.append(f"{purpose}/{question}")
            return super().child(purpose, question)

    state = {name: value.clone() for name, value in model.state_dict().items()}
    spy = _hook(
        sigma=hook.sigma,
        max_grad_norm=hook.max_grad_norm,
        sample_rate=hook.sample_rate,
        stream=Spy(KEY, "run/step"),
    )
    _fit(model, data, spy, plan=plan)
    model.load_state_dict(state)
    return found


@pytest.mark.parametrize("sigma", [0.0, 1.3])
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_fit_equals_the_loop_over_rows(sigma: float, rate: float) -> None:
    plan = FitPlan(batch_size=4, steps=5, lr=0.3)
    hook = _hook(sigma=sigma, sample_rate=rate)
    found, report = _fit(_mlp(), _data(), hook, plan=plan)
    expected = _slow(_mlp(), _data(), plan, hook)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    assert report.mean_loss is None
    assert hook.history == [(sigma, rate, 5)]


def test_without_noise_and_clipping_it_is_full_batch_descent() -> None:
    data = _data()
    plan = FitPlan(batch_size=len(data), steps=8, lr=0.5)
    hook = _hook(sigma=0.0, max_grad_norm=1e6, sample_rate=1.0)
    private, _ = _fit(_mlp(), data, hook, plan=plan)
    plain, _ = _fit(_mlp(), data, plan=plan)
    for name, value in plain.items():
        np.testing.assert_allclose(private[name], value, atol=1e-5)


@pytest.mark.parametrize("physical", [1, 7, 40])
def test_microbatches_change_nothing(physical: int) -> None:
    found, _ = _fit(_mlp(), _data(), _hook(sample_rate=0.9, max_physical_batch=physical))
    whole, _ = _fit(_mlp(), _data(), _hook(sample_rate=0.9))
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)


def test_the_same_step_answers_the_same_bytes_and_another_does_not() -> None:
    first, _ = _fit(_mlp(), _data(), _hook())
    again, _ = _fit(_mlp(), _data(), _hook())
    other, _ = _fit(_mlp(), _data(), _hook(stream=SecretStream(KEY, "run/other")))
    assert all(first[name].tobytes() == again[name].tobytes() for name in first)
    assert all(first[name].tobytes() != other[name].tobytes() for name in first)


def test_noise_is_not_used_twice_for_another_question() -> None:
    """A coordinator that repeats a step with other parameters could subtract equal noise."""
    moved = _mlp()
    with torch.no_grad():
        next(moved.parameters()).add_(1e-3)
    plan = FitPlan(batch_size=4, steps=2)
    asked = _purposes(_mlp(), _data(), plan, _hook())
    assert asked != _purposes(moved, _data(), plan, _hook())
    assert asked != _purposes(_mlp(), _data(), plan, _hook(max_grad_norm=0.1))
    assert asked != _purposes(_mlp(), _data(), FitPlan(batch_size=4, steps=2, lr=0.5), _hook())


def test_public_randomness_does_not_reach_sampling_or_noise() -> None:
    results = []
    for seed in (1, 2):
        learner = TorchLearner(_mlp(), Task.of("binary"))
        plan = FitPlan(batch_size=4, steps=3)
        learner.fit(_data(), plan, rng=np.random.default_rng(seed), hooks=[_hook()])
        results.append(learner.parameters())
    assert all(np.array_equal(results[0][name], results[1][name]) for name in results[0])


def test_empty_batches_still_add_noise() -> None:
    model = _mlp()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    hook = _hook(sample_rate=1e-9)
    after, _ = _fit(model, _data(), hook)
    assert all((after[name] != before[name]).all() for name in before)
    assert hook.history == [(1.0, 1e-9, 6)]


def test_the_model_is_plain_again() -> None:
    model = _mlp()
    names = list(model.state_dict())
    _fit(model, _data(), _hook())
    assert list(model.state_dict()) == names
    assert not any(hasattr(each, "grad_sample") for each in model.parameters())
    _fit(model, _data(), _hook())
    plain, _ = _fit(model, _data())
    assert list(plain) == names


def test_poisson_sampling_has_the_right_rate() -> None:
    batches = poisson_batches(1000, 0.1, SecretStream(KEY, "poisson"))
    sizes = [len(next(batches)) for _ in range(200)]
    assert np.mean(sizes) == pytest.approx(100, abs=3)
    assert np.std(sizes) == pytest.approx((1000 * 0.1 * 0.9) ** 0.5, rel=0.2)


def test_the_ledger_can_price_the_history() -> None:
    hook = _hook(sigma=2.0)
    _fit(_mlp(), _data(), hook)
    assert 0 < spent(hook.history, 1e-5).epsilon_prv < 10


def test_clipping_bounds_what_one_row_moves() -> None:
    """One wild row moves a full-batch step by at most lr * C / n."""
    data = _data()
    wild = Arrays(data.features.copy(), data.targets)
    wild.features[0] *= 1e4
    plan = FitPlan(batch_size=4, steps=1, lr=1.0)
    results = []
    for each in (data, wild):
        hook = _hook(sigma=0.0, sample_rate=1.0)
        results.append(_fit(LogisticRegression(3), each, hook, plan=plan)[0])
    moved = np.sqrt(sum(np.sum((results[0][n] - results[1][n]) ** 2) for n in results[0]))
    assert moved <= 2 * 0.8 / 40 + 1e-6


def test_the_proximal_pull_is_added_after_the_noise() -> None:
    """In either order of hooks; it must be neither clipped nor paid for."""
    plan = FitPlan(batch_size=4, steps=3, lr=0.5)
    one, _ = _fit(_mlp(), _data(), _hook(), ProximalHook(0.3), plan=plan)
    two, _ = _fit(_mlp(), _data(), ProximalHook(0.3), _hook(), plan=plan)
    without, _ = _fit(_mlp(), _data(), _hook(), plan=plan)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert any(not np.array_equal(one[name], without[name]) for name in one)


class _Normed(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(3, 1)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(features))
        return result


def test_batch_norm_is_refused_and_the_cure_named() -> None:
    with pytest.raises(IncompatibleJob, match=r"layer \(BatchNorm1d\).*GroupNorm"):
        _fit(_Normed(nn.BatchNorm1d(3)), _data(), _hook())
    _fit(_Normed(nn.GroupNorm(1, 3)), _data(), _hook())


def test_a_forward_that_mixes_rows_is_refused() -> None:
    class Centred(nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features - features.mean(dim=0)

    with pytest.raises(IncompatibleJob, match="mixes the rows"):
        _fit(_Normed(Centred()), _data(), _hook())


def test_a_buffer_that_learns_is_refused() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(3))

        def forward(self, features: Tensor) -> Tensor:
            self.seen += features.detach().sum(dim=0)
            return features

    with pytest.raises(IncompatibleJob, match=r"buffer 'layer.seen'"):
        _fit(_Normed(Counting()), _data(), _hook())


class _Scored(LogisticRegression):
    def __init__(self, coupled: bool) -> None:
        super().__init__(3)
        self.coupled = coupled

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.coupled:
            return -torch.log_softmax(outputs.flatten(), dim=0)[0]
        return ((outputs.flatten() - targets.flatten()) ** 2).mean()


def test_a_users_loss_works_if_it_is_a_mean_over_rows() -> None:
    task = Task.of("custom")
    data = _data()
    plan = FitPlan(batch_size=40, steps=4, lr=0.1)
    hook = _hook(sigma=0.0, max_grad_norm=1e6, sample_rate=1.0)
    private, _ = _fit(_Scored(False), data, hook, plan=plan, task=task)
    plain, _ = _fit(_Scored(False), data, plan=plan, task=task)
    for name, value in plain.items():
        np.testing.assert_allclose(private[name], value, atol=1e-5)
    with pytest.raises(IncompatibleJob, match="Cox"):
        _fit(_Scored(True), data, _hook(), task=task)


def test_an_unused_and_a_frozen_parameter() -> None:
    class Odd(LogisticRegression):
        def __init__(self) -> None:
            super().__init__(3)
            self.unused = nn.Linear(3, 1)
            self.fixed = nn.Linear(3, 3)
            self.fixed.requires_grad_(False)

        def forward(self, features: Tensor) -> Tensor:
            return super().forward(self.fixed(features))

    model = Odd()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    after, _ = _fit(model, _data(), _hook())
    assert np.array_equal(after["fixed.weight"], before["fixed.weight"])
    assert (after["unused.weight"] != before["unused.weight"]).all()


@pytest.mark.parametrize("kind", ["multiclass", "regression"])
def test_other_tasks_equal_plain_descent(kind: str) -> None:
    task = Task.of(kind, num_classes=3)  # type: ignore[arg-type]
    plan = FitPlan(batch_size=40, steps=3, lr=0.1)
    results = []
    for hooks in ([], [_hook(sigma=0.0, max_grad_norm=1e6, sample_rate=1.0)]):
        torch.manual_seed(0)
        results.append(_fit(MLP(3, task.num_outputs), _data(), *hooks, plan=plan, task=task)[0])
    for name in results[0]:
        np.testing.assert_allclose(results[0][name], results[1][name], atol=1e-5)


def test_rows_that_are_not_finite_add_nothing_and_the_model_is_plain_again() -> None:
    data = _data()
    broken = Arrays(data.features.copy(), data.targets)
    broken.features[:] = np.nan
    model = _mlp()
    before = {name: value.numpy().copy() for name, value in model.state_dict().items()}
    after, _ = _fit(model, broken, _hook(sigma=0.0))
    assert all(np.array_equal(after[name], before[name]) for name in before)
    assert not any(hasattr(each, "grad_sample") for each in model.parameters())


def test_odd_settings_are_refused_together() -> None:
    with pytest.raises(JobInvalid, match="4 faults"):
        _hook(sigma=-1.0, max_grad_norm=0.0, sample_rate=2.0, max_physical_batch=0)


def test_two_hooks_cannot_both_define_the_gradient() -> None:
    with pytest.raises(IncompatibleJob, match="both define the gradient"):
        _fit(_mlp(), _data(), _hook(), _hook())


def test_noise_is_drawn_in_runs_of_parameters() -> None:
    most = dpsgd._NOISE_AT_ONCE
    sizes = [3, 5, most, 1, most + 7, 2, most - 2, 1]
    groups = [sizes[each] for each in dpsgd._groups(sizes)]
    assert groups == [[3, 5], [most], [1], [most + 7], [2, most - 2], [1]]


def test_a_forward_that_changes_its_way_is_still_clipped_row_by_row() -> None:
    """The layer is used twice only where the probe, the first three rows, has not been."""

    class Fickle(LogisticRegression):
        def forward(self, features: Tensor) -> Tensor:
            once = super().forward(features)
            return once + super().forward(2 * features) if len(features) > 4 else once

    data = _data()
    plan = FitPlan(batch_size=40, steps=2, lr=0.1)
    private, _ = _fit(
        Fickle(3), data, _hook(sigma=0.0, max_grad_norm=1e6, sample_rate=1.0), plan=plan
    )
    plain, _ = _fit(Fickle(3), data, plan=plan)
    for name, value in plain.items():
        np.testing.assert_allclose(private[name], value, atol=1e-5)


def test_the_layers_that_opacus_judges_are_the_ones_it_is_asked_about() -> None:
    from opacus.validators import ModuleValidator
    from torch.nn.modules.batchnorm import _BatchNorm

    judged = {kind for kind in ModuleValidator.VALIDATORS if not issubclass(kind, _BatchNorm)}
    assert {kind.__name__ for kind in judged} == dpsgd.JUDGED_BY_OPACUS
    assert all(kind.__module__.startswith("torch.nn.") for kind in judged)


def test_a_plain_model_is_judged_without_importing_opacus() -> None:
    code = (
        "import sys; from torch import nn; from consilo.privacy.dpsgd import check_private; "
        "check_private(nn.Sequential(nn.Linear(2, 2), nn.ReLU())); "
        "assert 'opacus' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
