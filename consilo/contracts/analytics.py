"""What a contract lets people be told of rows: on which bins, at which times, by which groups.

Whoever asks picks from this and can choose nothing finer: two exact answers on bins that differ by
a hair would tell of the rows between, however many rows each is made of. People in every silo
confirm it with the contract.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field
from pydantic import model_validator as validator

from consilo.config import Config, nearest
from consilo.contracts.rules import Column, Finite, Name

MOST_CELLS = 400
"""Bins of one column, or times of a grid."""
VALUES = "values"
_MOST_GROUPS = 6
_KEYS = {"from", "to", "step"}


def _spread(value: Any) -> Any:
    """Return the ends of steps that a person gave as ``{from, to, step}``; all else as it is."""
    if not isinstance(value, Mapping) or set(value) != _KEYS:
        return value
    low, high, step = (value[key] for key in ("from", "to", "step"))
    numbers = all(
        isinstance(each, int | float) and not isinstance(each, bool) for each in (low, high, step)
    )
    if not numbers or step <= 0 or high <= low or (high - low) / step > MOST_CELLS:
        raise ValueError(
            f"expected from below to, and {MOST_CELLS} steps at most, found {dict(value)}"
        )
    count = round((high - low) / step)
    if abs(low + count * step - high) > 1e-9 * step:
        raise ValueError(f"step {step} does not lead from {low} to {high}")
    return [low + place * step for place in range(count)] + [high]


Ends = Annotated[
    tuple[Finite, ...],
    BeforeValidator(_spread, json_schema_input_type=list[float] | dict[str, float]),
    Field(min_length=2, max_length=MOST_CELLS + 1),
]


class Survival(Config):
    """Time until an event, which some rows have not seen.

    Args:
        time: the column with the time until the event, or until the row was last seen.
        event: the column that says whether the event happened: boolean, or 0 and 1.
        grid: the times at which people are told how many are left, ascending; a time between two
            of them counts as the later one, one after the last as not seen any more.
    """

    time: Name
    event: Name
    grid: Ends

    @validator(mode="after")
    def _ascends(self) -> Self:
        _require_ascending("grid", self.grid)
        return self


class Declared(Config):
    """The section ``analytics`` of a contract.

    Args:
        bins: column → the ends of its bins, ascending, over its whole range: a list, or
            ``{from: 20, to: 90, step: 10}``; or ``values``: one bin for each that it may have.
        survival: for a contract about time until an event.
    """

    bins: dict[str, Ends | Literal["values"]] = Field(default_factory=dict)
    survival: Survival | None = None

    @validator(mode="after")
    def _ascend(self) -> Self:
        for name, ends in self.bins.items():
            if ends != VALUES:
                _require_ascending(f"bins.{name}", ends)  # type: ignore[arg-type]  # no text
        return self


def _require_ascending(where: str, ends: Sequence[float]) -> None:
    if any(after <= before for before, after in pairwise(ends)):
        raise ValueError(f"{where}: each end must be above the one before it")


def declared_faults(
    columns: Mapping[str, Column], groups: Sequence[str], declared: Declared | None
) -> list[str]:
    """Return a sentence for each fault of what a contract declares for people.

    Args:
        columns: the contract's.
        groups: the columns by which rows may be compared.
        declared: its section ``analytics``; None without.
    """
    used = [(f"groups.{place}", name) for place, name in enumerate(groups)]
    if declared is not None:
        used += [(f"analytics.bins.{name}", name) for name in declared.bins]
    survival = None if declared is None else declared.survival
    if survival is not None:
        used += [("analytics.survival.time", survival.time)]
        used += [("analytics.survival.event", survival.event)]
    faults = []
    seen: dict[str, str] = {}
    for where, name in used:
        if name not in columns:
            guess = nearest(name, list(columns))
            hint = f"; did you mean '{guess}'?" if guess else ""
            faults.append(f"{where}: no column is called '{name}'{hint}")
        elif columns[name].role in ("ignore", "id", "subject", "split"):
            faults.append(f"{where}: '{name}' has the role {columns[name].role}, not of a value")
        elif name in seen:
            faults.append(
                f"{where}: '{name}' stands in {seen[name]} too; one column is told in one way, "
                "since two would tell of the rows between"
            )
        seen.setdefault(name, where)
    if faults:
        return faults
    if len(groups) > _MOST_GROUPS:
        faults.append(f"groups: {_MOST_GROUPS} at most, found {len(groups)}")
    faults += [
        f"groups.{place}: '{name}' must list its values under allowed, or be boolean"
        for place, name in enumerate(groups)
        if columns[name].classes is None
    ]
    for name, ends in {} if declared is None else declared.bins.items():
        fault = _bins_fault(columns[name], ends)
        faults += [f"analytics.bins.{name}: {fault}"] if fault else []
    if survival is not None:
        faults += _survival_faults(columns, survival)
    return faults


def _bins_fault(column: Column, ends: tuple[float, ...] | str) -> str:
    if ends == VALUES:
        if column.classes is None or column.type == "string":
            return "'values' is of a boolean, or a column that lists its values under allowed"
        return ""
    limits = limits_of(column)
    if limits is None:
        return "needs a number with a range of two ends, or is 'values'"
    if ends[0] > limits[0] or ends[-1] < limits[1]:  # type: ignore[operator]  # no text
        return f"the bins must lie over the whole range, {limits[0]:g} to {limits[1]:g}"
    return ""


def _survival_faults(columns: Mapping[str, Column], survival: Survival) -> list[str]:
    where, faults = "analytics.survival", []
    time, event = columns[survival.time], columns[survival.event]
    limits = limits_of(time)
    if limits is None or limits[0] < 0:
        faults.append(f"{where}.time: '{time.name}' must be a number with a range from 0 or more")
    elif survival.grid[0] > limits[0]:
        faults.append(
            f"{where}.grid: must begin at {limits[0]:g}, where the range begins, or below"
        )
    known = None if event.classes is None else sorted(str(int(v)) for v in _flags(event))
    if known != ["0", "1"]:
        faults.append(f"{where}.event: '{event.name}' must be boolean, or allow just 0 and 1")
    return faults


def _flags(event: Column) -> list[int]:
    values = event.classes or ()
    plain = [int(v) if str(v) in ("0", "1", "True", "False", "0.0", "1.0") else 2 for v in values]
    return plain


def limits_of(column: Column) -> tuple[float, float] | None:
    """Return the least and the largest value of a column of numbers; None where none are said."""
    if column.type not in ("float", "integer") or column.range is None:
        return None
    low, high = column.range.min, column.range.max
    if not isinstance(low, int | float) or not isinstance(high, int | float) or low >= high:
        return None
    return float(low), float(high)
