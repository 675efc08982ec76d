"""Import what training needs before a silo's node forks, so that a child starts at once."""

from __future__ import annotations


def warm() -> None:
    """Import torch and Opacus, take a plain and a private step on made-up rows, write a model down.

    What these import where they first need it, no process may that is locked in.

    Leaves torch with one thread and starts no other, which makes forking afterwards safe.
    """
    import numpy as np
    import torch
    import torch._dynamo

    torch.set_num_threads(1)

    from consilo.learners.graphs import traced
    from consilo.learners.tabular import LogisticRegression
    from consilo.learners.tasks import Task
    from consilo.learners.torch_learner import Arrays, FitPlan, TorchLearner
    from consilo.privacy.dpsgd import DPHook
    from consilo.privacy.noise import SecretStream

    data = Arrays(np.eye(2, dtype=np.float32), np.array([0, 1]))
    learner = TorchLearner(LogisticRegression(2), Task.of("binary"))
    plan = FitPlan(batch_size=2, steps=1, optimizer="adam")
    hook = DPHook(
        sigma=1.0, max_grad_norm=1.0, sample_rate=1.0, stream=SecretStream(bytes(32), "warm")
    )
    learner.fit(data, plan, rng=np.random.default_rng(0))
    learner.fit(data, plan, rng=np.random.default_rng(0), hooks=[hook])
    learner.evaluate(data)
    layers = torch.nn.LayerNorm(2), torch.nn.Dropout(0.1), torch.nn.TransformerEncoderLayer(2, 1, 2)
    traced(torch.nn.Sequential(torch.nn.Linear(2, 2), *layers), 2)
