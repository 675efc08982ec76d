"""In which unit a local column of numbers is, by its name and by where its values lie."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from consilo.contracts.contract import Column
from silos.proposals.profile import SENTINELS, Floats, Profile, Reading
from silos.rows.units import conversion_fault, convert

_UNITS = (
    *("m", "cm", "mm", "um", "inch", "foot", "km", "m2", "cm2", "mm2", "um2"),
    *("kg", "g", "mg", "lb", "ounce", "degC", "degF", "kelvin"),
    *("mmHg", "kPa", "hPa", "bar", "cmH2O", "year", "month", "week", "day", "hour", "minute"),
    *("second", "ms", "mg/dl", "g/dl", "g/l", "mg/l", "ug/l", "ug/dl", "mmol/l", "umol/l"),
    *("1/min", "1/s", "l", "ml", "dl", "ml/min", "l/min", "percent", "1", "degree", "radian"),
    *("kg/m2", "g/cm2", "kJ", "kcal", "eV", "mV", "V", "uV"),
)
"""Units that tables are kept in; those of the contract's dimension are tried on its range."""
_MOLAR_MASS = {"chol": 386.65, "ldl": 386.65, "hdl": 386.65, "gluc": 180.16, "sugar": 180.16,
               "creatinin": 113.12, "urea": 60.06, "bilirubin": 584.66, "triglycerid": 885.4,
               "calcium": 40.08, "uric": 168.11, "lactate": 90.08}  # fmt: skip
_UNIT_WORDS = {"mmhg": "mmHg", "kpa": "kPa", "yrs": "year", "years": "year", "months": "month",
               "days": "day", "hours": "hour", "minutes": "minute", "seconds": "second",
               "bpm": "1/min", "pct": "percent", "percent": "percent", "celsius": "degC",
               "fahrenheit": "degF", "inches": "inch", "lbs": "lb", "kilo": "kg"}  # fmt: skip
_GUESSED_UNIT = 0.9
"""Factor on the fit of a unit that no name tells of."""


def quantity(local: Profile, column: Column) -> Reading:
    """Return the best reading of a column of numbers, for one of type float or integer."""
    if local.numeric_share < 0.5:
        return Reading(0.1 * local.numeric_share, {})
    read = max(_in_units(local, column), key=lambda each: each.fit)
    how = {**read.how, **({"decimal": ","} if local.decimal == "," else {})}
    reasons, doubts = read.reasons, read.doubts
    if local.decimal == ",":
        reasons = (*reasons, "numbers are written with a decimal comma")
    if local.numeric_share < 1:
        doubts = (*doubts, f"{1 - local.numeric_share:.0%} of the values are no numbers")
    few = 0.8 if local.distinct <= 3 and local.present > 50 else 1.0
    return replace(
        read, fit=read.fit * local.numeric_share * few, how=how, reasons=reasons, doubts=doubts
    )


def _in_units(local: Profile, column: Column) -> Iterator[Reading]:
    named = unit_in_name(local.name)
    for unit, molar_mass in [(None, None), *_conversions(column)]:
        try:
            values = (
                local.numbers
                if unit is None or column.unit is None
                else convert(local.numbers, unit, column.unit, molar_mass=molar_mass)
            )
        except Exception:  # pint: this unit does not convert after all
            continue
        fit, how, reasons, doubts = _inside(values, local.numbers, column)
        is_contract_unit = unit is None
        if named is not None and column.unit is not None and _comparable(named, column):
            agrees = _same_unit(named, unit or column.unit)
            fit *= 1.0 if agrees else 0.6
            if agrees:
                reasons = (*reasons, f"the name says {named}")
        elif not is_contract_unit:
            fit *= _GUESSED_UNIT
            doubts = (*doubts, f"the unit is guessed from the values: {unit}")
        if unit is not None:
            how = {"unit": unit, **({"molar_mass": molar_mass} if molar_mass else {}), **how}
            reasons = (*reasons, f"in {unit} the values lie where the contract has them")
            # Even a unit that the name tells of changes every number: a person looks at it.
            doubts = doubts or (f"is the local unit {unit}?",)
        yield Reading(fit, how, reasons, doubts)


def _inside(
    values: Floats, local: Floats, column: Column
) -> tuple[float, dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Return fit, entry, reasons and doubts of values that are in the contract's unit already."""
    low, high = _ends(column)
    inside = (values >= low - 1e-9) & (values <= high + 1e-9)
    how: dict[str, Any] = {}
    doubts: tuple[str, ...] = ()
    outside = {float(each) for each in np.unique(local[~inside])}
    sentinels = sorted(outside & SENTINELS)
    if sentinels and len(sentinels) <= 2:
        kept = ~np.isin(local, sentinels)
        codes = [int(each) for each in sentinels]
        how["missing"] = codes
        listed = " and ".join(str(code) for code in codes)
        doubts = (f"{listed} lies outside the contract's range; does it mean 'not recorded'?",)
        values, inside = values[kept], inside[kept]
        if not len(values):
            return 0.5, how, (), (*doubts, "there is no other value")
    share = float(np.mean(inside))
    reasons: list[str] = []
    if share < 1:
        doubts = (*doubts, f"{1 - share:.1%} of the values lie outside the contract's range")
    elif np.isfinite([low, high]).any():
        reasons.append("all values lie in the contract's range")
    fit = share**4
    if column.typical is not None:
        middle = float(np.median(values))
        near = _typical(middle, column)
        fit *= near
        reasons += ["the median is typical"] if near == 1 else []
        doubts += ("the median is not typical: a wrong unit?",) if near < 1 else ()
    elif not np.isfinite([low, high]).all():
        fit *= 0.8
    if column.type == "integer" and len(values):
        whole = float(np.mean(np.abs(values - np.round(values)) < 1e-6))
        fit *= whole
    return fit, how, tuple(reasons), doubts


def _typical(middle: float, column: Column) -> float:
    assert column.typical is not None
    low = _end(column.typical.min, -np.inf)
    high = _end(column.typical.max, np.inf)
    if low <= middle <= high:
        return 1.0
    # Just outside costs little, ten times outside nearly all.
    edge = low if middle < low else high
    ratio = abs(np.log10(max(abs(middle), 1e-12) / max(abs(edge), 1e-12)))
    return float(0.7 * np.exp(-2.5 * ratio))


def _ends(column: Column) -> tuple[float, float]:
    if column.range is None:
        return -np.inf, np.inf
    return _end(column.range.min, -np.inf), _end(column.range.max, np.inf)


def _end(value: Any, otherwise: float) -> float:
    return otherwise if value is None else float(value)


@cache
def _units_beside(unit: str) -> tuple[str, ...]:
    return tuple(
        other
        for other in _UNITS
        if not _same_unit(other, unit) and conversion_fault(other, unit) is None
    )


def _conversions(column: Column) -> list[tuple[str, float | None]]:
    if column.unit is None:
        return []
    conversions: list[tuple[str, float | None]] = [
        (unit, None) for unit in _units_beside(column.unit)
    ]
    text = " ".join((column.name, *column.synonyms, column.description)).lower()
    for substance, mass in _MOLAR_MASS.items():
        if substance in text:
            others = ("mmol/l", "umol/l") if "mol" not in column.unit else ("mg/dl", "mg/l")
            conversions += [(unit, mass) for unit in others
                      if conversion_fault(unit, column.unit, molar_mass=mass) is None]  # fmt: skip
            break
    return conversions


def unit_in_name(name: str) -> str | None:
    """Return the unit at the end of a column's name, as in ``height_cm`` or ``chol [mmol/l]``."""
    bracketed = re.search(r"[\[(]\s*([^\])]+?)\s*[\])]\s*$", name)
    if bracketed:
        return _known_unit(bracketed[1])
    parts = [part for part in re.split(r"[\s_.\-]+", name) if part]
    tails = ["/".join(parts[-2:])] if len(parts) > 2 else []
    tails += [parts[-1]] if len(parts) > 1 else []
    return next((unit for tail in tails if (unit := _known_unit(tail))), None)


def _known_unit(text: str) -> str | None:
    by_case = {unit.lower(): unit for unit in _UNITS if unit != "1"}
    plain = text.lower().replace("µ", "u").replace("²", "2").replace("^2", "2").replace("°", "deg")
    return by_case.get(plain) or _UNIT_WORDS.get(plain)


def _comparable(unit: str, column: Column) -> bool:
    wanted = column.unit or "1"
    return any(_same_unit(unit, each) for each, _ in [(wanted, None), *_conversions(column)])


@cache
def _same_unit(one: str, other: str) -> bool:
    if one == other:
        return True
    if conversion_fault(one, other) is not None:
        return False
    # Two points: degrees differ by an offset, others by a factor.
    points = np.array([1.0, 100.0])
    return bool(np.allclose(convert(points, one, other), points, rtol=1e-9))
