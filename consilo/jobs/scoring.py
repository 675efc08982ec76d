"""Scoring jobs: rows of a match go through the parts of a vertical model; nothing is trained."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from consilo.contracts.contract import Contract
from consilo.jobs.holders import without_target
from consilo.jobs.joint import JointJob


class Scoring(JointJob):
    """Which rows are scored by which model; the scores stay in the label silo."""

    kind: Literal["scoring"] = Field(
        description="rows of a match go through the parts of a vertical model",
    )

    trains: ClassVar[bool] = False

    @model_validator(mode="after")
    def _parts_are_of_one_kind(self) -> Self:
        self._refuse_protocol(fits=self.protocol.name == "vertical_score")
        return self

    def part(self, contract: Contract, silo: str) -> Contract:
        """Return what one silo must keep of the joint contract; nobody has a target yet."""
        return without_target(super().part(contract, silo))
