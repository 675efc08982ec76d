"""Which silos a round is asked of, where it is not all of them: the job's section ``cohort``."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from consilo.config import Config

By = Literal["uniform", "rows", "availability", "poisson"]


class CohortSpec(Config):
    """A cohort is drawn for each round: so many silos, or each with a probability."""

    size: int | None = Field(
        None, ge=1, description="how many silos are drawn for a round; all, where there are fewer"
    )
    rate: float | None = Field(
        None,
        gt=0,
        le=1,
        description="by poisson: with which probability each silo is drawn for a round",
    )
    by: By = Field(
        "uniform",
        description="uniform: each silo is as likely; rows: as likely as it has rows; availability:"
        " first who answered when it was drawn last; poisson: each by a coin of its own",
    )
    every: int | None = Field(
        None,
        ge=1,
        description="by availability: each silo is drawn once in so many rounds at least; four "
        "times as many as it takes to draw all, unless said",
    )
    most_rounds: int | None = Field(
        None,
        ge=1,
        description="a silo is drawn for so many rounds at most; privacy.epsilon is planned for as "
        "many, and a silo refuses more. All rounds, unless said",
    )

    @model_validator(mode="after")
    def _says_how_many(self) -> Self:
        if self.by == "poisson" and (self.rate is None or self.size is not None):
            raise ValueError("by: poisson draws each silo by itself: give rate, and no size")
        if self.by != "poisson" and (self.size is None or self.rate is not None):
            raise ValueError(f"by: {self.by} draws so many: give size, and no rate")
        if self.every is not None and self.by != "availability":
            raise ValueError(
                f"every: only by: availability passes silos over; by: {self.by} has no use for it"
            )
        return self
