"""Physical units of a silo's columns, in pint's words and the short forms people write."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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
    try:
        convert(np.ones(1), source, target, molar_mass=molar_mass)
    except Exception:
        hint = (
            "" if molar_mass else "; from amount to mass of a substance, give molar_mass in g/mol"
        )
        return f"unit '{source}' cannot be converted to '{target}'{hint}"
    return None


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
