"""The section ``promotion``: what a candidate must bring before it becomes the champion.

The gates themselves are `consilo.decisions.gates`; who may decide is `consilo.decisions.reviewers`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from consilo.config import Config
from consilo.jobs.sections.span import Span, span_s
from consilo.silo_name import SiloName


class Promotion(Config):
    """What a candidate is held to, and who decides; written on the registered model's tags."""

    metric: str = Field(
        "roc_auc", description="the figure of merit of min_gain and per_silo_tolerance"
    )
    per_silo_tolerance: float = Field(
        0.02,
        ge=0,
        description="by how much the metric may be worse than the champion's in any silo that "
        "tells both; a silo that tells its vote alone judges by its own policy",
    )
    approvals: int = Field(
        1, ge=1, description="so many reviewers must approve; above 1 they must be enrolled"
    )
    four_eyes: bool = Field(
        False,
        description="at least one who approves is not the one who started the candidate's run; "
        "reviewers must be enrolled",
    )
    quorum: int | None = Field(
        None,
        ge=0,
        description="votes of so many silos, whatever they say; 1 unless said, 0 in a vertical job",
    )
    mandatory: tuple[SiloName, ...] = Field((), description="silos that must have voted")
    min_gain: float | None = Field(
        None,
        allow_inf_nan=False,
        description="by how much the metric must be above the champion's, over the held-out rows "
        "of the silos that tell both; the first champion has nothing to gain over",
    )
    max_no: int = Field(0, ge=0, description="so many silos may vote no; one more blocks it")
    max_age: Span = Field(
        None,
        description="a candidate whose run ended longer ago is not promoted",
        examples=["30d", "12h"],
    )
    aliases: Literal["report", "put_back"] = Field(
        "report",
        description="what is done with an alias that somebody has moved by hand. report: 'consilo "
        "status' says so until people decide; put_back: it is put back, too",
    )

    @property
    def max_age_s(self) -> float | None:
        """How many seconds ago a candidate's run may have ended; None for any time."""
        return None if self.max_age is None else span_s(self.max_age)

    @property
    def needs_reviewers(self) -> int:
        """How many reviewers must be enrolled for a decision to be possible; 0: none need be."""
        return self.approvals if self.four_eyes or self.approvals > 1 else 0

    def votes_needed(self, kind: str) -> int:
        """Return of how many silos a vote is needed.

        Args:
            kind: of the job.
        """
        if self.quorum is None:
            return 1 if kind == "horizontal" else 0
        return self.quorum
