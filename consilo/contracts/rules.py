"""The parts of a contract: columns, what their values must keep to, rules about rows together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr
from pydantic import model_validator as validator

from consilo.config import Config, nearest
from consilo.contracts.codes import code_key
from consilo.finding_words import Form

Severity = Literal["error", "warning"]
ColumnType = Literal["float", "integer", "boolean", "category", "string", "date"]
Role = Literal["feature", "target", "id", "time", "subject", "split", "ignore"]
_NAME = Form("[a-z][a-z0-9_]*", "a lower-case letter, then lower-case letters, digits and '_'")
Name = Annotated[str, _NAME, Field(max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Value = StrictBool | StrictInt | Finite | StrictStr

_ORDERED = ("float", "integer", "date")


class Bounds(Config):
    """An interval with both ends included; either end may be left open.

    Args:
        min: smallest value allowed, in the column's unit; a date for a date column.
        max: largest value allowed.
        severity: of this rule; None takes the column's.
    """

    min: Finite | date | None = None
    max: Finite | date | None = None
    severity: Severity | None = None

    @validator(mode="after")
    def _ends_are_in_order(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is None or self.max is None:
            return self
        if isinstance(self.min, date) != isinstance(self.max, date):
            raise ValueError("min and max must both be numbers or both be dates")
        if self.min > self.max:  # type: ignore[operator]  # both numbers or both dates, see above
            raise ValueError(f"min {self.min} is larger than max {self.max}")
        return self


class Column(Config):
    """One column of the canonical table.

    Args:
        name: canonical name; in YAML it is the key.
        description: one sentence for the person who maps a column to it.
        synonyms: other names that organisations give it; they help `consilo silo data add` to find
            it, and are no part of what the contract demands: neither of its digest nor its JSON.
        type: what the canonical table holds; ``docs/contracts.md`` names the dtypes.
        unit: in pint's words (``mm``, ``mm2``, ``mg/dl``, ``1``); None for what has no unit.
        range: where every value must lie.
        typical: where the median of a silo must lie; it catches a wrong unit.
        allowed: the only values allowed; for a category also the order of its codes.
        nullable_share: the largest share of rows that may hold nothing.
        role: what a job does with it; ``subject`` says whose row it is, ``split`` whether a row is
            trained on or tested on; ``ignore`` keeps it out of the canonical table.
        severity: of the rules of this column that do not say their own.
        future: whether a date may lie in the future.
    """

    name: Name
    description: str = ""
    synonyms: tuple[str, ...] = Field(default=(), exclude=True)
    type: ColumnType
    unit: str | None = None
    range: Bounds | None = None
    typical: Bounds | None = None
    allowed: tuple[Value, ...] | None = None
    nullable_share: Share = 0.0
    role: Role = "feature"
    severity: Severity = "error"
    future: bool = False

    @validator(mode="after")
    def _rules_fit_the_type(self) -> Self:
        faults = [*self._bounds_faults(), *self._allowed_faults()]
        if self.unit is not None and self.type not in ("float", "integer"):
            faults.append(f"a unit makes no sense for type {self.type}; remove it")
        if self.future and self.type != "date":
            faults.append("future is for columns of type date")
        if self.role == "time" and self.type != "date":
            faults.append("role time needs type date")
        if self.role == "subject" and self.nullable_share > 0:
            faults.append("role subject needs a value in every row; remove nullable_share")
        if self.role == "split" and set(self.allowed or ()) != {"train", "test"}:
            faults.append("role split needs type category and allowed: [train, test]")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def classes(self) -> tuple[Value, ...] | None:
        """The values the column may take, where the contract lists them."""
        return (False, True) if self.type == "boolean" and not self.allowed else self.allowed

    def _bounds_faults(self) -> list[str]:
        faults = []
        for rule in ("range", "typical"):
            bounds: Bounds | None = getattr(self, rule)
            if bounds is None:
                continue
            if self.type not in _ORDERED or (rule == "typical" and self.type == "date"):
                faults.append(f"{rule} makes no sense for type {self.type}")
                continue
            ends = [end for end in (bounds.min, bounds.max) if end is not None]
            if any(isinstance(end, date) != (self.type == "date") for end in ends):
                wanted = "dates" if self.type == "date" else "numbers"
                faults.append(f"the ends of {rule} must be {wanted} for type {self.type}")
        return faults

    def _allowed_faults(self) -> list[str]:
        if self.allowed is None:
            return []
        if not self.allowed:
            return ["allowed is empty; list the values or remove it"]
        if self.type == "date":
            return ["allowed makes no sense for type date; use range"]
        wrong = [value for value in self.allowed if not _is_of(self.type, value)]
        faults = [f"allowed value {value!r} is not of type {self.type}" for value in wrong]
        return faults + _alike(self.allowed)


def _alike(values: Sequence[Value]) -> list[str]:
    """Return a sentence for values that a cell could not be told apart by."""
    by_key: dict[str, list[str]] = {}
    for value in values:
        by_key.setdefault(code_key(value), []).append(repr(value))
    return [
        f"allowed lists {each[0]} twice"
        if len(set(each)) == 1
        else f"allowed lists {' and '.join(each)}, which are one value; keep one of them"
        for each in by_key.values()
        if len(each) > 1
    ]


def _short(key: str) -> BeforeValidator:
    """Let a person write the one value that matters instead of a mapping."""

    def expand(value: Any) -> Any:
        return value if isinstance(value, Mapping | Config) else {key: value}

    return BeforeValidator(expand)


class Unique(Config):
    """No two rows hold the same values in these columns together."""

    columns: tuple[str, ...] = Field(min_length=1)
    severity: Severity = "error"


class MinRows(Config):
    """The table has at least ``count`` rows; an empty table always fails."""

    count: int = Field(ge=1)
    severity: Severity = "error"


class ClassBalance(Config):
    """Every class of every target has at least this share of the rows that have a target."""

    min_share: float = Field(gt=0, le=0.5)
    severity: Severity = "error"


class Freshness(Config):
    """The newest date of the column is not older than ``max_age_days``."""

    column: str
    max_age_days: int = Field(ge=0)
    severity: Severity = "error"


class CrossColumn(Config):
    """``left op right`` holds in every row in which both sides hold something.

    Args:
        left: a column.
        op: the comparison.
        right: a column by its name, or a number.
        severity: of this rule.
    """

    left: str
    op: Literal["<", "<=", "==", ">=", ">"]
    right: StrictStr | Finite
    severity: Severity = "error"


class TableRules(Config):
    """Rules about rows together.

    A short form is read where one value says all: ``unique: [[patient_id]]``, ``min_rows: 30``,
    ``class_balance: 0.05``.
    """

    unique: tuple[Annotated[Unique, _short("columns")], ...] = ()
    min_rows: Annotated[MinRows, _short("count")] = MinRows(count=1)
    class_balance: Annotated[ClassBalance, _short("min_share")] | None = None
    freshness: Freshness | None = None
    cross_column: tuple[CrossColumn, ...] = ()


def _is_of(kind: ColumnType, value: Value) -> bool:
    if kind == "category":
        return isinstance(value, str | int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, bool if kind == "boolean" else str)


def twice(names: Sequence[str]) -> set[str]:
    """Return the names that stand there more than once."""
    return {name for name, times in Counter(names).items() if times > 1}


def unknown_columns(rules: TableRules, names: list[str]) -> list[str]:
    """Return a sentence for each column that a rule names and the contract does not have."""
    used = [
        (f"rules.unique.{index}", name)
        for index, unique in enumerate(rules.unique)
        for name in unique.columns
    ]
    if rules.freshness:
        used.append(("rules.freshness.column", rules.freshness.column))
    for index, cross in enumerate(rules.cross_column):
        used.append((f"rules.cross_column.{index}.left", cross.left))
        if isinstance(cross.right, str):
            used.append((f"rules.cross_column.{index}.right", cross.right))
    faults = []
    for where, name in used:
        if name not in names:
            guess = nearest(name, names)
            hint = f"; did you mean '{guess}'?" if guess else ""
            faults.append(f"{where}: no column is called '{name}'{hint}")
    return faults


def misused_columns(rules: TableRules, columns: Mapping[str, Column]) -> list[str]:
    """Return a sentence for each rule that makes no sense for the type or role of its columns."""
    faults = []
    used = {name for unique in rules.unique for name in unique.columns}
    for index, cross in enumerate(rules.cross_column):
        where = f"rules.cross_column.{index}"
        sides = [cross.left] + ([cross.right] if isinstance(cross.right, str) else [])
        used.update(sides)
        kinds = {columns[side].type == "date" for side in sides}
        if any(columns[side].type not in _ORDERED for side in sides):
            faults.append(f"{where}: compares numbers and dates only")
        elif len(kinds) > 1 or (kinds == {True} and len(sides) == 1):
            faults.append(f"{where}: a date can only be compared with a date column")
        elif len({columns[side].unit for side in sides}) > 1:
            faults.append(f"{where}: {' and '.join(sides)} have different units")
    if rules.freshness:
        used.add(rules.freshness.column)
        if columns[rules.freshness.column].type != "date":
            faults.append(f"rules.freshness.column: {rules.freshness.column} is not of type date")
    faults += [
        f"rules: column '{name}' has role ignore, no rule can use it"
        for name in sorted(used)
        if columns[name].role == "ignore"
    ]
    if rules.class_balance:
        targets = [each for each in columns.values() if each.role == "target"]
        if not targets:
            faults.append("rules.class_balance: no column has role target")
        faults += [
            f"rules.class_balance: target '{each.name}' must list its classes under allowed"
            for each in targets
            if each.classes is None
        ]
    return faults
