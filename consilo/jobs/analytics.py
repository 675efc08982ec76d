"""Analytics jobs: questions about the silos' data and columns; nothing is trained."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from consilo.jobs.sections.questions import Questions
from consilo.jobs.table_job import TableJob


class Analytics(TableJob):
    """What is asked about the columns: how they are spread, whether they drift, what they mean."""

    kind: Literal["analytics"] = Field(
        description="how the columns are spread over the silos, and whether the data drift"
    )
    questions: Questions = Field(
        (),
        description="what people ask, on the bins, times and groups that the contract declares: "
        "counts, histogram, means, quantiles, correlations, survival; without any, moments and a "
        "histogram of every feature",
        examples=[["counts", {"ask": "survival", "by": ["arm"]}]],
    )
    kind_since: ClassVar[int] = 3

    @model_validator(mode="after")
    def _questions_are_of_all_rows(self) -> Self:
        if not self.questions:
            return self
        for section in ("features", "evaluation"):
            if getattr(self, section) != type(self).model_fields[section].get_default():
                raise ValueError(
                    f"{section}: questions are asked of all rows on what the contract declares; "
                    "leave the section out"
                )
        return self

    @property
    def describes_columns(self) -> bool:
        """Whether it is about how the features are spread: a job without questions of its own."""
        return not self.questions

    @property
    def algorithm(self) -> str:
        """Tables for people's questions; without any, moments and histograms."""
        return "declared_tables" if self.questions else "statistics"
