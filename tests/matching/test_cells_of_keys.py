"""One person has one key, whatever kept the cells and however they were written; or is counted."""

from __future__ import annotations

import datetime as dt
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from consilo.jobs.recipe import Recipe
from silos.rows.arrow import to_pandas
from silos.rows.mapping import Mapping
from silos.rows.sources import parse_source
from silos.rows.standardise import standardise

TEXT, WHOLE, DATE = (
    {"type": "string", "role": "id"},
    {"type": "integer", "role": "id"},
    {"type": "date"},
)
BORN = ["1990-05-01", "1990-12-24"]
NONE = [None, None]


def source_of(way: str, cells: list, folder: Path) -> dict:
    frame = pd.DataFrame({"k": cells})
    if way == "csv":
        frame.to_csv(folder / "t.csv", index=False)
        return {"type": way, "path": str(folder / "t.csv")}
    if way == "parquet":
        frame.to_parquet(folder / "t.parquet")
        return {"type": way, "path": str(folder / "t.parquet")}
    if way == "folder":  # each row in a file of its own, whose types differ
        (folder / "f").mkdir()
        for at in range(len(frame)):
            frame[at : at + 1].dropna().to_csv(folder / "f" / f"{at}.csv", index=False)
        return {"type": "csv", "path": str(folder / "f")}
    if way == "duckdb":
        tables = {"t": source_of("csv", cells, folder)}
        return {"type": way, "tables": tables, "query": "SELECT * FROM t"}
    with closing(sqlite3.connect(folder / "t.db")) as connection:
        connection.execute("CREATE TABLE t (k)")
        connection.executemany("INSERT INTO t VALUES (?)", [(each,) for each in cells])
        connection.commit()
    return {"type": way, "path": str(folder / "t.db"), "table": "t"}


def keys(way: str, cells: list, column: dict, how: dict, steps: list, folder: Path):
    columns = {"k": {"nullable_share": 1, **column}}
    table = Contract.parse({"name": "t", "version": 1, "columns": columns}, where="t")
    source = parse_source(source_of(way, cells, folder), where="s")
    told = {"contract": "t@1", "columns": {"k": how} if how else {}}
    (folder / "spool").mkdir()
    mapping = Mapping.parse(told, table, where="m")
    made, lost = standardise(source, mapping, table, folder / "spool")
    recipe = Recipe.model_validate([{"parts": [{"column": "k", "steps": steps}]}])
    found = [each and each[4:].decode() for each in recipe.values(to_pandas(made), 0)]
    return found, lost.get("k", {}).get("count", 0)


CASES = [
    (["007", "7"], TEXT, {}, ["trim"], ["007", "7"], 0),
    (["007", "7"], TEXT, {}, ["trim", "number"], ["7", "7"], 0),
    (["007", "7"], WHOLE, {}, ["trim"], [None, "7"], 1),
    ([1000.0, None, 7.0], TEXT, {}, ["number"], ["1000", None, "7"], 0),
    ([1000.0, None, 7.0], TEXT, {}, ["digits"], ["1000", None, "7"], 0),
    ([1000.0, None, 7.0], WHOLE, {}, ["trim"], ["1000", None, "7"], 0),
    (["9007199254740993", None], WHOLE, {}, ["trim"], ["9007199254740993", None], 0),
    (["12345678901234567890", "7"], TEXT, {}, ["trim"], ["12345678901234567890", "7"], 0),
    (["1E5", "+7"], TEXT, {}, ["trim"], ["1E5", "+7"], 0),
    (["1'000", "1\u202f000"], WHOLE, {}, ["trim"], ["1000", "1000"], 0),
    (["A12 ", "\ufeffA12", " A12\u00a0"], TEXT, {}, ["trim"], ["A12"] * 3, 0),
    (["A12", "a12"], TEXT, {}, ["trim"], ["A12", "a12"], 0),
    (["A12", "a12"], TEXT, {}, ["fold"], ["a12", "a12"], 0),
    (["Ren\u00e9", "Rene\u0301"], TEXT, {}, ["trim"], ["Ren\u00e9"] * 2, 0),
    (["Ren\u00e9", "Rene\u0301"], TEXT, {}, ["upper"], ["REN\u00c9"] * 2, 0),
    (["Ren\u00e9", "\uff32ene"], TEXT, {}, ["fold", "plain"], ["rene"] * 2, 0),
    (["Stra\u00dfe", "STRASSE"], TEXT, {}, ["fold"], ["strasse"] * 2, 0),
    # Days of birth: by the mapping ...
    (BORN, DATE, {}, ["date"], BORN, 0),
    (["05/01/1990", "12/24/1990"], DATE, {"date_format": "%m/%d/%Y"}, ["date"], BORN, 0),
    (["05/01/1990", "12/24/1990"], DATE, {"date_format": "%d/%m/%Y"}, ["date"], NONE, 2),
    (["01.05.90", "24.12.90"], DATE, {"date_format": "%d.%m.%y", "years_from": 1920}, [], BORN, 0),
    (["01.05.90", "24.12.90"], DATE, {}, ["date"], NONE, 2),
    ([32994.0, None, 33231.0], DATE, {"date_format": "excel"}, [], [BORN[0], None, BORN[1]], 0),
    (["1990-05-01T00:00+02:00", "1990-12-24T00:00+01:00"], DATE, {}, ["date"], BORN, 0),
    (["1990-05-01 00:00:00", "1990-12-24"], DATE, {"zone": "Europe/Berlin"}, ["date"], BORN, 0),
    (["01051990", "24121990"], DATE, {"date_format": "%d%m%Y"}, ["date"], BORN, 0),
    (["1051990", "24121990", "x"], DATE, {"date_format": "%d%m%Y"}, [], [None, BORN[1], None], 2),
    # ... or by the recipe.
    (["1990/05/01", "1990-12-24T00:00:00Z"], TEXT, {}, ["date"], BORN, 0),
    ([19900501.0, None, 19901224.0], TEXT, {}, ["date"], [BORN[0], None, BORN[1]], 0),
    (["01.05.1990", "24.12.1990"], TEXT, {}, ["date:%d.%m.%Y"], BORN, 0),
    (["01.05.1990", "24.12.1990"], TEXT, {}, ["date:%m.%d.%Y"], ["1990-01-05", None], 0),
    (["1051990", "24121990"], TEXT, {}, ["date:%d%m%Y"], [None, BORN[1]], 0),
]  # fmt: skip


@pytest.mark.parametrize("way", ["csv", "folder", "parquet", "sqlite", "duckdb"])
@pytest.mark.parametrize(("cells", "column", "how", "steps", "expected", "lost"), CASES)
def test_a_key_is_the_same_from_every_way_in(
    tmp_path, way, cells, column, how, steps, expected, lost
):
    found, counted = keys(way, cells, column, how, steps, tmp_path)
    if way == "folder":  # a row without a key has no file
        rows = [each for cell, each in zip(cells, expected, strict=True) if cell is not None]
        expected = rows
    assert (found, counted) == (expected, lost)


def test_days_that_a_frame_holds_as_days_or_moments_are_one_key(tmp_path):
    day = dt.date(1990, 5, 1)
    zoned = pd.Timestamp(day).tz_localize("Europe/Berlin")
    for at, cells in enumerate(([day, None], [pd.Timestamp(day), None], [zoned, None])):
        folder = tmp_path / str(at)
        folder.mkdir()
        for column in (DATE, TEXT):
            (folder / column["type"]).mkdir()
            found = keys("parquet", cells, column, {}, ["date"], folder / column["type"])
            assert found == ([BORN[0], None], 0)
