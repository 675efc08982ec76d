"""Vertical jobs: silos with different columns of the same people train the parts of one model."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from consilo.jobs.joint import JointJob


class Vertical(JointJob):
    """What is trained over silos that hold different columns of the same people."""

    kind: Literal["vertical"] = Field(
        description="silos hold different columns of the same people",
    )

    @model_validator(mode="after")
    def _parts_are_of_one_kind(self) -> Self:
        name = self.protocol.name
        if self.model is None and name == "vertical_split":
            raise ValueError(f"model: {name} trains a model; say which, as module:Class")
        if name == "vertical_score":
            raise ValueError(f"kind: a vertical job trains; '{name}' needs the kind scoring")
        self._refuse_protocol(fits=":" in name or name.startswith("vertical_"))
        return self
