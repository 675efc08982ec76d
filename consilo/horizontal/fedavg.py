"""Federated averaging (McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, Algorithm 1).

Differences from the paper: silos send the delta ``server - silo`` rather than their weights, which
is the same average; weights are the rows each silo trains on.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from consilo.horizontal.training import TRAINING, Training, TrainState
from consilo.wire.params import Params, subtract


class FedAvg(Training):
    """The new global model is the silos' mean, weighted by rows."""

    reads: ClassVar[tuple[str, ...] | None] = TRAINING

    def step(self, state: TrainState, mean_delta: Params) -> TrainState:
        """Return the state with the mean delta taken off the global model."""
        return replace(state, params=subtract(state.params, mean_delta))
