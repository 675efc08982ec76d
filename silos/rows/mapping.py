"""A silo's mapping: from its own names, units and codes to the contract's canonical table.

Canonical dtypes: float → float64 (NaN is null); integer → Int64; boolean → boolean; category and
string → str; date → datetime64[ns] without a time zone (UTC).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, StrictBool

from consilo.config import Config, nearest, parse, read_yaml
from consilo.contracts.contract import Column, Contract
from consilo.errors import MappingInvalid, Refused, SourceUnreadable
from silos.rows.canonical import allowed_values, canonical, is_missing, recoded_to_null
from silos.rows.columns import Code, ColumnMapping
from silos.rows.units import conversion_fault, unit_fault

if TYPE_CHECKING:
    import pandas as pd

UNREADABLE = "unreadable"
"""Key of ``frame.attrs``: column → how many values could not be read, and the first rows."""

ROWS_SHOWN = 20


class Mapping(Config):
    """A silo's whole mapping for one contract.

    Args:
        contract: the reference of the contract, such as ``heart@1``.
        columns: canonical name → how it comes about; what is not listed has the same name, unit
            and codes in the silo.
        missing: local codes that mean "nothing recorded" in every column, such as ``"?"``.
        data: which of the silo's data sets the rows come from; needed only where it has several.
        confirmed: false in a proposal that no person has confirmed yet; the silo does not use it.
        agreed: SHA-256 of the contract that was confirmed; another text under the same name is
            refused, and without it any text is.
    """

    contract: str
    data: str | None = None
    confirmed: StrictBool = True
    agreed: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    columns: dict[str, ColumnMapping] = Field(default_factory=dict)
    missing: tuple[Code, ...] = ()

    @classmethod
    def load(cls, path: Path, contract: Contract) -> Self:
        """Return the mapping of a YAML file.

        Raises:
            MappingInvalid: with one finding per fault, also those against the contract.
            Refused: where it is a proposal that nobody has confirmed.
        """
        value = read_yaml(path, error=MappingInvalid)
        mapping = cls.parse(value, contract, where=str(path))
        if not mapping.confirmed:
            raise Refused(
                f"the silo's mapping to {contract.ref} is a proposal that nobody there has "
                f"confirmed; read it, then: consilo silo data confirm {contract.ref}",
                code="mapping",
            )
        return mapping

    @classmethod
    def parse(cls, value: Any, contract: Contract, *, where: str) -> Self:
        """Return parsed YAML as a mapping to ``contract``.

        Raises:
            MappingInvalid: with one finding per fault, also those against the contract.
        """
        mapping = parse(cls, value, where=where, error=MappingInvalid)
        faults = mapping.faults(contract)
        if faults:
            raise MappingInvalid(where, faults)
        return mapping

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        value = self.model_dump(by_alias=True, exclude_unset=True)
        for each in value.get("columns", {}).values():
            if each.get("recode"):
                each["recode"] = sorted((repr(key), item) for key, item in each["recode"].items())
        text = json.dumps(value, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()

    def faults(self, contract: Contract) -> list[str]:
        """Return one sentence for each thing that does not fit ``contract``."""
        faults = []
        if self.contract != contract.ref:
            faults.append(f"contract: is for {self.contract}, the contract is {contract.ref}")
        names = [column.name for column in contract.table]
        for name, how in self.columns.items():
            column = contract.columns.get(name)
            if column is None:
                guess = nearest(name, names)
                hint = f"; did you mean '{guess}'?" if guess else ""
                faults.append(f"columns.{name}: {contract.ref} has no such column{hint}")
                continue
            faults += [f"columns.{name}.{fault}" for fault in _faults(column, how)]
        for column in contract.table:
            if column.unit is not None and (fault := unit_fault(column.unit)):
                faults.append(f"{contract.ref}, column {column.name}: {fault}")
        return faults

    def local_columns(self, contract: Contract) -> dict[str, str]:
        """Return canonical name → local name, for all columns that come from one."""
        return {
            column.name: self._how(column).source or column.name
            for column in contract.table
            if not self._how(column).is_constant
        }

    def text_columns(self, contract: Contract) -> list[str]:
        """Return the local columns to read as written: a code such as ``007`` is no number."""
        as_text = []
        for name, local in self.local_columns(contract).items():
            column = contract.columns[name]
            how = self._how(column)
            if column.type in ("string", "category", "date") or how.recode or how.decimal == ",":
                as_text.append(local)
        return as_text

    def missing_columns(self, available: Sequence[str], contract: Contract) -> list[str]:
        """Return, for the people in the silo, a sentence per local column that is not there."""
        findings = []
        for name, local in self.local_columns(contract).items():
            if local not in available:
                guess = nearest(local, list(available))
                hint = f"; did you mean '{guess}'?" if guess else ""
                findings.append(f"{name}: the source has no column '{local}'{hint}")
        return findings

    def apply(self, frame: pd.DataFrame, contract: Contract) -> pd.DataFrame:
        """Return the canonical table of a silo's rows; ``frame`` is left as it is.

        A value that cannot be read becomes null and is counted in ``frame.attrs["unreadable"]``;
        the check fails the column's rule ``type`` for it. A column whose local column is not there
        is not there in the result, and fails the rule ``present``.
        """
        return self.apply_columns(dict(frame.items()), len(frame), contract)

    def apply_columns(
        self, rows: dict[Any, pd.Series[Any]], num_rows: int, contract: Contract
    ) -> pd.DataFrame:
        """Return the canonical table as `apply` does, and take ``rows`` apart on the way.

        Args:
            rows: local name → column; a column is removed once it has been mapped for the last
                time, so that its memory is free for what is made of the next one.
            num_rows: of each column.
            contract: the contract.
        """
        import pandas as pd

        columns: dict[str, Any] = {}
        unreadable: dict[str, dict[str, Any]] = {}
        uses = Counter(self.local_columns(contract).values())
        for column in contract.table:
            how = self._how(column)
            local = how.source or column.name
            if how.is_constant:
                series = pd.Series([how.constant] * num_rows, dtype=object)
                how = ColumnMapping()
            elif local in rows:
                uses[local] -= 1
                series = rows[local] if uses[local] else rows.pop(local)
            else:
                continue
            try:
                empty = is_missing(series, (*self.missing, *how.missing))
                present = series.mask(empty) if empty.any() else series
                values = canonical(present, column, how)
                lost = values.isna().to_numpy() & ~empty & ~recoded_to_null(series, how)
            except Exception:
                # What a library says about a value may quote it.
                reason = f"column '{local}' cannot be read as {column.type} for {column.name}"
                raise SourceUnreadable(f"{reason}; check the mapping") from None
            if lost.any():
                which = lost.nonzero()[0]
                first = which[:ROWS_SHOWN].tolist()
                unreadable[column.name] = {"count": len(which), "rows": first}
            columns[column.name] = values.set_axis(pd.RangeIndex(num_rows))
            del series, present, values, empty, lost
        table = pd.DataFrame(columns, index=pd.RangeIndex(num_rows), copy=False)
        if unreadable:
            table.attrs[UNREADABLE] = unreadable
        return table

    def _how(self, column: Column) -> ColumnMapping:
        return self.columns.get(column.name) or ColumnMapping()


def _faults(column: Column, how: ColumnMapping) -> list[str]:
    faults = []
    if how.unit is not None:
        if column.unit is None:
            faults.append("unit: the contract gives this column no unit; remove it")
        elif fault := conversion_fault(how.unit, column.unit, molar_mass=how.molar_mass):
            faults.append(f"unit: {fault}")
    elif how.molar_mass is not None:
        faults.append("molar_mass: needs the local unit beside it")
    if how.date_format is not None and column.type != "date":
        faults.append(f"date_format: the column is of type {column.type}, not date")
    if how.threshold and column.type not in ("boolean", "integer", "float"):
        faults.append(f"{how.threshold[0]}: gives yes or no, the column is of type {column.type}")
    given: list[Any] = list((how.recode or {}).values())
    given += [how.constant] if how.is_constant else []
    rule = "constant" if how.is_constant else "recode"
    for value in given:
        if value is not None and not _reads_as(column, value):
            faults.append(f"{rule}: {value!r} is not a {column.type} that the contract allows")
    return faults


def _reads_as(column: Column, value: Any) -> bool:
    import pandas as pd

    # Only the column's own rules count here, so the value is taken as it would stand in a file.
    series = pd.Series([value], dtype=object)
    read = canonical(series, column, ColumnMapping())
    if read.isna().any():
        return False
    return column.allowed is None or bool(read.isin(allowed_values(column)).all())


def mapping_file(directory: Path, ref: str) -> Path | None:
    """Return the file of a silo's mapping to a contract; None where it has none."""
    places = (directory / f"mappings/{ref}.yaml", directory / "mapping.yaml")
    return next((place for place in places if place.exists()), None)


def require_agreed(directory: Path, contract: Contract) -> None:
    """Raise `Refused` unless a contract is the very one that people in the silo have confirmed.

    A contract that is judged by rows tells of them: whoever could choose its text could find out
    any value by asking again and again.
    """
    place = mapping_file(directory, contract.ref)
    value = read_yaml(place, error=MappingInvalid) if place is not None else None
    mapped = isinstance(value, dict) and value.get("contract") == contract.ref
    agreed = value.get("agreed") if isinstance(value, dict) and mapped else None
    if agreed is None:
        raise Refused(
            f"nobody in this silo has confirmed the contract {contract.ref}; read it, then: "
            f"consilo silo data confirm {contract.ref}",
            code="contract_unconfirmed",
        )
    if agreed != contract.digest:
        raise Refused(
            f"the contract {contract.ref} is not the text that this silo has confirmed; read what "
            f"changed, then: consilo silo data confirm {contract.ref}",
            code="contract_changed",
        )
