"""What all kinds of jobs share that make numbers of a contract's columns."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob
from consilo.jobs.job import Evaluation, Features, Job


class TableJob(Job):
    """A job over the contract's columns: how they become numbers, and of which rows."""

    task: Literal["binary", "multiclass", "regression", "custom"] = "binary"
    features: Features = Features()
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _subjects_have_no_exact_statistics(self) -> Self:
        asked, standardize = self.privacy, self.features.standardize
        if asked is None or not asked.hides_subjects or asked.statistics_epsilon is not None:
            return self
        if standardize in ("global", "silo"):
            raise ValueError(
                f"features.standardize: with privacy.unit 'subject', '{standardize}' needs "
                "privacy.statistics_epsilon, since exact moments tell of single rows; or use "
                "'contract'"
            )
        return self

    def require_subject(self, contract: Contract) -> None:
        """Raise `IncompatibleJob` where subjects are hidden, and the contract names none."""
        if self.hides_subjects and contract.subject is None:
            raise IncompatibleJob(
                f"privacy.unit: 'subject' needs a column of {contract.ref} with the role subject, "
                "which says whose row it is; give the contract one, or use unit 'record'"
            )
