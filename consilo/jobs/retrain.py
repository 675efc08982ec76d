"""The section ``retrain``: when a run that only trains where it is due does train."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from consilo.config import Config
from consilo.finding_words import Form

Cause = Literal["drift", "performance"]
_DAYS = {"h": 1.0 / 24.0, "d": 1.0, "w": 7.0}
Age = Annotated[
    str, Form("[1-9][0-9]{0,4}[hdw]", "a number and its unit (h, d or w), such as 12h, 30d or 8w")
]
Index = Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)]
Part = Annotated[float, Field(gt=0, le=1)]


def _causes(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


class Retrain(Config):
    """When the job trains again; asked by a run ``when_due``, such as the nightly one."""

    when: Annotated[
        tuple[Cause, ...],
        BeforeValidator(_causes, json_schema_input_type=Cause | tuple[Cause, ...]),
    ] = Field(
        ("drift",),
        description="drift: the rows of a silo have moved since the last training, each silo says "
        "so of its own; performance: the champion has fallen behind, which no "
        "flow of this release finds out, so that a job with it is refused; none: the age alone",
    )
    psi: Index = Field(
        0.2, description="drift: a column's population stability index that is passed; 0.25 is much"
    )
    ks: Part = Field(
        0.2, description="drift: a number's largest distance between cumulative distributions"
    )
    missing: Part = Field(0.1, description="drift: change of the share of a column that is missing")
    unseen: Part = Field(
        0.05, description="drift: share of a column's rows with values that were never there before"
    )
    silos: int = Field(1, ge=1, description="drift: so many silos must have drifted")
    max_age: Age | None = Field(
        None, description="trains at the latest this long after the last training"
    )
    min_age: Age | None = Field(
        None, description="asks nobody, and does not train, before the last training is so old"
    )

    @property
    def asks_silos(self) -> bool:
        """Whether silos are asked if their rows have moved."""
        return "drift" in self.when

    @property
    def max_age_days(self) -> float | None:
        """``max_age`` in days.

        >>> Retrain(max_age="8w").max_age_days
        56.0
        """
        return _days(self.max_age)

    @property
    def min_age_days(self) -> float | None:
        """``min_age`` in days."""
        return _days(self.min_age)

    @model_validator(mode="after")
    def _something_makes_it_due(self) -> Retrain:
        if not self.when and self.max_age is None:
            raise ValueError("nothing would ever make a training due: give 'when' or 'max_age'")
        least, most = self.min_age_days, self.max_age_days
        if least is not None and most is not None and least > most:
            raise ValueError(
                f"min_age {self.min_age} is longer than max_age {self.max_age}; the younger bound "
                "must be the shorter"
            )
        return self


def _days(told: str | None) -> float | None:
    return None if told is None else float(told[:-1]) * _DAYS[told[-1]]
