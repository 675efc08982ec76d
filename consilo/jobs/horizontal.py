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

    @model_validator(mode="after")
    def _parts_are_of_one_kind(self) -> Self:
        name = self.protocol.name
        # Before there was a kind for it, a match was asked by a job of this one.
        if self.model is None and self.match is None:
            raise ValueError(f"model: {name} trains a model; say which, as module:Class")
        self._refuse_protocol(fits=":" in name or not name.startswith("vertical_"))
        return self
