"""The vertical demo's organisations: scikit-learn's breast cancer table, cut between three.

Each knows other measures of the nuclei, and most of the patients. Who the patients are is made up:
names, birth dates, numbers and postcodes, with the faults that registers have.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from consilo.contracts.contract import Contract
from consilo.jobs.joint import JointJob
from consilo.kernel import seeds
from consilo.yaml_text import to_yaml
from flows.demo.demo_data import whole_table

if TYPE_CHECKING:
    import pandas as pd

PEOPLE = "patients@1"
_KNOWN = 0.85
"""Share of all patients that an organisation has."""
_TWICE = 0.05
"""Share of an organisation's rows that are there a second time."""
_SOILED = 0.10
"""Share of rows with a fault in one field of what identifies the patient."""
_STARTS = ("Al", "Bel", "Dor", "Fa", "Gre", "Hol", "Jo", "Kra", "Lin", "Mar", "Nor", "Pel", "Rei")
_ENDS = ("ba", "da", "dorn", "fert", "gard", "hild", "kamp", "la", "mann", "na", "ra", "sen", "ta")


@dataclass(frozen=True)
class Organisation:
    """One silo of the vertical demo.

    Args:
        name: the silo's.
        directory: where its files are.
        patients: who each of its rows is, in the order of its file; only the demo knows.
    """

    name: str
    directory: Path
    patients: npt.NDArray[np.int64]


def write_organisations(folder: Path, job: JointJob, *, seed: int) -> list[Organisation]:
    """Write the silos of a job below ``folder``: one table each, in an order of its own.

    The first holds CSV with the contract's names, the second Parquet with names of its own, the
    third an SQLite table with names of its own and micrometres.

    Args:
        folder: of all silos.
        job: says who holds which columns.
        seed: of everything that is drawn.
    """
    rng = seeds.generator(seed, "vertical demo")
    table, holders = whole_table(), job.holders
    people = identities(len(table), rng)
    made = []
    for place, name in enumerate(holders.columns):
        has_labels = name == holders.label_silo
        known = np.flatnonzero(rng.random(len(table)) < _KNOWN)
        twice = known[rng.random(len(known)) < _TWICE]
        patients = rng.permutation(np.concatenate([known, twice])).astype(np.int64)
        columns = [*holders.columns[name], *(["malignant"] if has_labels else [])]
        rows = table.iloc[patients][columns].reset_index(drop=True)
        if has_labels:  # a number per row: who is there twice has two files
            rows.insert(0, "patient_id", [f"C{each:05d}" for each in range(len(rows))])
        ids = soiled(people.iloc[patients].reset_index(drop=True), _SOILED, rng)
        directory = folder / name
        directory.mkdir(parents=True, mode=0o700)
        _write_silo(directory, name, place, ids, rows, has_labels=has_labels)
        made.append(Organisation(name, directory, patients))
    return made


def identities(count: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return people who do not exist; many share a name, some a birth date or a postcode."""
    import pandas as pd

    def names() -> list[str]:
        return [str(rng.choice(_STARTS) + rng.choice(_ENDS)) for _ in range(count)]

    born = pd.Timestamp("1930-01-01") + pd.to_timedelta(rng.integers(0, 22_000, count), "D")
    return pd.DataFrame(
        {
            "insurance_no": [f"{n:09d}" for n in rng.permutation(10**6)[:count] * 971],
            "surname": names(),
            "given_name": names(),
            "born": born.strftime("%Y-%m-%d"),
            "postcode": [f"{n:05d}" for n in rng.integers(10_000, 10_400, count)],
        }
    )


def soiled(people: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    """Return a copy with a fault in one field of a share of its rows, as registers have them.

    The field is empty, has one wrong sign, two signs the wrong way round, or capitals and blanks.
    """
    made = people.copy()
    for row in np.flatnonzero(rng.random(len(made)) < share).tolist():
        at = int(rng.integers(made.shape[1]))
        text = str(made.iat[row, at])
        place, fault = int(rng.integers(len(text) - 1)), int(rng.integers(4))
        wrong = str(rng.choice(list("0123456789" if text[place].isdigit() else "aeinrst")))
        made.iat[row, at] = (
            None,
            text[:place] + wrong + text[place + 1 :],
            text[:place] + text[place + 1] + text[place] + text[place + 2 :],
            f"  {text.upper()} ",
        )[fault]
    return made


def _write_silo(
    directory: Path,
    name: str,
    place: int,
    ids: pd.DataFrame,
    rows: pd.DataFrame,
    *,
    has_labels: bool,
) -> None:
    import pandas as pd

    local, mappings = pd.concat([ids, rows], axis=1), _mappings(ids, rows, place)
    for ref, columns in mappings.items():
        for column, how in columns.items():
            if "unit" in how:
                local[column] = local[column] / _IN_MICROMETRES[how["unit"]]
        local = local.rename(columns={c: how["from"] for c, how in columns.items()})
        entry: dict[str, Any] = {"contract": ref, "agreed": Contract.load(ref).digest}
        entry |= {"columns": columns} if columns else {}
        _write_yaml(directory / "mappings" / f"{ref}.yaml", entry)
    writers = (_write_csv, _write_parquet, _write_sqlite)
    source = writers[place % len(writers)](directory, local)
    _write_yaml(directory / "silo.yaml", {"name": name, "data": {"patients": source}})
    _write_yaml(directory / "policy.yaml", policy(has_labels=has_labels))


def policy(*, has_labels: bool) -> dict[str, Any]:
    """Return what an organisation of the demo lets leave, and with whom it is matched."""
    about_rows = {"label": True, "update": True} if has_labels else {"embedding": True}
    return {
        "allow": [{"jobs": ["breast-cancer-*"]}],
        "disclosures": {
            "sealed": True,
            "match": True,
            "statistic": True,
            "metric": True,
            **about_rows,
        },
        "min_cohort": 3,
        "matching": {"min_set_size": 100, "min_intersection": 50},
    }


_IN_MICROMETRES = {"um": 1e-3, "um2": 1e-6}
"""Local unit → the contract's, in millimetres."""
_UNITS = {"mm": "um", "mm2": "um2"}
_ABROAD = {
    "insurance_no": "versichertennummer",
    "surname": "nachname",
    "given_name": "vorname",
    "born": "geburtsdatum",
    "postcode": "plz",
}


def _mappings(
    ids: pd.DataFrame, rows: pd.DataFrame, place: int
) -> dict[str, dict[str, dict[str, str]]]:
    """Return contract → column → how it comes about; the first organisation has the same names."""
    contract = Contract.load("breast_cancer@1")
    if place == 0:
        return {PEOPLE: {}, contract.ref: {}}
    measured: dict[str, dict[str, str]] = {}
    for name in rows.columns:
        parts = name.split("_")
        local = "_".join(reversed(parts)) if place == 1 else "".join(each[:4] for each in parts)
        measured[name] = {"from": local}
        unit = contract.columns[name].unit
        if place == 2 and unit in _UNITS:
            measured[name]["unit"] = _UNITS[unit]
    named = {name: _ABROAD[name] if place == 1 else f"pat_{name}" for name in ids.columns}
    return {
        PEOPLE: {name: {"from": local} for name, local in named.items()},
        contract.ref: measured,
    }


def _write_csv(directory: Path, local: pd.DataFrame) -> dict[str, Any]:
    local.to_csv(directory / "patients.csv", index=False)
    return {"type": "csv", "path": "patients.csv"}


def _write_parquet(directory: Path, local: pd.DataFrame) -> dict[str, Any]:
    local.to_parquet(directory / "befunde.parquet", index=False)
    return {"type": "parquet", "path": "befunde.parquet"}


def _write_sqlite(directory: Path, local: pd.DataFrame) -> dict[str, Any]:
    database = sqlite3.connect(directory / "images.db")
    try:
        with database:
            local.to_sql("measures", database, index=False)
    finally:
        database.close()
    return {"type": "sqlite", "path": "images.db", "table": "measures"}


def _write_yaml(path: Path, value: Mapping[str, Any] | Sequence[Any]) -> None:
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.write_text(to_yaml(value))
