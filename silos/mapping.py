"""A silo's mapping: from its own names, units and codes to the contract's canonical table.

Canonical dtypes: float → float64 (NaN is null); integer → Int64; boolean → boolean; category and
string → str; date → datetime64[ns] without a time zone (UTC).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, model_validator

from consilo.config import Config, nearest, parse, read_yaml
from consilo.contract import Column, Contract
from consilo.errors import MappingInvalid, SourceUnreadable
from silos.units import conversion_fault, convert, unit_fault

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

Code = StrictBool | StrictInt | StrictFloat | StrictStr
UNREADABLE = "unreadable"
"""Key of ``frame.attrs``: column → how many values could not be read, and the first rows."""

DTYPES = {
    "float": "float64",
    "integer": "Int64",
    "boolean": "boolean",
    "category": "str",
    "string": "str",
    "date": "datetime64[ns]",
}
_TRUE = frozenset({"1", "true", "yes", "on", "t", "y"})
_FALSE = frozenset({"0", "false", "no", "off", "f", "n"})
_ROWS_SHOWN = 20
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


class Mapping(Config):
    """A silo's whole mapping for one contract.

    Args:
        contract: the reference of the contract, such as ``heart@1``.
        columns: canonical name → how it comes about; what is not listed has the same name, unit
            and codes in the silo.
        missing: local codes that mean "nothing recorded" in every column, such as ``"?"``.
    """

    contract: str
    columns: dict[str, ColumnMapping] = Field(default_factory=dict)
    missing: tuple[Code, ...] = ()

    @classmethod
    def load(cls, path: Path, contract: Contract) -> Self:
        """Return the mapping of a YAML file.

        Raises:
            MappingInvalid: with one finding per fault, also those against the contract.
        """
        value = read_yaml(path, error=MappingInvalid)
        return cls.parse(value, contract, where=str(path))

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
        said = json.dumps(value, sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest()

    def faults(self, contract: Contract) -> list[str]:
        """Return one sentence for each thing that does not fit ``contract``."""
        faults = []
        if self.contract != contract.ref:
            faults.append(f"contract: is for {self.contract}, the contract is {contract.ref}")
        names = [column.name for column in contract.table]
        for name, how in self.columns.items():
            column = contract.columns.get(name)
            if column is None or name not in names:
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
        import pandas as pd

        columns: dict[str, Any] = {}
        unreadable: dict[str, dict[str, Any]] = {}
        for column in contract.table:
            how = self._how(column)
            local = how.source or column.name
            if how.is_constant:
                series = pd.Series([how.constant] * len(frame), index=frame.index, dtype=object)
                how = ColumnMapping()
            elif local in frame.columns:
                series = frame[local]
            else:
                continue
            try:
                empty = _is_missing(series, (*self.missing, *how.missing))
                present = series.mask(empty) if empty.any() else series
                values = _canonical(present, column, how)
                lost = values.isna().to_numpy() & ~empty & ~_recoded_to_null(series, how)
            except Exception:
                # What a library says about a value may quote it.
                said = f"column '{local}' cannot be read as {column.type} for {column.name}"
                raise SourceUnreadable(f"{said}; check the mapping") from None
            if lost.any():
                rows = lost.nonzero()[0]
                unreadable[column.name] = {"count": len(rows), "rows": rows[:_ROWS_SHOWN].tolist()}
            columns[column.name] = values.set_axis(pd.RangeIndex(len(frame)))
        canonical = pd.DataFrame(columns, index=pd.RangeIndex(len(frame)), copy=False)
        if unreadable:
            canonical.attrs[UNREADABLE] = unreadable
        return canonical

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
    read = _canonical(series, column, ColumnMapping())
    if read.isna().any():
        return False
    return column.allowed is None or bool(read.isin(allowed_values(column)).all())


def allowed_values(column: Column) -> list[Any]:
    """Return the contract's allowed values as the canonical table holds them."""
    allowed = column.classes or ()
    return [str(value) for value in allowed] if DTYPES[column.type] == "str" else list(allowed)


def _key(value: Any) -> str:
    """Return the text under which a local code is known: 1, 1.0, "1" and " 1.0 " are one code."""
    text = str(value).strip()
    try:
        number = float(text)
    except ValueError:
        return text.lower() if isinstance(value, bool) else text
    return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)


def _keys(series: pd.Series[Any]) -> pd.Series[Any]:
    """Return `_key` of each value, worked out once per distinct value; null stays null."""
    import pandas as pd

    codes, distinct = pd.factorize(series)
    known = pd.Series([_key(value) for value in distinct], dtype=object)
    return known.reindex(codes).set_axis(series.index)


def _code_keys(code: Any) -> set[str]:
    # YAML reads the words yes, no, on and off as booleans.
    if code is True:
        return {"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"}
    if code is False:
        return {"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"}
    return {_key(code)}


def _is_missing(series: pd.Series[Any], codes: Sequence[Code]) -> NDArray[np.bool_]:
    import pandas as pd

    empty: NDArray[np.bool_] = series.isna().to_numpy(dtype=bool)
    keys = {key for code in codes for key in _code_keys(code)}
    if pd.api.types.is_numeric_dtype(series.dtype) and not _is_bool(series):
        numbers = [number for key in keys if (number := _number(key)) is not None]
        return empty | series.isin(numbers).to_numpy(dtype=bool) if numbers else empty
    if pd.api.types.is_datetime64_any_dtype(series.dtype) or _is_bool(series):
        return empty
    # A blank field is nothing, whatever the source's list of nulls says.
    return empty | _keys(series).isin({*keys, ""}).to_numpy(dtype=bool)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _is_bool(series: pd.Series[Any]) -> bool:
    import pandas as pd

    return bool(pd.api.types.is_bool_dtype(series.dtype))


def _recoded_to_null(series: pd.Series[Any], how: ColumnMapping) -> NDArray[np.bool_]:
    import numpy as np

    nulls = [code for code, value in (how.recode or {}).items() if value is None]
    if not nulls:
        return np.zeros(len(series), dtype=bool)
    keys = {key for code in nulls for key in _code_keys(code)}
    found: NDArray[np.bool_] = _keys(series).isin(keys).to_numpy(dtype=bool)
    return found


def _canonical(series: pd.Series[Any], column: Column, how: ColumnMapping) -> pd.Series[Any]:
    """Return the values in the column's dtype; what cannot be read becomes null."""
    import pandas as pd

    if how.recode is not None:
        table = {key: item for code, item in how.recode.items() for key in _code_keys(code)}
        series = _keys(series).map(table).astype(object)
    elif how.threshold is not None:
        series = _compared(_numbers(series, how.decimal), *how.threshold)
    if column.type == "float":
        return _floats(series, column, how)
    if column.type == "integer":
        if pd.api.types.is_integer_dtype(series.dtype) and how.unit is None:
            return series.astype("Int64")
        return _integers(series, column, how)
    if column.type == "boolean":
        return _booleans(series)
    if column.type == "date":
        return _dates(series, how.date_format)
    return _texts(series, column)


def _numbers(series: pd.Series[Any], decimal: str = ".") -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    if not pd.api.types.is_numeric_dtype(series.dtype):
        words = series.map({True: 1, False: 0}) if _is_bool(series) else series
        words = _stripped(words)
        if decimal == ",":
            words = words.map(_with_point, na_action="ignore")
        series = pd.to_numeric(words, errors="coerce")
    values = series.to_numpy(dtype="float64", na_value=np.nan)
    finite = np.isfinite(values)
    if not finite.all():
        values = np.where(finite, values, np.nan)
    return pd.Series(values, index=series.index, copy=False)


def _stripped(series: pd.Series[Any]) -> pd.Series[Any]:
    import pandas as pd

    if isinstance(series.dtype, pd.StringDtype):
        return series.str.strip()
    if series.dtype != object:
        return series
    return series.map(lambda value: value.strip() if isinstance(value, str) else value)


def _with_point(value: Any) -> Any:
    # 1.234,5 is 1234.5; a value that is a number already has no comma to read.
    return value.replace(".", "").replace(",", ".") if isinstance(value, str) else value


def _floats(series: pd.Series[Any], column: Column, how: ColumnMapping) -> pd.Series[Any]:
    import pandas as pd

    numbers = _numbers(series, how.decimal)
    if how.unit is None or column.unit is None:
        return numbers
    values = convert(
        numbers.to_numpy(dtype="float64"), how.unit, column.unit, molar_mass=how.molar_mass
    )
    return pd.Series(values, index=series.index, copy=False)


def _integers(series: pd.Series[Any], column: Column, how: ColumnMapping) -> pd.Series[Any]:
    import numpy as np

    numbers = _floats(series, column, how).to_numpy()
    if how.unit is not None:
        # A conversion leaves 59.99999999999999 where 60 is meant.
        near = np.round(numbers)
        numbers = np.where(np.isclose(numbers, near, rtol=1e-9, atol=1e-9), near, numbers)
    with np.errstate(invalid="ignore"):
        whole = (numbers == np.floor(numbers)) & (np.abs(numbers) < 2**53)
    return _masked_integers(numbers, whole, series.index)


def _masked_integers(
    numbers: NDArray[np.float64], whole: NDArray[np.bool_], index: pd.Index[Any]
) -> pd.Series[Any]:
    import numpy as np
    import pandas as pd

    values = np.where(whole, numbers, 0).astype("int64")
    return pd.Series(pd.arrays.IntegerArray(values, ~whole), index=index)


def _compared(numbers: pd.Series[Any], name: str, limit: float) -> pd.Series[Any]:
    compare = {"greater_than": "gt", "at_least": "ge", "less_than": "lt", "at_most": "le"}[name]
    answers = getattr(numbers, compare)(limit).astype("boolean")
    masked: pd.Series[Any] = answers.mask(numbers.isna())
    return masked.astype("Int64")


def _booleans(series: pd.Series[Any]) -> pd.Series[Any]:
    if _is_bool(series):
        return series.astype("boolean")
    words = _keys(series).map(lambda key: key.lower(), na_action="ignore")
    table = {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}
    return words.map(table).astype("boolean")


def _dates(series: pd.Series[Any], date_format: str | None) -> pd.Series[Any]:
    import pandas as pd

    if not pd.api.types.is_datetime64_any_dtype(series.dtype):
        # 20240131 is a date, 1.7e9 could be seconds or days: a bare number needs a format.
        series = series.map(lambda value: _date_text(value, date_format), na_action="ignore")
        series = series.astype(object)
    read = pd.to_datetime(series, format=date_format or "ISO8601", errors="coerce", utc=True)
    naive = read.dt.tz_localize(None)
    # 9999-12-31 and its like are no dates but codes: they belong under missing.
    fits = naive.between(pd.Timestamp.min.ceil("s"), pd.Timestamp.max.floor("s"))
    return naive.where(fits).astype("datetime64[ns]")


def _date_text(value: Any, date_format: str | None) -> Any:
    if isinstance(value, date):
        return value.strftime(date_format) if date_format else value.isoformat()
    if isinstance(value, str):
        return value.strip()
    return _key(value) if date_format else None


def _texts(series: pd.Series[Any], column: Column) -> pd.Series[Any]:
    import pandas as pd

    if column.type == "category" and column.allowed is not None:
        table = {_key(value): str(value) for value in column.allowed}
        keys = _keys(series)
        # A code outside the list stays as it is: the rule "allowed" tells of it.
        return keys.map(lambda key: table.get(key, key), na_action="ignore").astype("str")
    if isinstance(series.dtype, pd.StringDtype):
        return _stripped(series).astype("str")
    return _keys(series).astype("str")
