"""Horizontal jobs: silos with the same columns of different people train one model together."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from consilo.jobs.model_job import ModelJob


class Horizontal(ModelJob):
    """What is trained over silos that hold the same columns of different people."""

    kind: Literal["horizontal"] = Field(
        "horizontal", description="silos hold the same columns of different people"
    )
    kind_since: ClassVar[int] = 1

    def young_keys(self) -> dict[str, int]:
        """Return what needs a younger silo: one that does not know it learns an unscaled target."""
        found = super().young_keys()
        if self.task == "regression" and self.features.standardize_target != "none":
            found.setdefault("features.standardize_target", 3)
        return found

    @model_validator(mode="after")
    def _parts_are_of_one_kind(self) -> Self:
        name = self.protocol.name
        # Before there was a kind for it, a match was asked by a job of this one.
        if self.model is None and self.match is None:
            raise ValueError(f"model: {name} trains a model; say which, as module:Class")
        self._refuse_protocol(fits=":" in name or not name.startswith("vertical_"))
        privacy = self.privacy
        if privacy is not None and self.features.standardize == "silo":
            asked = privacy.statistics_epsilon
            if asked is None:
                raise ValueError(
                    "features.standardize: with privacy, 'silo' needs privacy.statistics_epsilon: "
                    "each silo's mean and deviation are made noisy and paid for; or use 'contract'"
                )
            if 2 * asked >= privacy.epsilon:
                raise ValueError(
                    "privacy.statistics_epsilon: 'standardize: silo' asks twice, for class counts "
                    f"and for the scale, which must be below epsilon ({privacy.epsilon:g}) together"
                )
        return self
