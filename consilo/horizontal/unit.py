"""What a process apart computes: a job's own model on the rows of one unit, once.

It runs the job's own code and sees nothing but those rows and public parameters;
`consilo.horizontal.apart` asks for its answers and believes none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from consilo.horizontal.features import Encoding
from consilo.horizontal.learning import learner_of
from consilo.jobs.job import Job
from consilo.learners.graphs import Untraceable, traced
from consilo.learners.torch_learner import TorchLearner, backward, call_loss
from consilo.privacy.dpsgd import check_private
from consilo.wire.params import Params
from consilo.wire.payload import pack


def answer(
    what: str,
    unit: Mapping[str, Any],
    *,
    job: Job,
    encoding: Encoding,
    params: Params,
    search_path: Sequence[Path],
) -> bytes:
    """Return what the job's own code says.

    Args:
        what: ``describe``, ``trace``, ``gradient`` or ``outputs``.
        unit: ``features`` (rows, inputs), ``targets`` and ``seed``, as far as the question has it;
            ``judged`` describes a model that is not trained.
        job: names the code.
        encoding: of the rows.
        params: what of the model's state was sent: every trained parameter.
        search_path: where the code lies.
    """
    if what == "describe":
        try:
            learner = _loaded(job, encoding, params, search_path)
            if "judged" in unit:
                _outputs(learner, _made_up(encoding))
            else:
                check_private(learner.model)
                _try(learner, encoding)
            trained = [name for name, _ in _trained(learner)]
            order = [name for name in learner.model.state_dict() if name in params]
            said: dict[str, Any] = {"trained": trained, "order": order, "fault": ""}
        except Exception as cause:
            said = {"trained": [], "order": [], "fault": f"{type(cause).__name__}: {cause}"}
        return pack(said)
    learner = _loaded(job, encoding, params, search_path)
    if what == "trace":
        return _trace(learner, encoding)
    if what == "outputs":
        return _outputs(learner, unit["features"]).tobytes()
    return _gradient(learner, unit)


def _loaded(
    job: Job, encoding: Encoding, params: Params, search_path: Sequence[Path]
) -> TorchLearner:
    learner = learner_of(job, encoding, search_path)
    learner.load(params)
    return learner


def _trained(learner: TorchLearner) -> list[tuple[str, torch.nn.Parameter]]:
    """Return what is trained, in the order of the model's state, in which the parameters travel."""
    named = dict(learner.model.named_parameters())
    return [(name, named[name]) for name in learner.trained]


def _gradient(learner: TorchLearner, unit: Mapping[str, Any]) -> bytes:
    """Return the gradient of the sum of the rows' losses, parameter by parameter."""
    learner.model.train()
    torch.default_generator.manual_seed(unit["seed"])  # of the CPU; 5 ms less than of all devices
    outputs = learner.forward(learner.model, torch.from_numpy(unit["features"]))
    losses = learner.task.row_losses(learner.model)
    backward(call_loss(losses, outputs, learner.task.encode(unit["targets"])).sum())
    made = [
        torch.zeros_like(each) if each.grad is None else each.grad for _, each in _trained(learner)
    ]
    return b"".join(each.detach().contiguous().numpy().tobytes() for each in made)


def _outputs(learner: TorchLearner, features: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    learner.model.eval()
    with torch.no_grad():
        found = learner.forward(learner.model, torch.from_numpy(features))
    return found.double().numpy()


def _trace(learner: TorchLearner, encoding: Encoding) -> bytes:
    """Return what the model does with one row, written down, or why that cannot be."""
    try:
        said: dict[str, Any] = {"graph": traced(learner.model, len(encoding.inputs)), "why": ""}
    except Untraceable as cause:
        said = {"graph": None, "why": str(cause)}
    return pack(said)


def _try(learner: TorchLearner, encoding: Encoding) -> None:
    """Compute all that will be asked, of a made-up row, so that honest faults are told."""
    features = _made_up(encoding)
    shape = (1,) if len(encoding.targets) == 1 else (1, len(encoding.targets))
    targets = np.zeros(shape, np.int64 if encoding.classes else np.float32)
    _gradient(learner, {"features": features, "targets": targets, "seed": 0})
    _outputs(learner, features)
    learner.model.zero_grad(set_to_none=True)


def _made_up(encoding: Encoding) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((1, len(encoding.inputs)), dtype=np.float32)
