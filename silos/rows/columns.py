"""How one canonical column comes from a local one, as a person writes it in a mapping."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from consilo.config import Config
from consilo.contracts.codes import code_keys
from silos.rows.cells.dates import format_faults
from silos.rows.cells.expression import Expression

Code = StrictBool | StrictInt | StrictFloat | StrictStr
_THRESHOLDS = ("greater_than", "at_least", "less_than", "at_most")


class ColumnMapping(Config):
    """How one canonical column comes from a local one.

    Args:
        source: ``from`` in YAML: the local column; None for one of the canonical name; several
            where ``value`` makes one number of them.
        value: a formula over the columns of ``from``, such as ``weight / height ** 2``.
        units: of the columns in ``value``, by name; the result is converted to the contract's.
        scale: the local number times this, before ``offset``.
        offset: what is added to the local number after ``scale``.
        unit: the local unit, after ``value``, ``scale`` and ``offset``; None where it is the
            contract's.
        molar_mass: in g/mol, to convert between mmol/l and mg/dl.
        recode: local code → canonical value, or null for "missing"; a code that is not listed
            cannot be read and fails the check.
        missing: local codes that mean "nothing recorded", beside the mapping's own list.
        date_format: such as ``%d.%m.%Y``; ``excel`` or ``excel1904`` for a spreadsheet's numbers;
            None for ISO 8601.
        years_from: the first of the hundred years that ``%y`` stands for.
        zone: where times without a zone were told, such as ``Europe/Berlin``; None takes UTC.
        decimal: the decimal sign in numbers written as text.
        negative: ``brackets`` where ``(5)`` means -5.
        constant: this value in every row, in place of a local column.
        greater_than: yes where the local number is greater, no where it is not; so are the others.
        at_least: yes where the local number is at least this.
        less_than: yes where the local number is smaller.
        at_most: yes where the local number is at most this.
    """

    source: str | Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, alias="from"
    )
    value: str | None = None
    units: dict[str, str] | None = None
    scale: Annotated[float, Field(allow_inf_nan=False)] | None = None
    offset: Annotated[float, Field(allow_inf_nan=False)] | None = None
    unit: str | None = None
    molar_mass: float | None = Field(default=None, gt=0)
    recode: dict[Code, Code | None] | None = None
    missing: tuple[Code, ...] = ()
    date_format: str | None = None
    years_from: Annotated[StrictInt, Field(ge=1000, le=9900)] | None = None
    zone: str | None = None
    decimal: Literal[".", ","] = "."
    negative: Literal["sign", "brackets"] = "sign"
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
        if "recode" in ways and (measured := self._measured):
            faults.append(f"recode and {measured[0]} exclude each other")
        faults += self._equal_codes()
        faults += self._formula_faults()
        faults += self._date_faults()
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def _measured(self) -> list[str]:
        return [name for name in ("value", "scale", "offset") if getattr(self, name) is not None]

    def _equal_codes(self) -> list[str]:
        """Return a sentence for codes of ``recode`` that a cell could not be told apart by."""
        keys: dict[str, list[Code]] = {}
        for code in self.recode or {}:
            for key in code_keys(code):
                keys.setdefault(key, []).append(code)
        alike = {tuple(map(repr, codes)) for codes in keys.values() if len(codes) > 1}
        return [f"recode lists {' and '.join(each)}, which are one code" for each in sorted(alike)]

    def _formula_faults(self) -> list[str]:
        if self.value is None:
            several = isinstance(self.source, tuple)
            faults = ["from names several columns; say what to make of them under value"]
            faults = faults if several else []
            return [*faults, *(["units are for value; write unit"] if self.units else [])]
        if self.source is None:
            return ["value needs its columns under from"]
        try:
            used = Expression.parse(self.value).names
        except ValueError as fault:
            return [f"value: {fault}"]
        faults = [f"value: '{name}' is not under from" for name in used if name not in self.columns]
        faults += [
            f"from: '{name}' is not used in value" for name in self.columns if name not in used
        ]
        if self.units is not None and set(self.units) != set(used):
            faults.append("units: give one for each column in value, and no other")
        if self.units is not None and (self.unit or self.molar_mass):
            faults.append("units and unit exclude each other: the columns' units make the result's")
        if self.units is not None and (self.scale is not None or self.offset is not None):
            faults.append("units exclude scale and offset; write them into value")
        return faults

    def _date_faults(self) -> list[str]:
        faults = (
            [] if self.date_format is None else format_faults(self.date_format, self.years_from)
        )
        if self.date_format is None and self.years_from is not None:
            faults.append("years_from is for %y in date_format")
        if self.zone is not None and self.zone not in available_timezones():
            faults.append(f"zone: '{self.zone}' is not known; write it as Europe/Berlin, or UTC")
        return faults

    @property
    def columns(self) -> tuple[str, ...]:
        """The local columns that ``from`` names."""
        if isinstance(self.source, tuple):
            return self.source
        return () if self.source is None else (self.source,)

    @property
    def expression(self) -> Expression | None:
        """The formula of ``value``."""
        return None if self.value is None else Expression.parse(self.value)

    @property
    def is_measured(self) -> bool:
        """Whether the local numbers are computed with before they are the canonical ones."""
        return self.unit is not None or bool(self._measured)

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
