"""Two silos on disk that hold the same kind of people under other names; a seam for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import yaml

SECRET = "zz_secret_note"
EAST = {"AGE_Y": "age", "SEX_CD": "sex", "BD_SYS": "pressure", "HGT_CM": "height", "OUTCOME": "end"}
WEST = {"age_years": "age", "gender": "sex", "systolic_pressure": "pressure", "height": "height",
        "vital_status": "end"}  # fmt: skip
SPANS = {"age": (0, 120), "pressure": (50, 250), "height": (100, 220)}
POLICY = {
    "allow": [{"jobs": ["*"]}],
    "disclosures": {"metadata": True, "statistic": True},
    "min_cohort": 1,
    "privacy": {"budgets": {"*": {"epsilon": 3, "delta": 1e-5}}},
}


def rows(names: dict[str, str], num_rows: int, seed: int) -> pd.DataFrame:
    """People, and a column that nobody shares."""
    rng = np.random.default_rng(seed)
    people = {
        "age": rng.integers(20, 90, num_rows),
        "sex": rng.choice(["M", "F"] if seed == 0 else ["male", "female"], num_rows),
        "pressure": rng.normal(130, 15, num_rows).round(),
        "height": rng.normal(170, 10, num_rows).round(1),
        "end": rng.choice(["dead", "alive"], num_rows),
    }
    table = pd.DataFrame({local: people[what] for local, what in names.items()})
    return table.assign(**{SECRET: [f"zzvalue{each}" for each in range(num_rows)]})


def make(folder: Path, *, num_rows: int = 2000, described: bool = True) -> dict[str, Path]:
    """Return two silos' directories; what they say is released but for one column."""
    found = {}
    for seed, (name, names) in enumerate({"east": EAST, "west": WEST}.items()):
        place = folder / name
        place.mkdir(parents=True)
        rows(names, num_rows, seed).to_csv(place / "rows.csv", index=False)
        source = {"type": "csv", "path": "rows.csv"}
        (place / "silo.yaml").write_text(
            yaml.safe_dump({"name": name, "data": {"patients": source}})
        )
        (place / "policy.yaml").write_text(yaml.safe_dump(POLICY))
        if described:
            describe(place, names)
        found[name] = place
    return found


def describe(place: Path, names: dict[str, str]) -> None:
    """Write what a careful owner would: the draft, ranges added, all but one column released."""
    from silos.proposals import onboard
    from silos.proposals.metadata import draft

    drafted = draft(onboard.sample(onboard.source_of(place, "patients")))
    for local, what in names.items():
        drafted[local]["share"] = True
        drafted[local]["label"] = what == "end"
        if what == "pressure":
            drafted[local]["description"] = "systolic blood pressure at admission"
        if what in SPANS:
            drafted[local]["range"] = dict(zip(("min", "max"), SPANS[what], strict=True))
    (place / "metadata.yaml").write_text(yaml.safe_dump({"data": {"patients": drafted}}))
