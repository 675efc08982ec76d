"""Analytics jobs: questions about the silos' data and columns; nothing is trained."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from consilo.jobs.table_job import TableJob


class Analytics(TableJob):
    """What is asked about the columns: how they are spread, whether they drift, what they mean."""

    kind: Literal["analytics"] = Field(
        description="how the columns are spread over the silos, and whether the data drift"
    )
    kind_since: ClassVar[int] = 3

    @property
    def algorithm(self) -> str:
        """Moments and histograms."""
        return "statistics"
