"""A text is the same however its accents were stored, and whatever no reader sees at its ends."""

from __future__ import annotations

import sqlite3
import unicodedata
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from consilo.errors import ContractInvalid
from silos.rows.mapping import Mapping
from silos.rows.sources import parse_source
from silos.rows.standardise import standardise

CELLS = ["Ren\u00e9", "Rene\u0301", "\ufeffRen\u00e9\u200b", " Rene\u0301\u00a0", "\u200b", "Rene"]
READ = ["Ren\u00e9"] * 4 + [None, "Rene"]
KINDS = {
    "string": {"type": "string", "role": "id"},
    "category": {"type": "category"},
    "listed": {"type": "category", "allowed": ["Ren\u00e9", "Rene"]},
}


def source_of(way: str, folder: Path) -> dict:
    frame = pd.DataFrame({"k": pd.Series(CELLS, dtype="str")})
    place = folder / f"t.{way}"
    if way == "csv":
        frame.to_csv(place, index=False)
    elif way == "parquet":
        frame.to_parquet(place)
    else:
        with closing(sqlite3.connect(place)) as connection:
            connection.execute("CREATE TABLE t (k)")
            connection.executemany("INSERT INTO t VALUES (?)", [(each,) for each in CELLS])
            connection.commit()
    return {"type": way, "path": str(place), **({"table": "t"} if way == "sqlite" else {})}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", ["csv", "parquet", "sqlite", "duckdb"])
def test_composed_and_decomposed_letters_are_one_text(tmp_path, way, kind):
    columns = {"k": {"nullable_share": 1, **KINDS[kind]}}
    table = Contract.parse({"name": "t", "version": 1, "columns": columns}, where="t")
    (tmp_path / "spool").mkdir()
    if way == "duckdb":
        described = {
            "type": way,
            "tables": {"t": source_of("csv", tmp_path)},
            "query": "SELECT * FROM t",
        }
    else:
        described = source_of(way, tmp_path)
    mapping = Mapping(contract="t@1")
    made, lost = standardise(parse_source(described, where="s"), mapping, table, tmp_path / "spool")
    assert (made["k"].to_pylist(), lost) == (READ, {})


def test_a_recode_and_a_contract_take_both_for_one_code():
    columns = {"k": {"type": "category", "allowed": ["Ren\u00e9", "x"]}}
    table = Contract.parse({"name": "t", "version": 1, "columns": columns}, where="t")
    told = {"contract": "t@1", "columns": {"k": {"recode": {"e\u0301": "Rene\u0301", "y": "x"}}}}
    mapping = Mapping.parse(told, table, where="m")
    made = mapping.apply(pd.DataFrame({"k": ["\u00e9", "e\u0301 ", "y"]}), table)
    assert made["k"].tolist() == ["Ren\u00e9", "Ren\u00e9", "x"]
    columns["k"]["allowed"] = [unicodedata.normalize(each, "\u00e9") for each in ("NFC", "NFD")]
    with pytest.raises(ContractInvalid, match="which are one value"):
        Contract.parse({"name": "t", "version": 1, "columns": columns}, where="t")
