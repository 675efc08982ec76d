"""How one canonical column comes from a local one, as a person writes it in a mapping."""

from __future__ import annotations

from datetime import date
from typing import Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from consilo.config import Config

Code = StrictBool | StrictInt | StrictFloat | StrictStr
_THRESHOLDS = ("greater_than", "at_least", "less_than", "at_most")


class ColumnMapping(Config):
    """How one canonical column comes from a local one.

    Args:
        source: ``from`` in YAML: the local column; None for one of the canonical name.
        unit: the local unit; None where it is the contract's.
        molar_mass: in g/mol, to convert between mmol/l and mg/dl.
        recode: local code → canonical value, or null for "missing"; a code that is not listed
            cannot be read and fails the check.
        missing: local codes that mean "nothing recorded", beside the mapping's own list.
        date_format: such as ``%d.%m.%Y``; None for ISO 8601.
        decimal: the decimal sign in numbers written as text.
        constant: this value in every row, in place of a local column.
        greater_than: yes where the local number is greater, no where it is not; so are the others.
        at_least: yes where the local number is at least this.
        less_than: yes where the local number is smaller.
        at_most: yes where the local number is at most this.
    """

    source: str | None = Field(default=None, alias="from")
    unit: str | None = None
    molar_mass: float | None = Field(default=None, gt=0)
    recode: dict[Code, Code | None] | None = None
    missing: tuple[Code, ...] = ()
    date_format: str | None = None
    decimal: Literal[".", ","] = "."
    constant: Code | date | None = None
    greater_than: float | None = None
    at_least: float | None = None
    less_than: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in _THRESHOLDS if getattr(self, name) is not None]
        ways = [*given, *(["recode"] if self.recode is not None else [])]
        faults = []
        if self.is_constant and self.model_fields_set != {"constant"}:
            faults.append("constant stands alone; remove the other keys")
        if len(ways) > 1:
            faults.append(f"{' and '.join(ways)} exclude each other")
        if ways and self.unit is not None:
            faults.append(f"unit and {ways[0]} exclude each other")
        if self.recode is not None and not self.recode:
            faults.append("recode is empty; list the codes or remove it")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def is_constant(self) -> bool:
        """Whether every row holds one value that the mapping names."""
        return "constant" in self.model_fields_set

    @property
    def threshold(self) -> tuple[str, float] | None:
        """The comparison that makes yes or no of a number, with its limit."""
        for name in _THRESHOLDS:
            if (limit := getattr(self, name)) is not None:
                return name, limit
        return None
