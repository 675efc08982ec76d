"""A vertical model is the pooled one, also of cells that one silo writes in its own way."""

from __future__ import annotations

import unicodedata

import joint
import numpy as np
import pytest
import yaml
from sklearn.linear_model import LogisticRegression

from consilo.vertical.parts import Part
from silos import simulate
from silos.kept.matches import read_match
from silos.kept.model_parts import every_part, read_part

pytestmark = pytest.mark.slow


def rewritten(directory, table, names) -> None:
    """Keep a silo's rows as Parquet texts: commas, thousands marks, letters with accents apart."""
    table = table.astype(object)
    for name in names:
        table[name] = [
            f"{each:,.9f}".translate(str.maketrans(",.", "\u202f,")) for each in table[name]
        ]
    for name in ("surname", "number"):
        table[name] = table[name].map(
            lambda each: unicodedata.normalize("NFD", f"\ufeff{each}\u00a0"), na_action="ignore"
        )
    table.to_parquet(directory / "rows.parquet", index=False)
    (directory / "rows.csv").unlink()
    silo = yaml.safe_load((directory / "silo.yaml").read_text())
    silo["data"]["customers"] = {"type": "parquet", "path": "rows.parquet"}
    (directory / "silo.yaml").write_text(yaml.safe_dump(silo))
    place = directory / "mappings" / "joint@1.yaml"
    mapping = yaml.safe_load(place.read_text())
    mapping["columns"] = {name: {"decimal": ","} for name in names}
    place.write_text(yaml.safe_dump(mapping))


def test_the_model_is_the_pooled_one_of_the_clean_tables(tmp_path):
    people = joint.everybody(seed=3)
    silos = joint.write_silos(tmp_path, people)
    held = joint.holds(people, "shop")
    rewritten(silos["shop"], held, joint.COLUMNS["shop"])
    result = simulate(joint.job_of(), silos, search_path=[tmp_path])
    assert result.status == "complete", result.reason
    found = {
        n: joint.holds(people, n).index[read_match(d, "customers").rows] for n, d in silos.items()
    }
    assert np.array_equal(found["shop"], found["bank"])
    common = set.intersection(*(set(joint.holds(people, name).index) for name in silos))
    assert len(found["bank"]) >= 0.97 * len(common)
    rows = people.loc[found["bank"]]
    values = rows[list(joint.NAMES)].to_numpy()
    standard = (values - values.mean(0)) / values.std(0)
    pooled = LogisticRegression(tol=1e-10, max_iter=10_000).fit(standard, rows["churned"])
    (about,) = every_part(silos["shop"])
    part = Part.from_bytes(read_part(silos["shop"], about["model"])).content
    at = [joint.NAMES.index(name) for name in joint.COLUMNS["shop"]]
    assert part["weights"] == pytest.approx(pooled.coef_[0][at], abs=1e-4)
