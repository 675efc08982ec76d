from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from consilo.errors import IncompatibleJob, JobInvalid, ModelDiverged, SchemaDrift
from consilo.learners.modules import build_model
from consilo.learners.tabular import MLP, LogisticRegression
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import (
    Arrays,
    FitHook,
    FitPlan,
    FitSession,
    ProximalHook,
    TorchLearner,
)


def _data(num_rows: int = 50, num_inputs: int = 4) -> Arrays:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(num_rows, num_inputs)).astype(np.float32)
    return Arrays(features, (features[:, 0] + 0.3 * rng.normal(size=num_rows) > 0).astype(int))


def _learner(**args: float) -> TorchLearner:
    torch.manual_seed(0)
    return TorchLearner(MLP(4, hidden=(6,), **args), Task.of("binary"))  # type: ignore[arg-type]


PLAN = FitPlan(batch_size=8, steps=12, lr=0.2)


def test_fit_equals_a_plain_loop() -> None:
    data, learner = _data(), _learner()
    twin = _learner().model
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.2, momentum=0.9, weight_decay=0.01)
    plan = FitPlan(batch_size=8, epochs=2, lr=0.2, momentum=0.9, weight_decay=0.01)
    report = learner.fit(data, plan, rng=np.random.default_rng(3))
    rng = np.random.default_rng(3)
    rng.integers(2**63)
    losses = []
    for _ in range(2):
        order = rng.permutation(50)
        for start in range(0, 50, 8):
            rows = order[start : start + 8]
            optimizer.zero_grad()
            outputs = twin(torch.from_numpy(data.features[rows])).flatten()
            targets = torch.from_numpy(data.targets[rows]).float()
            loss = nn.functional.binary_cross_entropy_with_logits(outputs, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    expected = {name: value.numpy() for name, value in twin.state_dict().items()}
    found = learner.parameters()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert (report.num_examples, report.steps) == (50, 14)
    assert report.mean_loss == pytest.approx(np.mean(losses))


def test_equal_seeds_give_equal_bytes_and_leave_global_generators_alone() -> None:
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        random.seed(noise)
        state = torch.get_rng_state()
        learner = TorchLearner(_learner(dropout=0.5).model, Task.of("binary"))
        torch.set_rng_state(state)
        learner.fit(_data(), PLAN, rng=np.random.default_rng(5))
        assert torch.equal(torch.get_rng_state(), state)
        results.append(learner.parameters())
    assert all(results[0][name].tobytes() == results[1][name].tobytes() for name in results[0])


def test_parameters_and_load_round_trip_and_share_no_memory() -> None:
    learner = _learner()
    params = learner.parameters()
    params["layers.0.bias"] += 1.0
    assert not np.array_equal(learner.parameters()["layers.0.bias"], params["layers.0.bias"])
    learner.load(params)
    params["layers.0.bias"] += 1.0
    assert np.array_equal(learner.parameters()["layers.0.bias"] + 1.0, params["layers.0.bias"])
    assert list(params) == list(learner.model.state_dict())


def test_load_names_every_difference() -> None:
    learner = _learner()
    params = learner.parameters()
    del params["layers.0.bias"]
    params["layers.0.weight"] = np.zeros((2, 2), np.float32)
    params["layers.2.bias"] = params["layers.2.bias"].astype(np.float64)
    params["extra"] = np.zeros(1, np.float32)
    with pytest.raises(IncompatibleJob) as caught:
        learner.load(params)
    for part in ("'layers.0.bias' is missing", "shape (2, 2)", "float64", "'extra' is not"):
        assert part in str(caught.value)


def test_what_is_trained_is_told_from_buffers_and_from_what_is_frozen() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    model.register_buffer("mask", torch.ones(4, dtype=torch.bool))
    learner = TorchLearner(model, Task.of("binary"), freeze=["0.*"])
    assert learner.trained == ("1.weight", "1.bias", "2.weight", "2.bias")
    assert learner.buffers == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    before = learner.parameters()
    learner.fit(_data(), PLAN, rng=np.random.default_rng(0))
    after = learner.parameters()
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {*learner.trained, *learner.buffers}
    learner.load({name: before[name] for name in learner.trained})
    with pytest.raises(JobInvalid, match="no parameter matches"):
        TorchLearner(model, Task.of("binary"), freeze=["head.*"])
    with pytest.raises(JobInvalid, match="nothing is left"):
        TorchLearner(nn.Linear(4, 1), Task.of("binary"), freeze=["*"])


def test_proximal_pull_is_exact() -> None:
    data, mu = _data(), 0.7
    plan = FitPlan(batch_size=50, steps=5, lr=0.1)
    learner = _learner()
    learner.fit(data, plan, rng=np.random.default_rng(0), hooks=[ProximalHook(mu)])
    twin = _learner().model
    anchors = [each.detach().clone() for each in twin.parameters()]
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        outputs = twin(torch.from_numpy(data.features)).flatten()
        targets = torch.from_numpy(data.targets).float()
        loss = nn.functional.binary_cross_entropy_with_logits(outputs, targets)
        pulls = [
            ((each - a) ** 2).sum() for each, a in zip(twin.parameters(), anchors, strict=True)
        ]
        (loss + mu / 2 * torch.stack(pulls).sum()).backward()
        optimizer.step()
    for name, value in twin.state_dict().items():
        np.testing.assert_allclose(learner.parameters()[name], value.numpy(), atol=1e-6)


def test_proximal_of_zero_changes_nothing() -> None:
    one, two = _learner(), _learner()
    one.fit(_data(), PLAN, rng=np.random.default_rng(0), hooks=[ProximalHook(0.0)])
    two.fit(_data(), PLAN, rng=np.random.default_rng(0))
    assert all(np.array_equal(v, two.parameters()[k]) for k, v in one.parameters().items())


def test_hooks_finish_after_an_error_in_reverse_order() -> None:
    calls: list[str] = []

    class Named(FitHook):
        def __init__(self, name: str, fails: bool = False) -> None:
            self.name, self.fails = name, fails

        def prepare(self, session: FitSession) -> None:
            calls.append(f"prepare {self.name}")

        def before_step(self, session: FitSession) -> None:
            if self.fails:
                raise IncompatibleJob("no")

        def finish(self, session: FitSession) -> None:
            calls.append(f"finish {self.name}")

    with pytest.raises(IncompatibleJob):
        _learner().fit(
            _data(), PLAN, rng=np.random.default_rng(0), hooks=[Named("a"), Named("b", True)]
        )
    assert calls == ["prepare a", "prepare b", "finish b", "finish a"]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(1, 12), st.integers(1, 3))
def test_an_epoch_sees_each_row_once(num_rows: int, batch_size: int, epochs: int) -> None:
    seen: list[int] = []

    class Watching(FitHook):
        def prepare(self, session: FitSession) -> None:
            plain = session.batches

            def watched() -> object:
                for rows in plain:
                    seen.extend(rows.tolist())
                    yield rows

            session.batches = watched()  # type: ignore[assignment]

    plan = FitPlan(batch_size=batch_size, epochs=epochs)
    _learner().fit(_data(num_rows), plan, rng=np.random.default_rng(0), hooks=[Watching()])
    assert np.array_equal(np.bincount(seen, minlength=num_rows), np.full(num_rows, epochs))


def test_memory_maps_are_read_only_and_work(tmp_path: Path) -> None:
    data = _data()
    np.save(tmp_path / "features.npy", data.features)
    np.save(tmp_path / "targets.npy", data.targets)
    mapped = Arrays(
        np.load(tmp_path / "features.npy", mmap_mode="r"),
        np.load(tmp_path / "targets.npy", mmap_mode="r"),
    )
    one, two = _learner(), _learner()
    one.fit(data, PLAN, rng=np.random.default_rng(0))
    two.fit(mapped, PLAN, rng=np.random.default_rng(0))
    assert one.evaluate(data)[0] == two.evaluate(mapped)[0]
    assert np.array_equal(one.predict(data.features), two.predict(mapped.features))


@pytest.mark.parametrize("optimizer", ["sgd", "Adam", "torch.optim:AdamW", "torch.optim.RMSprop"])
def test_optimizers_by_name(optimizer: str) -> None:
    plan = FitPlan(batch_size=8, epochs=15, lr=0.05, optimizer=optimizer)
    learner = _learner()
    learner.fit(_data(), plan, rng=np.random.default_rng(0))
    assert learner.evaluate(_data())[0]["roc_auc"] > 0.7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "adem"}, "did you mean 'adam'"),
        ({"optimizer": "nowhere:Sgd"}, "was not found"),
        ({"optimizer": "torch.optim:Optimizer.step"}, "was not found"),
        ({"optimizer": "torch.optim.optimizer:torch"}, "not a class"),
        ({"optimizer": "adam", "momentum": 0.9}, "no argument 'momentum'"),
        ({"optimizer": "lbfgs"}, "several times a step"),
        ({"momentum": -1.0}, "momentum"),
        ({"optimizer_args": {"nesterof": True}}, "did you mean 'nesterov'"),
        ({"batch_size": 0}, "batch_size"),
        ({"epochs": 1}, "exactly one"),
        ({"steps": 0}, "steps"),
        ({"lr": math.nan}, "lr"),
    ],
)
def test_odd_plans_are_refused(change: dict[str, object], message: str) -> None:
    def fit() -> None:
        plan = FitPlan(**({"batch_size": 8, "steps": 1} | change))  # type: ignore[arg-type]
        _learner().fit(_data(), plan, rng=np.random.default_rng(0))

    with pytest.raises(JobInvalid, match=message):
        fit()


def test_divergence_names_what_and_holds_no_value() -> None:
    plan = FitPlan(batch_size=8, steps=50, lr=1e30)
    with pytest.raises(ModelDiverged, match="local step"):
        _learner().fit(_data(), plan, rng=np.random.default_rng(0))
    plan = FitPlan(batch_size=50, steps=1, lr=3e38)
    steep = Arrays(_data().features * 1e3, _data().targets)
    with pytest.raises(ModelDiverged, match=r"layers\.0\.weight"):
        _learner().fit(steep, plan, rng=np.random.default_rng(0))

    class Nan(LogisticRegression):
        def forward(self, features: Tensor) -> Tensor:
            return super().forward(features) * math.nan

    learner = TorchLearner(Nan(4), Task.of("binary"))
    with pytest.raises(ModelDiverged, match="loss is NaN"):
        learner.fit(_data(), PLAN, rng=np.random.default_rng(0))
    with pytest.raises(ModelDiverged, match="outputs hold NaN"):
        learner.evaluate(_data())


def test_no_rows_to_train_is_a_clear_error_and_none_to_test_is_not() -> None:
    learner = _learner()
    with pytest.raises(SchemaDrift, match="no training rows"):
        learner.fit(_data(0), PLAN, rng=np.random.default_rng(0))
    metrics, sums = learner.evaluate(_data(0))
    assert metrics == {}
    assert sums["n"] == 0
    assert learner.predict(np.zeros((0, 4), np.float32)).shape == (0,)


def test_one_class_and_one_row_train_and_evaluate() -> None:
    data = _data(7)
    single = Arrays(data.features, np.ones(7, int))
    learner = _learner()
    learner.fit(single, PLAN, rng=np.random.default_rng(0))
    assert "roc_auc" not in learner.evaluate(single)[0]
    learner.fit(_data(1), PLAN, rng=np.random.default_rng(0))


def test_mode_is_restored_and_evaluation_uses_no_dropout() -> None:
    learner = _learner(dropout=0.9)
    learner.model.train()
    assert learner.evaluate(_data())[0] == learner.evaluate(_data())[0]
    assert learner.model.training
    learner.model.eval()
    learner.fit(_data(), PLAN, rng=np.random.default_rng(0))
    assert not learner.model.training


def test_a_failing_forward_names_its_place_and_no_value() -> None:
    class Broken(LogisticRegression):
        def forward(self, features: Tensor) -> Tensor:
            raise ValueError(f"secret {features[0, 0].item()}")

    learner = TorchLearner(Broken(4), Task.of("binary"))
    with pytest.raises(JobInvalid, match=r"ValueError at test_torch_learner.py:\d+") as caught:
        learner.fit(_data(), PLAN, rng=np.random.default_rng(0))
    assert "secret" not in str(caught.value)
    with pytest.raises(JobInvalid, match=r"shape \(8, 4\)"):
        TorchLearner(LogisticRegression(5), Task.of("binary")).fit(
            _data(), PLAN, rng=np.random.default_rng(0)
        )


def test_arrays_are_checked() -> None:
    with pytest.raises(ValueError, match="float32"):
        Arrays(np.zeros((2, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="3 targets"):
        Arrays(np.zeros((2, 2), np.float32), np.zeros(3))


def test_threads_do_not_disturb_one_another() -> None:
    """Global generators belong to the process; two silos of one process must not share draws."""

    def fit(seed: int) -> bytes:
        learner = TorchLearner(_learner_of(seed), Task.of("binary"))
        learner.fit(_data(), PLAN, rng=np.random.default_rng(seed))
        return b"".join(value.tobytes() for value in learner.parameters().values())

    def _learner_of(seed: int) -> nn.Module:
        spec = {"class": "consilo.learners.tabular:MLP", "args": {"dropout": 0.5}}
        return build_model(spec, num_inputs=4, num_outputs=1, seed=seed)

    alone = [fit(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(fit, range(4))) == alone
