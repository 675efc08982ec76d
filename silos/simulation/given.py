"""What a simulation is given as silos, looked at before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consilo.errors import ConfigInvalid
from consilo.silo_name import fault_of

if TYPE_CHECKING:
    import pandas as pd


def require_silos(silos: Mapping[str, pd.DataFrame | str | Path]) -> None:
    """Raise `ConfigInvalid`, with all findings, unless each silo has a name and rows.

    Args:
        silos: name → frame, or name → directory, as a person gave it.
    """
    if not isinstance(silos, Mapping):
        told = f"expected a dict of names to frames or directories, found {type(silos).__name__}"
        raise ConfigInvalid("silos", [told])
    faults = [fault for fault in map(fault_of, silos) if fault]
    faults += [f"{name}: {fault}" for name, rows in silos.items() for fault in _faults(rows)]
    if not silos:
        faults.append("there is none; give at least one, such as {'north': frame}")
    if faults:
        raise ConfigInvalid("silos", faults)


def _faults(rows: Any) -> Iterator[str]:
    import pandas as pd

    if isinstance(rows, str | Path):
        place = Path(rows)
        if not place.exists():
            yield f"there is no directory {place}"
        elif not place.is_dir():
            yield f"{place} is a file; give its rows as a frame, or a directory with silo.yaml"
        elif not (place / "silo.yaml").exists():
            yield f"{place} has no silo.yaml; 'consilo silo data add' writes it"
        return
    if not isinstance(rows, pd.DataFrame):
        yield f"expected a pandas DataFrame or a directory, found {type(rows).__name__}"
        return
    odd = [each for each in rows.columns if not isinstance(each, str)]
    if odd:
        yield f"a column's name is a text, found {', '.join(map(repr, odd[:3]))}"
    twice = sorted({str(each) for each in rows.columns[rows.columns.duplicated()]})
    if twice:
        yield f"two columns have one name: {', '.join(twice[:5])}"
    for name, kind in zip(rows.columns, rows.dtypes, strict=True):
        if kind.kind == "c":
            yield f"column {name!r} has complex numbers; give two columns of plain ones"
