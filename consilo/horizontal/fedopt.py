"""FedOpt (Reddi et al. 2021, Algorithms 1 and 2): the server treats the mean delta as a gradient.

Any torch optimiser can be the server's. FedAdam, FedYogi and FedAdagrad are the paper's own. With
`torch.optim:SGD` and a learning rate of 1 it is FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from consilo.errors import IncompatibleJob, JobInvalid
from consilo.horizontal.training import TRAINING, Training, TrainState
from consilo.jobs.model_job import ModelJob
from consilo.learners.modules import resolve
from consilo.reduce.arriving import Arriving
from consilo.wire.params import Params

SERVER_STEP = (
    *TRAINING,
    "protocol.server_lr",
    "protocol.betas",
    "protocol.tau",
    "protocol.args",
)


class FedOpt(Training):
    """The server optimiser is ``protocol.optimizer``, with ``server_lr`` and ``args``."""

    reads: ClassVar[tuple[str, ...] | None] = (*SERVER_STEP, "protocol.optimizer")
    optimizer = ""

    def __init__(self, job: ModelJob) -> None:
        super().__init__(job)
        spec = job.protocol
        path = self.optimizer or spec.optimizer
        if not path:
            raise IncompatibleJob(
                "protocol.optimizer: fedopt needs a torch optimiser's path, such as torch.optim:SGD"
            )
        if spec.server_lr is None:
            raise IncompatibleJob(f"protocol.server_lr: {spec.name} needs a server learning rate")
        self.path = path
        named = {"lr": "server_lr", "betas": "betas", "tau": "tau"}
        twice = [f"{each} (as protocol.{named[each]})" for each in spec.args if each in named]
        if twice:
            raise IncompatibleJob(f"protocol.args: say it outside of args: {', '.join(twice)}")
        self.settings = {"lr": spec.server_lr, **spec.args}
        if spec.betas is not None:
            self.settings["betas"] = spec.betas
        if spec.tau is not None:
            self.settings["tau"] = spec.tau

    def prepare(self) -> None:
        """Check the optimiser and its settings by a step on nothing.

        Raises:
            IncompatibleJob: where the optimiser cannot be the server's.
        """
        try:
            self._kind()
        except JobInvalid as cause:
            raise IncompatibleJob(f"protocol.optimizer: {'; '.join(cause.findings)}") from None
        try:
            zero = {"weight": np.zeros(1, np.float32)}
            self.step(TrainState(zero, 1), zero)
        except (TypeError, ValueError) as cause:
            raise IncompatibleJob(f"protocol: {self.path} refuses: {cause}") from None

    def _kind(self) -> type[torch.optim.Optimizer]:
        found: type[torch.optim.Optimizer] = resolve(
            self.path, self.search_path, what="protocol.optimizer", of=torch.optim.Optimizer
        )
        return found

    def step(self, state: TrainState, mean_delta: Params) -> TrainState:
        """Return the state after one server step along the mean delta."""
        tensors = {name: torch.from_numpy(value.copy()) for name, value in state.params.items()}
        parameters = [torch.nn.Parameter(value) for value in tensors.values()]
        optimizer = self._kind()(parameters, **self.settings)
        if state.server:
            kept = optimizer.state_dict()
            kept["state"] = {int(key): _tensors(value) for key, value in state.server.items()}
            optimizer.load_state_dict(kept)
        for parameter, name in zip(parameters, tensors, strict=True):
            parameter.grad = torch.from_numpy(mean_delta[name]).to(parameter.dtype)
        optimizer.step()
        server = {
            str(key): _arrays(value) for key, value in optimizer.state_dict()["state"].items()
        }
        params = {
            name: parameter.detach().numpy()
            for parameter, name in zip(parameters, tensors, strict=True)
        }
        return replace(state, params=params, server=server)


class FedBuff(FedOpt):
    """FedBuff (Nguyen et al. 2022, Algorithm 1): a server step for every ``buffer`` answers.

    Nobody waits for the slowest: silos train side by side on the newest model that there was when
    they were asked, and answers weigh 1 / √(1 + staleness). What differs from the paper is said in
    `consilo.reduce.arriving`; the server's optimiser is SGD with a learning rate of 1 unless said.
    """

    reads: ClassVar[tuple[str, ...] | None] = (
        *(each for each in SERVER_STEP if each != "reduce*"),
        "protocol.optimizer",
        "protocol.buffer",
        "protocol.max_staleness",
    )
    reduces = False

    def __init__(self, job: ModelJob) -> None:
        spec = job.protocol
        unsaid = {
            "optimizer": spec.optimizer or "torch.optim:SGD",
            "server_lr": 1.0 if spec.server_lr is None else spec.server_lr,
        }
        super().__init__(job.model_copy(update={"protocol": spec.model_copy(update=unsaid)}))
        if job.quorum.late != "drop":
            raise IncompatibleJob("quorum.late: fedbuff takes late answers by itself; leave it out")

    def arriving(self) -> Arriving:
        """Return how answers are taken: as many as ``buffer`` says, or the quorum's silos."""
        spec = self.job.protocol
        enough = self.job.quorum.min_silos if spec.buffer is None else spec.buffer
        return Arriving(enough=enough, max_staleness=spec.max_staleness)


class FedAdam(FedOpt):
    """The paper's FedAdam."""

    reads: ClassVar[tuple[str, ...] | None] = SERVER_STEP
    optimizer = "consilo.horizontal.server_optimizers:Adam"


class FedYogi(FedOpt):
    """The paper's FedYogi."""

    reads: ClassVar[tuple[str, ...] | None] = SERVER_STEP
    optimizer = "consilo.horizontal.server_optimizers:Yogi"


class FedAdagrad(FedOpt):
    """The paper's FedAdagrad."""

    reads: ClassVar[tuple[str, ...] | None] = SERVER_STEP
    optimizer = "consilo.horizontal.server_optimizers:Adagrad"


def _tensors(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value
        for key, value in state.items()
    }


def _arrays(state: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.numpy() if isinstance(value, torch.Tensor) else value
        for key, value in state.items()
    }
