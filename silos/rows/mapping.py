"""A silo's mapping: from its own names, units and codes to the contract's canonical table.

Canonical dtypes: float → float64 (NaN is null); integer → Int64; boolean → boolean; category and
string → str; date → datetime64[ns] without a time zone (UTC).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, MutableMapping, Sequence
from collections.abc import Mapping as MappingOf
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, StrictBool

from consilo.config import Config, nearest, parse, read_yaml
from consilo.contracts.contract import Column, Contract
from consilo.errors import MappingInvalid, Refused, SourceUnreadable
from silos.rows.canonical import (
    KEYS,
    allowed_values,
    canonical,
    computed,
    is_missing,
    recoded_to_null,
)
from silos.rows.cells.dates import doubts
from silos.rows.columns import Code, ColumnMapping
from silos.rows.units import conversion_fault, derived_fault, unit_fault

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

UNREADABLE = "unreadable"
"""Key of ``frame.attrs``: column → how many values could not be read, and the first rows."""

SEEN = "seen"
"""Key of ``frame.attrs``: column → what its dates show that makes others of them doubtful."""

ROWS_SHOWN = 20


@dataclass(frozen=True)
class MadeColumn:
    """A column of a canonical table.

    Args:
        name: its name.
        values: in its dtype.
        unreadable: how many values could not be read, and the first rows; empty where all could.
        shown: what its dates show that makes others of them doubtful.
    """

    name: str
    values: pd.Series[Any]
    unreadable: dict[str, Any]
    shown: frozenset[str]


class Mapping(Config):
    """A silo's whole mapping for one contract.

    Args:
        contract: the reference of the contract, such as ``heart@1``.
        columns: canonical name → how it comes about; what is not listed has the same name, unit
            and codes in the silo.
        missing: local codes that mean "nothing recorded" in every column, such as ``"?"``.
        decimal: the decimal sign of every column that does not say its own.
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
    decimal: Literal[".", ","] | None = None

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
                f"confirmed; read it, then: consilo silo data confirm {contract.ref} (or the "
                "contract's file)",
                code="mapping",
            )
        return mapping

    @classmethod
    def given(cls, path: Path, contract: Contract) -> Self:
        """Return the mapping of a YAML file that a person names beside rows of their own.

        Raises:
            MappingInvalid: with one finding per fault; also where it is a proposal still.
        """
        mapping = cls.parse(read_yaml(path, error=MappingInvalid), contract, where=str(path))
        if not mapping.confirmed:
            told = "confirmed: it is a proposal that nobody has confirmed; read it, and write true"
            raise MappingInvalid(str(path), [told])
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

    def local_columns(self, contract: Contract) -> dict[str, tuple[str, ...]]:
        """Return canonical name → local names, for all columns that come from any."""
        return {
            column.name: self.how(column).columns or (column.name,)
            for column in contract.table
            if not self.how(column).is_constant
        }

    def text_columns(self, contract: Contract) -> list[str]:
        """Return the local columns to read as written: a code such as ``007`` is no number."""
        as_text: list[str] = []
        for name, several in self.local_columns(contract).items():
            column = contract.columns[name]
            how = self.how(column)
            as_written = column.type in ("string", "category", "date") or column.role in KEYS
            if as_written or how.recode or how.decimal == ",":
                as_text += several
        return as_text

    def code_columns(self, contract: Contract) -> list[str]:
        """Return the local columns whose cells are texts in the canonical table as they stand."""
        return [
            local
            for name, several in self.local_columns(contract).items()
            if contract.columns[name].type in ("string", "category")
            and self.how(contract.columns[name]).recode is None
            for local in several
        ]

    def comma_columns(self, contract: Contract) -> list[str]:
        """Return the local columns whose numbers have a comma as decimal sign."""
        several = self.local_columns(contract)
        marked = [name for name in several if self.how(contract.columns[name]).decimal == ","]
        return [local for name in marked for local in several[name]]

    def missing_columns(self, available: Sequence[str], contract: Contract) -> list[str]:
        """Return, for the people in the silo, a sentence per local column that is not there."""
        findings = []
        for name, several in self.local_columns(contract).items():
            for local in several:
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
        seen: dict[str, frozenset[str]] = {}
        while True:
            table = self.apply_columns(dict(frame.items()), len(frame), contract, seen=seen)
            if not add_seen(seen, table.attrs.pop(SEEN, {})):
                return table

    def apply_columns(
        self,
        rows: MutableMapping[Any, pd.Series[Any]],
        num_rows: int,
        contract: Contract,
        *,
        seen: MappingOf[str, frozenset[str]] | None = None,
    ) -> pd.DataFrame:
        """Return the canonical table as `apply` does, and take ``rows`` apart on the way.

        Args:
            rows: see `made`.
            num_rows: of each column.
            contract: the contract.
            seen: see `made`; ``frame.attrs["seen"]`` has what this block's dates show.
        """
        import pandas as pd

        made = {each.name: each for each in self.made(rows, num_rows, contract, seen=seen)}
        columns = {name: each.values for name, each in made.items()}
        table = pd.DataFrame(columns, index=pd.RangeIndex(num_rows), copy=False)
        if unreadable := {name: each.unreadable for name, each in made.items() if each.unreadable}:
            table.attrs[UNREADABLE] = unreadable
        if shown := {name: each.shown for name, each in made.items() if each.shown}:
            table.attrs[SEEN] = shown
        return table

    def made(
        self,
        rows: MutableMapping[Any, pd.Series[Any]],
        num_rows: int,
        contract: Contract,
        *,
        seen: MappingOf[str, frozenset[str]] | None = None,
        rows_shown: int | None = ROWS_SHOWN,
    ) -> Iterator[MadeColumn]:
        """Yield the columns of the canonical table, and take ``rows`` apart on the way.

        Args:
            rows: local name → column; a column is removed once it has been mapped for the last
                time, so that its memory is free for what is made of the next one.
            num_rows: of each column.
            contract: the contract.
            seen: column → what its dates in all blocks show. Where those of this block show more,
                the blocks are to be mapped again.
            rows_shown: of so many rows that could not be read it is said which; None for all.
        """
        import pandas as pd

        uses = Counter(name for each in self.local_columns(contract).values() for name in each)
        for column in contract.table:
            how = self.how(column)
            local = how.columns or (column.name,)
            if how.is_constant:
                parts = {"": pd.Series([how.constant] * num_rows, dtype=object)}
                how = ColumnMapping()
            elif all(name in rows for name in local):
                uses.subtract(local)
                parts = {name: rows[name] if uses[name] else rows.pop(name) for name in local}
            else:
                continue
            try:
                known = (seen or {}).get(column.name, frozenset())
                values, lost, showing = self._made(parts, column, how, known)
            except Exception:
                # What a library says about a value may quote it.
                named = " and ".join(f"'{name}'" for name in local)
                reason = f"column {named} cannot be read as {column.type} for {column.name}"
                raise SourceUnreadable(f"{reason}; check the mapping") from None
            unreadable: dict[str, Any] = {}
            if lost.any():
                which = lost.nonzero()[0]
                unreadable = {"count": len(which), "rows": which[:rows_shown].tolist()}
            yield MadeColumn(
                column.name, values.set_axis(pd.RangeIndex(num_rows)), unreadable, showing
            )
            del parts, values, lost

    def lost(
        self, rows: MappingOf[Any, pd.Series[Any]], table: pd.DataFrame, column: Column
    ) -> NDArray[np.bool_]:
        """Return in which rows something stands in the local columns that became nothing."""
        import numpy as np

        how = self.how(column)
        if how.is_constant:
            return np.zeros(len(table), dtype=bool)
        parts = {name: rows[name] for name in how.columns or (column.name,)}
        gone: NDArray[np.bool_] = table[column.name].isna().to_numpy()
        return gone & ~self._empty(parts, column, how)

    def how(self, column: Column) -> ColumnMapping:
        """Return how a canonical column comes about."""
        how = self.columns.get(column.name) or ColumnMapping()
        if self.decimal is None or how.is_constant or "decimal" in how.model_fields_set:
            return how
        return how.model_copy(update={"decimal": self.decimal})

    def _empty(
        self, parts: MappingOf[str, pd.Series[Any]], column: Column, how: ColumnMapping
    ) -> NDArray[np.bool_]:
        """Return in which rows one of the local columns holds nothing, or what means nothing."""
        import numpy as np

        codes = (*self.missing, *how.missing)
        each = [is_missing(part, codes, column, how) for part in parts.values()]
        if how.recode is not None:
            each += [recoded_to_null(part, how) for part in parts.values()]
        empty: NDArray[np.bool_] = each[0] if len(each) == 1 else np.logical_or.reduce(each)
        return empty

    def _made(
        self,
        parts: dict[str, pd.Series[Any]],
        column: Column,
        how: ColumnMapping,
        seen: frozenset[str],
    ) -> tuple[pd.Series[Any], NDArray[np.bool_], frozenset[str]]:
        """Return canonical values, which could not be read, and what dates show of the column."""
        import pandas as pd

        for name, part in parts.items():
            if isinstance(part.dtype, pd.CategoricalDtype):
                parts[name] = part.astype(object)
        empty = self._empty(parts, column, how)
        if empty.any():
            parts = {name: part.mask(empty) for name, part in parts.items()}
        if how.value is not None:
            values, showing = computed(parts, column, how), frozenset[str]()
        else:
            values, showing = canonical(next(iter(parts.values())), column, how, seen)
        return values, values.isna().to_numpy() & ~empty, showing


def add_seen(seen: dict[str, frozenset[str]], more: MappingOf[str, frozenset[str]]) -> bool:
    """Add what dates of a block show; return whether other dates are doubtful by it."""
    doubtful = False
    for name, each in more.items():
        before = seen.get(name, frozenset())
        seen[name] = before | each
        doubtful |= doubts(seen[name]) != doubts(before)
    return doubtful


def _faults(column: Column, how: ColumnMapping) -> list[str]:
    faults = []
    if how.unit is not None:
        if column.unit is None:
            faults.append("unit: the contract gives this column no unit; remove it")
        elif fault := conversion_fault(how.unit, column.unit, molar_mass=how.molar_mass):
            faults.append(f"unit: {fault}")
    elif how.molar_mass is not None:
        faults.append("molar_mass: needs the local unit beside it")
    if how.units is not None and (expression := how.expression) is not None:
        if column.unit is None:
            faults.append("units: the contract gives this column no unit; remove them")
        elif fault := derived_fault(expression, how.units, column.unit):
            faults.append(f"units: {fault}")
    for name in ("date_format", "zone"):
        if getattr(how, name) is not None and column.type != "date":
            faults.append(f"{name}: the column is of type {column.type}, not date")
    numeric = column.type in ("float", "integer") or how.threshold is not None
    for name in ("value", "scale", "offset"):
        if getattr(how, name) is not None and not numeric:
            faults.append(f"{name}: makes a number, the column is of type {column.type}")
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
    read, _ = canonical(series, column, ColumnMapping())
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
            f"consilo silo data confirm {contract.ref} (or the contract's file)",
            code="contract_unconfirmed",
        )
    if agreed != contract.digest:
        raise Refused(
            f"the contract {contract.ref} is not the text that this silo has confirmed; read what "
            f"changed, then: consilo silo data confirm {contract.ref} (or the contract's file)",
            code="contract_changed",
        )
