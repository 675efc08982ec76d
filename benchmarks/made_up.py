"""Data in the form of those that benchmarks are given, made up: for a smoke run without them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

CENTRES = ("cleveland", "hungarian", "switzerland", "va")
STUDIES = ("cao", "clark", "dou", "gilette", "huang")
_CENTRE_ROWS, _STUDY_ROWS = 40, 30


def heart_disease(folder: Path) -> Path:
    """Write the four files of ``heart_disease/`` and their split; return the folder.

    Fourteen columns without names; the last but three to one are often missing, as in the real
    files, and one row of each lacks its blood pressure.
    """
    folder.mkdir(parents=True)
    split = []
    for place, name in enumerate(CENTRES):
        rng = np.random.default_rng(place)
        age, codes = rng.integers(30, 80, _CENTRE_ROWS), np.arange(_CENTRE_ROWS)
        table = pd.DataFrame(
            {
                "age": age,
                "sex": rng.integers(0, 2, _CENTRE_ROWS),
                "cp": 1 + codes % 4,
                "trestbps": rng.integers(100, 180, _CENTRE_ROWS),
                "chol": rng.integers(150, 350, _CENTRE_ROWS),
                "fbs": rng.integers(0, 2, _CENTRE_ROWS),
                "restecg": codes % 3,
                "thalach": rng.integers(90, 190, _CENTRE_ROWS),
                "exang": rng.integers(0, 2, _CENTRE_ROWS),
                "oldpeak": rng.integers(0, 40, _CENTRE_ROWS) / 10,
                "slope": "?",
                "ca": "?",
                "thal": "?",
                "num": (age + rng.normal(0, 10, _CENTRE_ROWS) > 55).astype(int),
            }
        ).astype(object)
        table.loc[0, "trestbps"] = "?"
        table.to_csv(folder / f"processed.{name}.data", header=False, index=False)
        for row in range(1, _CENTRE_ROWS):
            split.append((place, name, row, "test" if row % 3 == 0 else "train"))
    columns = ["center", "name", "row", "set"]
    pd.DataFrame(split, columns=columns).to_csv(folder / "flamby_split.csv", index=False)
    return folder


def gdc(folder: Path) -> Path:
    """Write ``gdc/`` with a small standard and five studies; return the folder above it."""
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "gender": rng.choice(["female", "male"], _STUDY_ROWS),
            "race": rng.choice(["asian", "black", "white"], _STUDY_ROWS),
            "vital_status": rng.choice(["alive", "dead"], _STUDY_ROWS),
            "ajcc_pathologic_stage": rng.choice(["stage i", "stage ii"], _STUDY_ROWS),
            "age_at_diagnosis": rng.integers(30, 90, _STUDY_ROWS),
            "tumor_largest_dimension_diameter": rng.integers(1, 90, _STUDY_ROWS) / 10,
        }
    )
    others = ["bmi", "tumor_focality", "prior_treatment", "tissue_type", "morphology", "laterality"]
    standard = rows.astype(str).assign(**dict.fromkeys(others, ""))
    (folder / "gdc").mkdir(parents=True)
    standard.to_csv(folder / "gdc" / "gdc_target.csv.gz", index=False)
    said = {
        "gender": "Sex",
        "race": "Race",
        "vital_status": "Vital_Status",
        "ajcc_pathologic_stage": "Path_Stage",
        "age_at_diagnosis": "Age",
        "tumor_largest_dimension_diameter": "Tumor_Size_cm",
    }
    for name in STUDIES:
        place = folder / "gdc" / name
        place.mkdir()
        rows.rename(columns=said).to_csv(place / "source.csv", index=False)
        pairs = pd.DataFrame({"source": said.values(), "target": said.keys()})
        pairs.to_csv(place / "groundtruth.csv", index=False)
    return folder


def fate(folder: Path) -> Path:
    """Write the two parts of ``fate/``'s table of credits; return the folder above it."""
    (folder / "fate").mkdir(parents=True)
    values = np.random.default_rng(0).normal(np.arange(6) / 2, 1 + np.arange(6) / 4, (300, 6))
    for part, columns in (("guest", slice(0, 2)), ("host", slice(2, 6))):
        table = pd.DataFrame(values[:, columns]).add_prefix("x").rename_axis("id").reset_index()
        table.to_csv(folder / "fate" / f"default_credit_hetero_{part}.csv.gz", index=False)
    return folder
