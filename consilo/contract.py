"""A data contract: what every silo's table must look like once its mapping has been applied.

A contract is data (``schemas/contracts/*.yaml``), versioned, and the same for all silos. It is
checked inside each silo (`silos.check`); `consilo.check_report` is what may leave.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, StrictBool, StrictInt, StrictStr, ValidationError
from pydantic import model_validator as validator

import consilo
from consilo.config import Config, nearest, parse, read_yaml
from consilo.errors import ContractInvalid

Severity = Literal["error", "warning"]
ColumnType = Literal["float", "integer", "boolean", "category", "string", "date"]
Role = Literal["feature", "target", "id", "time", "ignore"]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=64)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Value = StrictBool | StrictInt | Finite | StrictStr

SHIPPED = Path(consilo.__file__).parent.parent / "schemas"
_REF = re.compile(r"^(?P<name>[a-z][a-z0-9_]*)@(?P<version>[1-9][0-9]*)$")
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
        type: what the canonical table holds; ``docs/contracts.md`` names the dtypes.
        unit: in pint's words (``mm``, ``mm2``, ``mg/dl``, ``1``); None for what has no unit.
        range: where every value must lie.
        typical: where the median of a silo must lie; it catches a wrong unit.
        allowed: the only values allowed; for a category also the order of its codes.
        nullable_share: the largest share of rows that may hold nothing.
        role: what a job does with it; ``ignore`` keeps it out of the canonical table.
        severity: of the rules of this column that do not say their own.
        future: whether a date may lie in the future.
    """

    name: Name
    description: str = ""
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
        texts = [str(value) for value in self.allowed]
        return faults + [f"allowed lists {each!r} twice" for each in sorted(_twice(texts))]


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


class Contract(Config):
    """A versioned data contract.

    Args:
        name: the contract's name; its file is called after it.
        version: raised by hand with every change that a silo must know of.
        description: one or two sentences for people.
        columns: name → column, in the order of the canonical table.
        rules: rules about rows together.
    """

    name: Name
    version: int = Field(ge=1)
    description: str = ""
    columns: dict[str, Column] = Field(min_length=1)
    rules: TableRules = TableRules()

    @validator(mode="before")
    @classmethod
    def _names_come_from_the_keys(cls, value: Any) -> Any:
        columns = value.get("columns") if isinstance(value, Mapping) else None
        if isinstance(columns, list):
            names = [each.get("name") for each in columns if isinstance(each, Mapping)]
            if len(names) < len(columns) or _twice([str(name) for name in names]):
                raise ValueError("columns: as a list, each needs a name of its own")
            columns = dict(zip(names, columns, strict=True))
        if not isinstance(columns, Mapping):
            return value
        named = {
            name: {"name": name, **each} if isinstance(each, Mapping) else each
            for name, each in columns.items()
        }
        return {**value, "columns": named}

    @validator(mode="after")
    def _rules_fit_the_columns(self) -> Self:
        faults = [
            f"columns.{key}.name: '{column.name}' is not the key it stands under"
            for key, column in self.columns.items()
            if key != column.name
        ]
        faults += _unknown_columns(self.rules, list(self.columns))
        faults += _misused_columns(self.rules, self.columns) if not faults else []
        if faults:
            raise ValueError("\n".join(faults))
        return self

    @property
    def ref(self) -> str:
        """Name and version, as jobs and mappings write it: ``heart@1``."""
        return f"{self.name}@{self.version}"

    @property
    def table(self) -> tuple[Column, ...]:
        """The columns of the canonical table in order; those with role ``ignore`` are not in it."""
        return tuple(each for each in self.columns.values() if each.role != "ignore")

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns a model may see, in order."""
        return self._with_role("feature")

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the columns a model learns to predict, in order."""
        return self._with_role("target")

    @property
    def id_columns(self) -> tuple[str, ...]:
        """Names of the columns that identify a record, in order."""
        return self._with_role("id")

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal; the order of columns counts."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    @property
    def depends_on_today(self) -> bool:
        """Whether the same table can keep the contract today and break it tomorrow."""
        dates = any(each.type == "date" and not each.future for each in self.table)
        return dates or self.rules.freshness is not None

    def to_json(self) -> str:
        """Return the contract as canonical JSON; columns are a list, so that order survives."""
        value = self.model_dump(mode="json")
        value["columns"] = list(value["columns"].values())
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the contract that `to_json` wrote.

        Raises:
            ContractInvalid: with one finding per fault.
        """
        try:
            value = json.loads(text)
        except ValueError:
            raise ContractInvalid("in the message", ["this is not JSON"]) from None
        return cls.parse(value, where="in the message")

    @classmethod
    def parse(cls, value: Any, *, where: str) -> Self:
        """Return parsed YAML or JSON as a contract.

        Raises:
            ContractInvalid: with one finding per fault.
        """
        try:
            return parse(cls, value, where=where, error=ContractInvalid)
        except ContractInvalid as error:
            findings = [line for each in error.findings for line in each.split("\n")]
            findings += [each for each in _rule_faults(value) if each not in findings]
            raise ContractInvalid(where, findings) from None

    @classmethod
    def load(cls, ref_or_path: str | Path, search: Sequence[Path] = ()) -> Self:
        """Return the contract of a reference such as ``heart@1``, or of a YAML file.

        A reference is looked up in each directory of ``search`` and then among the contracts that
        come with the project, as ``contracts/heart@1.yaml``, ``contracts/heart.yaml``,
        ``heart@1.yaml`` or ``heart.yaml``; the first file that holds this version is taken, so
        that versions can live side by side.

        Raises:
            ContractInvalid: with one finding per fault.
        """
        reference = _REF.match(str(ref_or_path))
        if reference is None:
            path = Path(ref_or_path)
            if path.suffix not in (".yaml", ".yml"):
                hint = "give name@version, such as heart@1, or the path of a .yaml file"
                raise ContractInvalid(str(ref_or_path), [hint])
            return cls._read(path)
        directories = [*search, SHIPPED]
        name, version = reference["name"], int(reference["version"])
        others = []
        for path in _candidates(directories, name, version):
            found = _peek(path)
            if found == (name, version):
                return cls._read(path)
            if found is None or found[0] != name or not isinstance(found[1], int):
                # Wrong in a way that reading it explains best.
                cls._read(path)
            said = f"{found[0]}@{found[1]}" if found else "no contract"
            others.append(f"{path} holds {said}, not {name}@{version}")
        raise ContractInvalid(str(ref_or_path), others or [_not_found(name, directories)])

    @classmethod
    def _read(cls, path: Path) -> Self:
        value = read_yaml(path, error=ContractInvalid)
        twice = _keys_written_twice(path)
        if not twice:
            return cls.parse(value, where=str(path))
        try:
            cls.parse(value, where=str(path))
        except ContractInvalid as error:
            twice += error.findings
        raise ContractInvalid(str(path), twice)

    def _with_role(self, role: Role) -> tuple[str, ...]:
        return tuple(each.name for each in self.columns.values() if each.role == role)


def _is_of(kind: ColumnType, value: Value) -> bool:
    if kind == "category":
        return isinstance(value, str | int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, bool if kind == "boolean" else str)


def _twice(names: Sequence[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def _unknown_columns(rules: TableRules, names: list[str]) -> list[str]:
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


def _misused_columns(rules: TableRules, columns: Mapping[str, Column]) -> list[str]:
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


def _rule_faults(value: Any) -> list[str]:
    """Return faults in the rules' column names even where the columns themselves are faulty."""
    columns = value.get("columns") if isinstance(value, Mapping) else None
    if not isinstance(columns, Mapping):
        return []
    try:
        rules = TableRules.model_validate(value.get("rules", {}))
    except ValidationError:
        return []
    return _unknown_columns(rules, [str(name) for name in columns])


def _candidates(directories: Sequence[Path], name: str, version: int) -> list[Path]:
    files = (f"{name}@{version}.yaml", f"{name}.yaml")
    places = [place for each in directories for place in (each / "contracts", each)]
    return [place / file for place in places for file in files if (place / file).is_file()]


def _peek(path: Path) -> tuple[Any, Any] | None:
    value = read_yaml(path, error=ContractInvalid)
    return (value.get("name"), value.get("version")) if isinstance(value, Mapping) else None


def _not_found(name: str, directories: Sequence[Path]) -> str:
    places = [place for each in directories for place in (each / "contracts", each)]
    known = sorted({file.stem for place in places for file in place.glob("*.yaml")})
    guess = nearest(name, [stem.partition("@")[0] for stem in known])
    hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(known) or 'none'}"
    return f"no file {name}.yaml in {', '.join(str(place) for place in places)}; {hint}"


def _keys_written_twice(path: Path) -> list[str]:
    """Return a finding per repeated key; YAML would silently keep the last one."""
    faults: list[str] = []

    def visit(node: Any) -> None:
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            line = node.start_mark.line + 1
            faults.extend(
                f"key '{key}' is written twice in the block that starts in line {line}"
                for key in sorted(_twice(keys))
            )
            for _, inner in node.value:
                visit(inner)
        elif isinstance(node, yaml.SequenceNode):
            for inner in node.value:
                visit(inner)

    visit(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader))
    return faults
