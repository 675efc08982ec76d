"""What all kinds of jobs share that make numbers of a contract's columns."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import model_validator

from consilo.contracts.contract import Contract
from consilo.errors import IncompatibleJob
from consilo.jobs.job import Evaluation, Features, Job


class TableJob(Job):
    """A job over the contract's columns: how they become numbers, and of which rows."""

    task: Literal["binary", "multiclass", "regression", "custom"] = "binary"
    features: Features = Features()
    evaluation: Evaluation = Evaluation()

    trains: ClassVar[bool] = False
    """Whether a model is made."""

    @property
    def describes_columns(self) -> bool:
        """Whether moments of the features are asked for, to scale them or to show them."""
        return True

    @model_validator(mode="after")
    def _a_target_of_values_is_standardised(self) -> Self:
        asked = self.features.standardize_target
        if asked is None:
            return self
        if not self.trains or self.task != "regression":
            what = f"of the task {self.task}" if self.trains else "that trains nothing"
            raise ValueError(
                "features.standardize_target: only a regression learns a target of values; a job "
                f"{what} leaves it out"
            )
        if asked == "global" and self.privacy is not None:
            raise ValueError(
                "features.standardize_target: with privacy, exact moments of the target do not "
                "leave a silo; use 'contract', its range, or 'none'"
            )
        return self

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
