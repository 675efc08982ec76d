"""Physical units of a silo's columns, in pint's words and the short forms people write."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from silos.rows.cells.expression import Expression

_POWER = re.compile(r"(?<![A-Za-z0-9_])([A-Za-zµ]+)([23])(?![A-Za-z0-9_])")


def unit_fault(unit: str) -> str | None:
    """Return why pint does not understand ``unit``, or None where it does."""
    try:
        _quantity_unit(unit)
    except Exception:
        return f"unit '{unit}' is not known; write it in pint's words, such as mm, mm2, mg/dl, 1"
    return None


def conversion_fault(source: str, target: str, *, molar_mass: float | None = None) -> str | None:
    """Return why values in unit ``source`` cannot be had in unit ``target``, or None."""
    import numpy as np

    for unit in (source, target):
        if fault := unit_fault(unit):
            return fault
    if _is_share(source) and _is_share(target) and _moles(source) != _moles(target):
        return _by_ratio(source, target)
    try:
        convert(np.ones(1), source, target, molar_mass=molar_mass)
    except Exception:
        hint = (
            "" if molar_mass else "; from amount to mass of a substance, give molar_mass in g/mol"
        )
        return f"unit '{source}' cannot be converted to '{target}'{hint}"
    return None


def _moles(unit: str) -> bool:
    return "mol" in unit


def _is_share(unit: str) -> bool:
    return bool(_registry().Quantity(1, _quantity_unit(unit)).dimensionless)


def _by_ratio(source: str, target: str) -> str:
    """Return why a share of moles and a share of anything else are not each other's multiple."""
    import numpy as np

    ratio = convert(np.ones(1), source, target)[0]
    return (
        f"'{source}' to '{target}' is a ratio of {ratio:g} in units alone, and moles are no "
        "share of mass or volume; write scale and offset in place of unit: for HbA1c from mmol/mol "
        f"(IFCC) to percent (NGSP) scale: 0.0915 and offset: 2.15; where the plain ratio is meant, "
        f"scale: {ratio:g}"
    )


def derived(
    expression: Expression, values: Mapping[str, NDArray[np.float64]], units: Mapping[str, str]
) -> Any:
    """Return what a formula gives for columns in their units, as a quantity of pint.

    Raises:
        pint.PintError: where the units do not go together.
    """
    registry = _registry()
    quantities = {
        name: registry.Quantity(each, _quantity_unit(units[name])) for name, each in values.items()
    }
    return expression.of(quantities) * registry.dimensionless


def derived_in(
    expression: Expression,
    values: Mapping[str, NDArray[np.float64]],
    units: Mapping[str, str],
    target: str,
) -> NDArray[np.float64]:
    """Return what a formula gives for columns in their units, in unit ``target``."""
    made = derived(expression, values, units).to(_quantity_unit(target)).magnitude
    converted: NDArray[np.float64] = made
    return converted


def derived_fault(expression: Expression, units: Mapping[str, str], target: str) -> str | None:
    """Return why a formula over columns in these units has no value in unit ``target``, or None."""
    import numpy as np

    for unit in (*units.values(), target):
        if fault := unit_fault(unit):
            return fault
    ones = {name: np.ones(1) for name in units}
    try:
        with np.errstate(all="ignore"):
            made = derived(expression, ones, units)
    except Exception:
        return "the units of the columns in value do not go together"
    try:
        made.to(_quantity_unit(target))
    except Exception:
        return f"value is in '{made.units}', which cannot be converted to '{target}'"
    return None


def is_percent(unit: str | None) -> bool:
    """Return whether numbers in a unit may have a percent sign behind them."""
    return unit in ("percent", "%")


def convert(
    values: NDArray[np.float64], source: str, target: str, *, molar_mass: float | None = None
) -> NDArray[np.float64]:
    """Return ``values`` of unit ``source`` in unit ``target``; NaN stays NaN.

    Args:
        values: any shape.
        source: the unit they are in.
        target: the unit wanted.
        molar_mass: in g/mol, where one unit counts moles and the other weighs.
    """
    if source == target:
        return values
    registry = _registry()
    quantity = registry.Quantity(values, _quantity_unit(source))
    wanted = _quantity_unit(target)
    if molar_mass is None:
        converted: NDArray[np.float64] = quantity.to(wanted).magnitude
        return converted
    mass = registry.Quantity(molar_mass, "g/mol")
    converted = quantity.to(wanted, "chemistry", mw=mass).magnitude
    return converted


@cache
def _registry() -> Any:
    import pint

    return pint.UnitRegistry()


@cache
def _quantity_unit(unit: str) -> Any:
    registry = _registry()
    spelled = _POWER.sub(r"\1**\2", unit)
    if spelled.strip() == "1":
        return registry.dimensionless
    if spelled.startswith("1/"):
        return 1 / registry.Unit(spelled[2:])
    return registry.Unit(spelled)
