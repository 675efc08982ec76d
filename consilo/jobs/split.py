"""Which rows are held out, where a job names them: by a column's values, by time, or a fold.

```yaml
evaluation: {split: {column: fold, test: [test]}}         # the others are learnt from
evaluation: {split: {column: fold, test: [c], train: [a, b]}}
evaluation: {split: {column: visited, after: 2024-01-01}} # later rows judge, earlier ones teach
evaluation: {split: {folds: 5, fold: 2}}                  # the second of five parts judges
```
"""

from __future__ import annotations

from datetime import date
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from consilo.config import Config
from consilo.contracts.rules import Finite, Value


class Split(Config):
    """One way to say it: ``column`` with ``test`` or ``after``, or ``folds`` with ``fold``."""

    column: str | None = Field(
        None, min_length=1, description="the contract's column that says which rows are held out"
    )
    test: tuple[Value, ...] | None = Field(
        None, min_length=1, description="its values of rows that are held out"
    )
    train: tuple[Value, ...] | None = Field(
        None,
        min_length=1,
        description="its values of rows that are learnt from; unless said, all others",
    )
    after: Finite | date | None = Field(
        None, description="held out is what is later than this day, or above this number"
    )
    as_feature: bool = Field(
        False, description="the column is an input of the model, too, where its role is feature"
    )
    folds: int | None = Field(
        None, ge=2, le=50, description="into how many parts rows, or subjects, fall"
    )
    fold: int | None = Field(None, ge=1, description="the part that is held out, from 1")

    @field_validator("after", mode="before")
    @classmethod
    def _is_no_truth(cls, value: Any) -> Any:
        if isinstance(value, bool):
            raise ValueError(f"expected a day, as 2024-01-01, or a number, found {value}")
        return value

    @model_validator(mode="after")
    def _is_one_way(self) -> Self:
        by_values = self.test is not None
        by_time = self.after is not None
        by_fold = self.folds is not None or self.fold is not None
        if by_values + by_time + by_fold != 1:
            raise ValueError(
                "give one of three: column with test, column with after, or folds with fold"
            )
        if by_fold:
            if self.folds is None or self.fold is None:
                raise ValueError("folds and fold belong together: folds: 5, fold: 1")
            if self.fold > self.folds:
                raise ValueError(f"fold: there are {self.folds} folds, found {self.fold}")
            extra = [name for name in ("column", "train") if getattr(self, name) is not None]
            extra += ["as_feature"] if self.as_feature else []
            if extra:
                raise ValueError(f"{extra[0]}: folds are by row or subject, of no column")
            return self
        if self.column is None:
            raise ValueError("column: say which column of the contract decides")
        if self.train is not None and not by_values:
            raise ValueError("train: goes with test; with after, the other rows are learnt from")
        both = [each for each in self.train or () if each in (self.test or ())]
        if both:
            raise ValueError(f"{both[0]!r} is in test and in train")
        return self
