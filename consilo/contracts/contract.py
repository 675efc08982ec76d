"""A data contract: what every silo's table must look like once its mapping has been applied.

A contract is data (``schemas/contracts/*.yaml``), versioned, and the same for all silos. It is
checked inside each silo (`silos.rows.check`); `consilo.contracts.report` is what may leave.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError
from pydantic import model_validator as validator

from consilo.config import Config, nearest, parse, read_yaml
from consilo.contracts.rules import (
    Bounds,
    ClassBalance,
    Column,
    ColumnType,
    CrossColumn,
    Freshness,
    MinRows,
    Name,
    Role,
    Severity,
    TableRules,
    Unique,
    Value,
    misused_columns,
    twice,
    unknown_columns,
)
from consilo.errors import ContractInvalid
from consilo.wire.json_text import each_once

__all__ = [
    "Bounds",
    "ClassBalance",
    "Column",
    "ColumnType",
    "Contract",
    "CrossColumn",
    "Freshness",
    "MinRows",
    "Role",
    "Severity",
    "TableRules",
    "Unique",
    "Value",
]

SHIPPED = Path(__file__).parents[2] / "schemas"
_REF = re.compile(r"^(?P<name>[a-z][a-z0-9_]*)@(?P<version>[1-9][0-9]*)$")


class Contract(Config):
    """A versioned data contract.

    Args:
        name: the contract's name; its file is called after it.
        version: raised by hand with every change that a silo must know of.
        description: one or two sentences for people.
        columns: name → column, in the order of the canonical table.
        rules: rules about rows together.
        groups: columns whose values are groups of people that a model must treat alike; silos may
            hold its figures against each other, group by group, when they vote on it.
    """

    name: Name
    version: int = Field(ge=1)
    description: str = ""
    columns: dict[str, Column] = Field(min_length=1)
    rules: TableRules = TableRules()
    groups: tuple[str, ...] = ()

    @validator(mode="before")
    @classmethod
    def _names_come_from_the_keys(cls, value: Any) -> Any:
        columns = value.get("columns") if isinstance(value, Mapping) else None
        if isinstance(columns, list):
            names = [each.get("name") for each in columns if isinstance(each, Mapping)]
            if len(names) < len(columns) or twice([str(name) for name in names]):
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
        if len(self._with_role("subject")) > 1:
            faults.append("columns: one column may have the role subject")
        faults += unknown_columns(self.rules, list(self.columns))
        faults += self._faulty_groups()
        faults += misused_columns(self.rules, self.columns) if not faults else []
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
    def subject(self) -> str | None:
        """Name of the column that says whose row it is, a person's for example."""
        return next(iter(self._with_role("subject")), None)

    @cached_property
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
        if not self.groups:  # releases before know no such key, and contracts keep their digests
            del value["groups"]
        value["columns"] = list(value["columns"].values())
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Return the contract that `to_json` wrote.

        Raises:
            ContractInvalid: with one finding per fault.
        """
        try:
            value = json.loads(text, object_pairs_hook=each_once)
        except ValueError as cause:
            raise ContractInvalid("in the message", [f"this is not JSON: {cause}"]) from None
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

        A relative path is looked up in each directory of ``search`` first: beside the job file.

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
            beside = [each / path for each in search if (each / path).is_file()]
            return cls._read(beside[0] if beside else path)
        directories = [*search, SHIPPED]
        name, version = reference["name"], int(reference["version"])
        others = []
        for path, value in _candidates(directories, name, version):
            held = (value.get("name"), value.get("version")) if isinstance(value, Mapping) else None
            if held == (name, version):
                return cls.parse(value, where=str(path))
            if held is None or held[0] != name or not isinstance(held[1], int):
                # Wrong in a way that parsing it explains best.
                cls.parse(value, where=str(path))
            content = f"{held[0]}@{held[1]}" if held else "no contract"
            others.append(f"{path} holds {content}, not {name}@{version}")
        raise ContractInvalid(str(ref_or_path), others or [_not_found(name, directories)])

    @classmethod
    def _read(cls, path: Path) -> Self:
        return cls.parse(read_yaml(path, error=ContractInvalid), where=str(path))

    def _faulty_groups(self) -> list[str]:
        faults = [f"groups: '{each}' is there twice" for each in twice(list(self.groups))]
        for name in self.groups:
            column = self.columns.get(name)
            if column is None:
                guess = nearest(name, list(self.columns))
                hint = f"; did you mean '{guess}'?" if guess else ""
                faults.append(f"groups: there is no column '{name}'{hint}")
            elif column.role == "ignore" or not column.classes:
                faults.append(
                    f"groups: '{name}' must be in the canonical table, and list its values: a "
                    "boolean, or a column with 'allowed'"
                )
        return faults

    def _with_role(self, role: Role) -> tuple[str, ...]:
        return tuple(each.name for each in self.columns.values() if each.role == role)


def _rule_faults(value: Any) -> list[str]:
    """Return faults in the rules' column names even where the columns themselves are faulty."""
    columns = value.get("columns") if isinstance(value, Mapping) else None
    if not isinstance(columns, Mapping):
        return []
    try:
        rules = TableRules.model_validate(value.get("rules", {}))
    except ValidationError:
        return []
    return unknown_columns(rules, [str(name) for name in columns])


def _candidates(directories: Sequence[Path], name: str, version: int) -> Iterator[tuple[Path, Any]]:
    """Yield the files that may be a contract of this name, and what each says."""
    files = (f"{name}@{version}.yaml", f"{name}.yaml")
    places = [place for each in directories for place in (each / "contracts", each)]
    for path in [place / file for place in places for file in files if (place / file).is_file()]:
        value = read_yaml(path, error=ContractInvalid)
        # A job or a mapping beside the contracts refers to one instead of being one.
        if not (isinstance(value, Mapping) and "contract" in value):
            yield path, value


def _is_contract(path: Path) -> bool:
    try:
        value = read_yaml(path, error=ContractInvalid)
    except ContractInvalid:
        return False
    return isinstance(value, Mapping) and {"name", "version", "columns"} <= value.keys()


def _not_found(name: str, directories: Sequence[Path]) -> str:
    places = [place for each in directories for place in (each / "contracts", each)]
    files = sorted({file for place in places for file in place.glob("*.yaml")})
    known = sorted({file.stem for file in files if _is_contract(file)})
    guess = nearest(name, [stem.partition("@")[0] for stem in known])
    hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(known) or 'none'}"
    where = ", ".join(str(place) for place in places)
    return f"no file {name}.yaml in {where}; {hint}; elsewhere, give the file's path in its place"
