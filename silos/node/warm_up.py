"""Import what training needs before a silo's node forks, so that a child starts at once."""

from __future__ import annotations


def warm() -> None:
    """Import torch and Opacus and take one plain and one private step on made-up rows.

    Leaves torch with one thread and starts no other, which makes forking afterwards safe.
    """
    import numpy as np
    import torch
    import torch._dynamo

    torch.set_num_threads(1)

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
