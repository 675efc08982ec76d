"""However cells are written, a column's moments are the clean table's; or the silo is left out."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from consilo.contracts.contract import Contract
from consilo.jobs.job import Job
from consilo.record.run_record import read
from silos import simulate
from silos.simulation.in_memory import write_made_up_root

CONTRACT = Contract.parse(
    {
        "name": "clinic",
        "version": 1,
        "columns": {
            "share": {"type": "float", "unit": "percent"},
            "code": {"type": "category", "allowed": ["007", "7"]},
            "ill": {"type": "integer", "role": "target", "allowed": [0, 1]},
        },
    },
    where="clinic",
)
SPREAD = {"name": "spread", "kind": "analytics", "contract": "clinic@1", "quorum": {"min_silos": 1}}
POLICY = "allow: [{jobs: ['*']}]\ndisclosures: {metric: yes, statistic: yes, update: yes}\n"
COMMA = {"decimal": ",", "negative": "brackets"}


def rows(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "share": np.round(rng.uniform(-4e6, 4e6, 40), 1),
            "code": rng.choice(["007", "7"], 40),
            "ill": np.arange(40) % 2,
        }
    )


def german(number: float, mark: str = ".") -> str:
    text = f"{abs(number):,.1f}".replace(",", "_").replace(".", ",").replace("_", mark)
    return f"({text})" if number < 0 else text


def asked(directory: Path, silos: dict) -> tuple[dict, set[str]]:
    """Return what the record says of the columns, and which silos were left out."""
    made = simulate(Job.from_json(SPREAD), silos, contract=CONTRACT, directory=directory)
    assert made.status in ("complete", "degraded"), made.reason
    told = next(e["body"] for e in read(Path(made.record)) if e["kind"] == "standardized")
    return told, {name for name, each in made.silos.items() if each.status == "left_out"}


def silo_of(folder: Path, way: str, frame: pd.DataFrame, how: dict) -> Path:
    folder.mkdir()
    source = {"type": way, "path": f"t.{way}"}
    if way == "csv":
        frame.to_csv(folder / "t.csv", index=False)
    elif way == "parquet":
        frame.to_parquet(folder / "t.parquet")
    else:
        source["table"] = "t"
        with closing(sqlite3.connect(folder / "t.sqlite")) as connection:
            connection.execute("CREATE TABLE t (share, code, ill)")
            values = frame.astype(object).itertuples(index=False)
            connection.executemany("INSERT INTO t VALUES (?, ?, ?)", [tuple(r) for r in values])
            connection.commit()
    config = {"name": folder.name, "data": {"rows": source}}
    (folder / "silo.yaml").write_text(yaml.safe_dump(config))
    write_made_up_root(folder, folder.name)
    (folder / "policy.yaml").write_text(POLICY)
    said = {
        "contract": "clinic@1",
        "agreed": CONTRACT.digest,
        "columns": {"share": how} if how else {},
    }
    (folder / "mapping.yaml").write_text(yaml.safe_dump(said))
    return folder


WRITINGS = [
    (german, COMMA),
    (lambda n: german(n, "\u202f"), COMMA),
    (lambda n: "-" * (n < 0) + german(abs(n), "'") + " %", COMMA),
    (lambda n: f" {n:+.7e} ", {}),
    (lambda n: f"{n:.7e}".replace(".", ","), {"decimal": ","}),
    (lambda n: n, {}),
]
UNCLEAR = ["1,5", "1.23.4", "12,34.5", "(3)", "0x1F", "1 00", "12 EUR"]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    frames = {f"s{at}": rows(at) for at in range(len(WRITINGS))}
    return asked(tmp_path_factory.mktemp("clean") / "home", frames)


@pytest.mark.parametrize("way", ["csv", "sqlite"])
def test_moments_are_those_of_the_clean_tables(tmp_path, clean, way):
    silos = {}
    for at, (write, how) in enumerate(WRITINGS):
        frame = rows(at)
        frame = frame.assign(share=frame["share"].map(write), code=frame["code"] + " ")
        silos[f"s{at}"] = silo_of(tmp_path / f"s{at}", way, frame, how)
    (made, out), (expected, _) = asked(tmp_path / "home", silos), clean
    assert out == set()
    assert made["rows"] == expected["rows"]
    assert made["mean"] == pytest.approx(expected["mean"], rel=1e-12)
    assert made["variance"] == pytest.approx(expected["variance"], rel=1e-12)


@pytest.mark.parametrize("way", ["parquet", "frame"])
def test_one_cell_that_could_be_two_numbers_leaves_its_silo_out(tmp_path, way):
    silos = {"clean-a": rows(1), "clean-b": rows(2)}
    if way != "frame":
        silos = {n: silo_of(tmp_path / n, way, each, {}) for n, each in silos.items()}
    for at, cell in enumerate(UNCLEAR):
        frame = rows(at).astype({"share": str})
        frame.loc[17, "share"] = cell
        name = f"s{at}"
        silos[name] = frame if way == "frame" else silo_of(tmp_path / name, way, frame, {})
    _, out = asked(tmp_path / "home", silos)
    assert out == {f"s{at}" for at in range(len(UNCLEAR))}
