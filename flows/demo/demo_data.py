"""The demo's hospitals: scikit-learn's breast cancer table, cut up and written as each holds it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid
from consilo.kernel import seeds
from consilo.yaml_text import to_yaml
from silos.gate.policy import TEMPLATE
from silos.simulation.in_memory import write_made_up_root

if TYPE_CHECKING:
    import pandas as pd

NAMES = ("north", "south", "east", "west", "centre", "coast", "hill", "lake", "river", "valley")
CONTRACT = "breast_cancer@1"
_MALIGNANT = (0.60, 0.20, 0.42, 0.35, 0.50, 0.28)
_SIZES = (0.36, 0.27, 0.20, 0.17)


@dataclass(frozen=True)
class Hospital:
    """One silo of the demo.

    Args:
        name: the silo's.
        directory: where its files are.
        rows: canonical rows, as they would be without any fault of the hospital's.
        broken: whether its file breaks the contract.
    """

    name: str
    directory: Path
    rows: pd.DataFrame
    broken: bool


def write_hospitals(folder: Path, *, count: int, seed: int) -> list[Hospital]:
    """Write ``count`` silos below ``folder``; the last one's file breaks the contract.

    The first holds CSV, the second Parquet with other names and centimetres, the third an SQLite
    table with other names, micrometres and letters for the diagnosis; further ones hold CSV.

    Raises:
        ConfigInvalid: for fewer than three silos, or more than there are rows for.
    """
    hospitals = []
    for place, (name, rows) in enumerate(hospital_rows(count=count, seed=seed).items()):
        broken = place == count - 1
        directory = folder / name
        directory.mkdir(parents=True, mode=0o700)
        if broken:
            source, mapping = _write_broken(directory, rows)
        elif place == 1:
            source, mapping = _write_parquet(directory, rows)
        elif place == 2:
            source, mapping = _write_sqlite(directory, rows)
        else:
            source, mapping = _write_csv(directory, rows)
        _write_yaml(directory / "silo.yaml", {"name": name, "data": {"patients": source}})
        agreed = Contract.load(CONTRACT).digest
        said = {"contract": CONTRACT, "agreed": agreed, **mapping}
        _write_yaml(directory / "mapping.yaml", said)
        (directory / "policy.yaml").write_text(TEMPLATE)
        write_made_up_root(directory, name)
        hospitals.append(Hospital(name, directory, rows, broken))
    return hospitals


def hospital_rows(*, count: int, seed: int) -> dict[str, pd.DataFrame]:
    """Return hospital → canonical rows, without any fault of the hospital's.

    Raises:
        ConfigInvalid: for fewer than three silos, or more than there are rows for.
    """
    if not 3 <= count <= len(NAMES):
        raise ConfigInvalid(
            "--silos", [f"the demo has 3 to {len(NAMES)} silos, one of them broken; found {count}"]
        )
    return dict(zip(NAMES, _cut(whole_table(), count, seed), strict=False))


def whole_table() -> pd.DataFrame:
    """Return scikit-learn's table as canonical rows of the contract."""
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer(as_frame=True)
    frame: pd.DataFrame = bunch.frame.rename(columns=lambda name: name.replace(" ", "_"))
    frame["malignant"] = 1 - frame.pop("target")  # scikit-learn counts benign as 1
    frame["patient_id"] = [f"P{number:05d}" for number in range(len(frame))]
    order = list(Contract.load(CONTRACT).columns)
    return frame[order]


def _cut(table: pd.DataFrame, count: int, seed: int) -> list[pd.DataFrame]:
    """Cut rows into unequal parts with unlike shares of the target."""
    rng = seeds.generator(seed, "demo")
    shares = np.array([_SIZES[min(i, len(_SIZES) - 1)] for i in range(count)])
    sizes = np.floor(shares / shares.sum() * len(table)).astype(int)
    pools = {
        label: list(rng.permutation(np.flatnonzero(table["malignant"] == label)))
        for label in (0, 1)
    }
    parts = []
    for place, size in enumerate(sizes):
        wanted = round(size * _MALIGNANT[place % len(_MALIGNANT)])
        take = min(wanted, len(pools[1]) - 10 * (count - place - 1))
        rows = [pools[1].pop() for _ in range(max(take, 5))]
        rows += [pools[0].pop() for _ in range(min(size - len(rows), len(pools[0])))]
        parts.append(table.iloc[np.sort(rows)].reset_index(drop=True))
    return parts


def _write_csv(directory: Path, rows: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    rows.to_csv(directory / "patients.csv", index=False)
    return {"type": "csv", "path": "patients.csv"}, {}


def _write_parquet(directory: Path, rows: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    """Other names; lengths in centimetres, areas in square centimetres."""
    units = {"mm": ("cm", 10.0), "mm2": ("cm2", 100.0)}
    local, columns = _renamed(rows, units, lambda name: f"fna_{name}")
    local.to_parquet(directory / "cytology.parquet", index=False)
    return {"type": "parquet", "path": "cytology.parquet"}, {"columns": columns}


def _write_sqlite(directory: Path, rows: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    """Other names; lengths in micrometres, areas in square micrometres, letters for the target."""
    units = {"mm": ("um", 1e-3), "mm2": ("um2", 1e-6)}
    local, columns = _renamed(rows, units, lambda name: "".join(p[:4] for p in name.split("_")))
    target = columns["malignant"]["from"]
    local[target] = np.where(local[target] == 1, "M", "B")
    columns["malignant"]["recode"] = {"M": 1, "B": 0}
    database = sqlite3.connect(directory / "pathology.db")
    try:
        with database:
            local.to_sql("aspirates", database, index=False)
    finally:
        database.close()
    return {"type": "sqlite", "path": "pathology.db", "table": "aspirates"}, {"columns": columns}


def _write_broken(directory: Path, rows: pd.DataFrame) -> tuple[dict[str, Any], dict[str, Any]]:
    """Radii in centimetres that nobody says, impossible areas, a patient who is there twice."""
    wrong = rows.copy()
    for name in ("mean_radius", "worst_radius"):
        wrong[name] = wrong[name] / 10
    wrong.loc[wrong.index[:3], "mean_area"] = -1.0
    wrong.loc[wrong.index[1], "patient_id"] = wrong.loc[wrong.index[0], "patient_id"]
    return _write_csv(directory, wrong)


def _renamed(
    rows: pd.DataFrame, units: dict[str, tuple[str, float]], name_of: Any
) -> tuple[pd.DataFrame, dict[str, Any]]:
    contract = Contract.load(CONTRACT)
    local = rows.copy()
    columns: dict[str, Any] = {}
    for name, column in contract.columns.items():
        entry: dict[str, Any] = {"from": name_of(name)}
        if column.unit in units:
            unit, factor = units[column.unit]
            local[name] = local[name] / factor
            entry["unit"] = unit
        columns[name] = entry
    return local.rename(columns={name: columns[name]["from"] for name in columns}), columns


def _write_yaml(path: Path, value: Any) -> None:
    path.write_text(to_yaml(value))
