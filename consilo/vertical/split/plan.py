"""Which networks a split job trains side by side, and on which matched rows, step by step.

The final network is the one whose parts the silos keep. Beside it, in the same messages, others are
trained that say what it is worth: ``joined``, with some rows held out; ``shuffled``, the same with
the feature silos' rows in a wrong order; ``label_only``, by the label silo's columns alone, which
sends nothing. All silos work the plan out for themselves, from the job and the number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from consilo.jobs.holders import Holders
from consilo.jobs.job import LEAST_NORM, MOST_NORM, ModelSpec
from consilo.jobs.model_job import ModelJob
from consilo.kernel import seeds
from consilo.vertical.blocks import Array, folds_of

Way = Literal["joined", "shuffled", "label_only"]
FINAL = "final"
"""The network whose parts the silos keep."""


def _spec(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


class SplitSettings(Holders):
    """``protocol.args`` of vertical_split; the job's model is the top model."""

    width: int = Field(8, ge=1, description="numbers in a silo's embedding of a row")
    bottom: Annotated[ModelSpec, BeforeValidator(_spec)] = ModelSpec(
        name="consilo.learners.tabular:MLP", args={"hidden": [32]}
    )
    learning_rates: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="silo → learning rate; local.lr for the others"
    )
    clip: float | None = Field(
        None,
        ge=LEAST_NORM,
        le=MOST_NORM,
        description="largest L2 norm of a row's embedding; needed with privacy",
    )
    bits: int | None = Field(
        None, ge=1, le=8, description="per number that crosses the cut; float32 by default"
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="of a cross-validation, whose networks are trained beside the final one, which "
        "then learns from all rows; without it, evaluation.holdout of the rows are held out",
    )
    controls: bool | None = Field(
        None,
        description="train label_only and shuffled networks besides, to compare with; by default, "
        "unless the job has a privacy section",
    )

    @model_validator(mode="after")
    def _rates_have_silos(self) -> Self:
        unknown = sorted(set(self.learning_rates) - set(self.columns))
        if unknown:
            raise ValueError(f"learning_rates: no silo is called {', '.join(unknown)}")
        return self


@dataclass(frozen=True)
class Network:
    """One of the networks that are trained side by side.

    Args:
        name: as its state and its batches are called.
        way: what it learns from.
        held: which part of the rows is held out and judges it; None learns from all.
    """

    name: str
    way: Way
    held: int | None


@dataclass(frozen=True)
class Plan:
    """Which networks there are, and which places of the joint order a step trains them on.

    Steps count from 1, over all epochs. An epoch has as many as its longest network has batches; a
    network that learns from fewer rows sits out the last ones.

    Args:
        job: gives seed, batch size, epochs and the held-out share.
        folds: see `SplitSettings`.
        controls: whether there are networks to compare with.
        num_rows: matched rows.
    """

    job: ModelJob
    folds: int | None
    controls: bool
    num_rows: int

    @classmethod
    def of(cls, job: ModelJob, settings: SplitSettings, num_rows: int) -> Self:
        """Return the plan of a job."""
        controls = job.privacy is None if settings.controls is None else settings.controls
        return cls(job, settings.folds, controls, num_rows)

    @cached_property
    def networks(self) -> tuple[Network, ...]:
        """All networks, the final one first."""
        networks = [Network(FINAL, "joined", 0 if self.folds is None else None)]
        for held in range(self.folds or 0):
            networks.append(Network(f"joined-{held}", "joined", held))
        ways: tuple[Way, ...] = ("shuffled", "label_only") if self.controls else ()
        for way in ways:
            networks += [Network(f"{way}-{held}", way, held) for held in range(self.folds or 1)]
        return tuple(networks)

    @property
    def crossing(self) -> tuple[Network, ...]:
        """The networks with a part in every silo."""
        return tuple(each for each in self.networks if each.way != "label_only")

    def learnt(self, network: Network) -> Array:
        """Return the places that a network learns from."""
        return np.flatnonzero(self._parts != (-2 if network.held is None else network.held))

    def held_out(self, network: Network) -> Array:
        """Return the places that judge a network."""
        if network.held is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(self._parts == network.held)

    def batch(self, network: Network, step: int) -> Array:
        """Return the places of a network's batch at a step; none where it sits out."""
        epoch, at = divmod(step - 1, self.per_epoch)
        places = self.learnt(network)
        size = self.job.local.batch_size
        order = _order(self.job.seed, epoch, len(places))[at * size : (at + 1) * size]
        return places[order]

    def batches(self, networks: Sequence[Network], step: int) -> list[tuple[Network, Array]]:
        """Return the networks that learn at a step, each with its places."""
        placed = [(each, self.batch(each, step)) for each in networks]
        return [(each, places) for each, places in placed if len(places)]

    def judged(self, networks: Sequence[Network]) -> list[tuple[Network, Array]]:
        """Return the networks that are judged, each with its places."""
        placed = [(each, self.held_out(each)) for each in networks]
        return [(each, places) for each, places in placed if len(places)]

    def theirs(self, network: Network, places: Array) -> Array:
        """Return which rows of the feature silos go with the label silo's at some places."""
        if network.way != "shuffled":
            return places
        wrong = seeds.generator(self.job.seed, "shuffled join").permutation(self.num_rows)
        return np.asarray(wrong[places])

    @cached_property
    def per_epoch(self) -> int:
        """Steps in an epoch."""
        longest = max(len(self.learnt(each)) for each in self.networks)
        return -(-longest // self.job.local.batch_size)

    @property
    def total(self) -> int:
        """Steps in all epochs."""
        return self.per_epoch * self.job.protocol.rounds

    def steps(self, epoch: int) -> range:
        """Return the steps of an epoch, from 1."""
        return range((epoch - 1) * self.per_epoch + 1, epoch * self.per_epoch + 1)

    @cached_property
    def _parts(self) -> Array:
        """Which part each place belongs to: a fold's number; or 0 where held out, else -1."""
        if self.folds is not None:
            return folds_of(self.num_rows, self.folds)
        held = min(max(round(self.job.evaluation.holdout * self.num_rows), 1), self.num_rows - 1)
        return np.where(np.arange(self.num_rows) < self.num_rows - held, -1, 0)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> Array:
    return seeds.generator(seed, "vertical order", epoch).permutation(size)
