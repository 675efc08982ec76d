"""Whatever reads a file that a person names reads it as a silo reads its own: one way for all."""

from __future__ import annotations

import gzip
from pathlib import Path

import clinic
import numpy as np
import pandas as pd
import pytest
import yaml

from consilo.errors import InvalidInput, MappingInvalid, SchemaDrift, SourceUnreadable
from consilo.horizontal.partition import Partition
from flows.commands.predict import rows_of
from silos import simulate_cut
from silos.rows.sources.found_out import source_at

CODES = clinic.CONTRACT.replace("allowed: [a, b, c]", "allowed: ['Süd', '007', '7']")


def rows(number: int = 60) -> pd.DataFrame:
    frame = clinic.frame(number, missing=0)
    return frame.assign(ward=frame["ward"].map({"a": "Süd", "b": "007", "c": "7"}))


def written(way: str, place: Path, frame: pd.DataFrame) -> Path:
    """Write rows in one of the ways that organisations have; return what a person would name."""
    path = place / "rows.csv"
    if way in ("plain", "described"):
        frame.to_csv(path, index=False)
    elif way == "cp1252, semicolons":
        frame.to_csv(path, index=False, sep=";", encoding="cp1252")
    elif way == "utf-16, tabs":
        frame.to_csv(path, index=False, sep="\t", encoding="utf-16")
    elif way == "compressed, bars":
        path = place / "rows.csv.gz"
        path.write_bytes(gzip.compress(frame.to_csv(index=False, sep="|").encode()))
    elif way == "capitals":
        path = place / "ROWS.PARQUET"
        frame.to_parquet(path)
    else:
        path = place / "rows"
        path.mkdir()
        for at, part in enumerate(np.array_split(np.arange(len(frame)), 3)):
            some = frame.iloc[part]
            if way == "folder of parquet":
                some.to_parquet(path / f"{at}.parquet")
            else:
                some.to_csv(path / f"{at}.txt", index=False, sep=";")
        path = path / "*.txt" if way == "pattern" else path
    if way == "described":
        (place / "source.yaml").write_text("type: csv\npath: rows.csv\n")
        path = place / "source.yaml"
    return path


WAYS = [
    "plain", "described", "cp1252, semicolons", "utf-16, tabs", "compressed, bars", "capitals",
    "folder of csv", "folder of parquet", "pattern",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_a_file_is_read_for_predictions_as_a_silo_would(way, tmp_path):
    contract = clinic.contract(CODES)
    path = written(way, tmp_path, rows())
    frame, lost = rows_of(path, None, contract, ["age", "smoker", "ward"])
    assert lost == {}
    pd.testing.assert_frame_equal(
        frame, rows()[["age", "smoker", "ward"]].astype({"smoker": "boolean", "ward": "str"})
    )


def test_every_row_that_cannot_be_read_is_known(tmp_path, monkeypatch):
    """More rows than a mapping shows, in more blocks than one."""
    from silos.rows.sources import blocks

    monkeypatch.setattr(blocks, "BLOCK_ROWS", 16)
    frame = rows(90).astype({"age": object})
    bad = np.arange(90) % 2 == 1
    frame.loc[bad, "age"] = "1,234"
    path = written("plain", tmp_path, frame)
    table, lost = rows_of(path, None, clinic.contract(CODES), ["age", "ward"])
    assert lost["age"].tolist() == bad.tolist()
    assert table["age"].isna().tolist() == bad.tolist()


def test_a_code_that_csv_reads_as_nothing_is_not_lost_in_predictions(tmp_path):
    """NA, for Namibia, was an empty cell, and answered as one."""
    contract = clinic.contract(CODES.replace("'7'", "'NA'"))
    path = written("plain", tmp_path, rows().assign(ward="NA"))
    with pytest.raises(SourceUnreadable, match="allows 'NA' in column 'ward'"):
        rows_of(path, None, contract, ["age", "ward"])
    (tmp_path / "source.yaml").write_text("type: csv\npath: rows.csv\nna_values: ['']\n")
    table, _ = rows_of(tmp_path / "source.yaml", None, contract, ["age", "ward"])
    assert set(table["ward"]) == {"NA"}


def test_files_of_two_kinds_are_refused(tmp_path):
    folder = written("folder of csv", tmp_path, rows())
    rows().to_parquet(folder / "more.parquet")
    with pytest.raises(SourceUnreadable, match="CSV and Parquet files lie there"):
        source_at(folder)
    with pytest.raises(SourceUnreadable, match="does not exist"):
        source_at(tmp_path / "nothing.csv")


def cut(data: object, mapping: Path | None = None, **changes: object):
    job = clinic.job(protocol={"name": "fedavg", "rounds": 1})
    partition = Partition(silos=2, seed=1, **changes)
    contract = clinic.contract(CODES)
    return simulate_cut(job, data, partition, contract=contract, engine="inline", mapping=mapping)


def test_a_simulation_reads_what_a_silo_reads(tmp_path):
    """`job run --simulate --data` read plain CSV with commas, and nothing else."""
    frame = rows()
    plain = cut(written("plain", tmp_path, frame))
    local = pd.DataFrame(
        {
            "Alter": frame["age"].map(lambda each: f"{each:.17g}".replace(".", ",")),
            "raucher": frame["smoker"].map({True: "ja", False: "nein"}),
            "ward": frame["ward"],
            "ill": frame["ill"],
        }
    )
    path = tmp_path / "local.csv"
    local.to_csv(path, index=False, sep=";", encoding="cp1252")
    columns = {
        "age": {"from": "Alter", "decimal": ","},
        "smoker": {"from": "raucher", "recode": {"ja": True, "nein": False}},
    }
    told = {"contract": "clinic@1", "data": "patients", "columns": columns}
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(told))
    mapped = cut(path, tmp_path / "mapping.yaml")
    assert mapped.metrics == plain.metrics
    assert cut(local, tmp_path / "mapping.yaml").metrics == plain.metrics
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump({**told, "confirmed": False}))
    with pytest.raises(MappingInvalid, match="nobody has confirmed; read it, and write true"):
        cut(path, tmp_path / "mapping.yaml")
    with pytest.raises(SchemaDrift, match="say which local column it is") as said:
        cut(path)
    assert "error present: age (local: age)" in str(said.value)
    (tmp_path / "silo.yaml").write_text("name: whole\n")
    with pytest.raises(InvalidInput, match="has a mapping of its own"):
        cut(tmp_path, tmp_path / "mapping.yaml")


def test_silos_by_a_column_beside_the_contract_are_by_its_text(tmp_path):
    """Its codes were read as numbers: 007 and 7 became one silo."""
    site = ["007", "7"] * 30
    path = written("plain", tmp_path, rows().assign(site=site))
    result = cut(path, rule="column", column="site")
    assert [each.num_examples + each.num_held_out for each in result.silos.values()] == [30, 30]
