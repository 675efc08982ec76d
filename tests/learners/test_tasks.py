from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import Tensor, nn

from consilo.errors import JobInvalid
from consilo.learners.tabular import MLP, LinearRegression, LogisticRegression
from consilo.learners.tasks import Task
from consilo.learners.torch_learner import Arrays, FitPlan, TorchLearner
from consilo.metrics import merge, metrics_of

PLAN = FitPlan(batch_size=16, epochs=30, lr=0.1)


def _features(num_rows: int, num_inputs: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(num_rows, num_inputs)).astype(np.float32)


def _fit(learner: TorchLearner, data: Arrays) -> dict[str, float]:
    learner.fit(data, PLAN, rng=np.random.default_rng(0))
    return learner.evaluate(data)[0]


def test_outputs_follow_the_targets() -> None:
    assert Task.of("binary").num_outputs == 1
    assert Task.of("multiclass", num_classes=5).num_outputs == 5
    assert Task.of("regression", num_targets=2).num_outputs == 2
    assert Task.of("custom", num_targets=2).num_outputs == 1
    assert Task.of("custom", num_targets=2, num_outputs=3).num_outputs == 3


@pytest.mark.parametrize(
    ("kind", "sizes", "message"),
    [
        ("ranking", {}, "unknown task"),
        ("binary", {"num_classes": 3}, "2 classes"),
        ("multiclass", {"num_classes": 1}, "2 or more"),
        ("binary", {"num_targets": 2}, "one target column"),
    ],
)
def test_odd_tasks_are_refused(kind: str, sizes: dict[str, int], message: str) -> None:
    with pytest.raises(JobInvalid, match=message):
        Task.of(kind, **sizes)  # type: ignore[arg-type]


def test_binary_learns_and_predicts_probabilities() -> None:
    features = _features(200, 3)
    data = Arrays(features, (features[:, 0] > 0).astype(np.int8))
    learner = TorchLearner(LogisticRegression(3), Task.of("binary"))
    assert _fit(learner, data)["roc_auc"] > 0.98
    probabilities = learner.predict(features)
    assert probabilities.shape == (200,)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    logits = learner.model(torch.from_numpy(features)).detach().numpy().flatten()
    np.testing.assert_allclose(probabilities, 1 / (1 + np.exp(-logits)), rtol=1e-5)


def test_two_logits_mean_the_same_as_cross_entropy() -> None:
    outputs = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    labels = np.arange(20) % 2
    task, model = Task.of("binary"), nn.Identity()
    targets = task.encode(labels)
    found = task.loss_of(model)(task.shape_outputs(outputs), targets)
    expected = nn.functional.cross_entropy(outputs, torch.from_numpy(labels))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)
    np.testing.assert_allclose(
        task.predictions(task.shape_outputs(outputs).numpy()),
        softmax(outputs.numpy(), axis=1)[:, 1],
        rtol=1e-5,
    )


def test_multiclass_learns() -> None:
    features = _features(300, 4)
    data = Arrays(features, features[:, :3].argmax(1))
    learner = TorchLearner(MLP(4, 3, hidden=(16,)), Task.of("multiclass", num_classes=3))
    found = _fit(learner, data)
    assert found["accuracy"] > 0.9
    assert {"accuracy", "log_loss", "f1_macro", "recall/2", "roc_auc/0"} <= set(found)
    np.testing.assert_allclose(learner.predict(features).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("num_targets", [1, 2])
def test_regression_learns(num_targets: int) -> None:
    features = _features(200, 3)
    targets = (features @ np.ones((3, num_targets), np.float32) + 2.0).squeeze()
    task = Task.of("regression", num_targets=num_targets)
    learner = TorchLearner(LinearRegression(3, num_targets), task)
    found = _fit(learner, Arrays(features, targets))
    assert found["r2"] > 0.99
    assert found["rmse"] < 0.1
    assert learner.predict(features).shape == targets.shape


@pytest.mark.parametrize(
    ("task", "num_outputs"),
    [
        (Task.of("binary"), 3),
        (Task.of("multiclass", num_classes=3), 2),
        (Task.of("regression", num_targets=2), 1),
    ],
)
def test_wrong_output_shapes_are_a_clear_error(task: Task, num_outputs: int) -> None:
    learner = TorchLearner(LogisticRegression(2, num_outputs), task)
    with pytest.raises(JobInvalid, match=f"found \\({num_outputs},\\)"):
        learner.predict(_features(4, 2))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_row_losses_average_to_the_loss(kind: str) -> None:
    task = Task.of(kind, num_classes=2)  # type: ignore[arg-type]
    model = LogisticRegression(3, task.num_outputs, zero_init=False)
    outputs = task.shape_outputs(model(torch.from_numpy(_features(9, 3))))
    targets = task.encode(np.arange(9) % 2)
    rows = task.row_losses(model)(outputs, targets)
    assert rows.shape == (9,)
    assert rows.mean().item() == pytest.approx(task.loss_of(model)(outputs, targets).item())


class Cox(nn.Module):
    """Survival: targets are (time, event); the negative partial log likelihood."""

    def __init__(self, num_inputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_inputs, 1)

    def forward(self, features: Tensor) -> Tensor:
        risk: Tensor = self.linear(features)
        return risk

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        risk, time, event = outputs.flatten(), targets[:, 0], targets[:, 1]
        order = time.argsort(descending=True)
        partial = (risk[order] - risk[order].logcumsumexp(0)) * event[order]
        return -partial.sum() / event.sum().clamp(min=1)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        risk, time, event = outputs.flatten(), targets[:, 0], targets[:, 1]
        usable = (time[:, None] < time[None, :]) & (event[:, None] == 1)
        right = (risk[:, None] > risk[None, :]) & usable
        return {"c_index": float(right.sum() / usable.sum()) if usable.any() else math.nan}


def test_survival_with_the_models_own_loss_and_metrics() -> None:
    features = _features(200, 3)
    rng = np.random.default_rng(1)
    time = rng.exponential(np.exp(-2 * features[:, 0]))
    targets = np.stack([time, rng.integers(0, 2, 200)], axis=1)
    learner = TorchLearner(Cox(3), Task.of("custom", num_targets=2))
    data = Arrays(features, targets)
    found = _fit(learner, data)
    assert found["c_index"] > 0.8
    assert set(found) == {"loss", "c_index"}
    halves = [Arrays(features[part], targets[part]) for part in (slice(0, 50), slice(50, 200))]
    parts = [learner.evaluate(half) for half in halves]
    merged = metrics_of(merge(sums for _, sums in parts))
    expected = 0.25 * parts[0][0]["c_index"] + 0.75 * parts[1][0]["c_index"]
    assert merged["silo_mean/c_index"] == pytest.approx(expected)
    censored = Arrays(features, np.stack([time, np.zeros(200)], axis=1))
    assert "c_index" not in learner.evaluate(censored)[0]
    assert learner.evaluate(Arrays(features[:0], targets[:0]))[0] == {}


def test_functions_named_by_the_job_win(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def loss(outputs, targets):\n    return (outputs - targets).abs().mean()\n"
        "def metrics(outputs, targets):\n    return {'half': 0.5}\n"
        "def broken(outputs, targets):\n    raise KeyError(str(targets))\n"
        "def odd(outputs, targets):\n    return 3\n"
    )

    def learner(loss: str, metrics: str) -> TorchLearner:
        task = Task.of("regression", loss=loss, metrics=metrics, search_path=[tmp_path])
        return TorchLearner(LinearRegression(2), task)

    data = Arrays(_features(10, 2), np.ones(10))
    found = learner("mine:loss", "mine:metrics").evaluate(data)[0]
    assert found["half"] == 0.5
    assert found["loss"] == pytest.approx(1.0)
    assert "rmse" in found
    with pytest.raises(JobInvalid, match=r"raised KeyError at mine.py:6$"):
        learner("mine:loss", "mine:broken").evaluate(data)
    with pytest.raises(JobInvalid, match="returned int"):
        learner("mine:loss", "mine:odd").evaluate(data)
    with pytest.raises(JobInvalid, match="did you mean 'loss'"):
        learner("mine:losss", "mine:metrics").fit(data, PLAN, rng=np.random.default_rng(0))
    with pytest.raises(JobInvalid, match="raised KeyError"):
        learner("mine:broken", "mine:metrics").fit(data, PLAN, rng=np.random.default_rng(0))


def test_a_custom_task_needs_a_loss() -> None:
    learner = TorchLearner(LogisticRegression(2), Task.of("custom"))
    with pytest.raises(JobInvalid, match="needs a loss"):
        learner.fit(Arrays(_features(4, 2), np.ones(4)), PLAN, rng=np.random.default_rng(0))


def test_targets_are_copied_so_that_a_loss_cannot_change_the_data() -> None:
    targets = np.arange(4, dtype=np.float32)
    Task.of("regression").encode(targets).zero_()
    assert targets[3] == 3
