"""Every failed rule names the rows that break it, as a brute-force look at the source would."""

import json
import sqlite3

import clinic
import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from consilo.contracts.contract import Contract
from silos.commands.app import app
from silos.silo import Silo

CONTRACT = """
name: visits
version: 1
columns:
  pid: {type: string, role: id}
  height: {type: float, unit: cm, range: {min: 50, max: 250}, typical: {min: 150, max: 190}}
  ward: {type: category, allowed: [a, b]}
  seen: {type: date}
  age: {type: integer, range: {max: 120}, nullable_share: 0.1}
  waist: {type: float, unit: cm}
  extra: {type: float}
rules:
  unique: [[pid]]
  min_rows: 50
  cross_column: [{left: waist, op: "<", right: height}]
"""


def rows() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pid": [f"p{n % 27}" for n in range(30)],
            "groesse": [1.7] * 28 + [9.9, 0.1],
            "ward": ["a", "b", "planted"] * 10,
            "seen": ["2020-01-01"] * 29 + ["2099-01-01"],
            "age": ["30"] * 20 + ["unknown"] * 2 + [None] * 7 + ["130"],
            "waist": [80.0] * 25 + [300.0] * 5,
        }
    )


MAPPING = {"contract": "visits@1", "columns": {"height": {"from": "groesse", "unit": "m"}}}
BROKEN = {
    ("present", "extra"): None,
    ("unique", "pid"): [1, 2, 3, 28, 29, 30],
    ("range", "height"): [29, 30],
    ("allowed", "ward"): list(range(3, 31, 3)),
    ("not_future", "seen"): [30],
    ("type", "age"): [21, 22],
    ("nulls", "age"): list(range(21, 30)),
    ("range", "age"): [30],
    ("cross_column", "waist+height"): [26, 27, 28, 30],
    ("min_rows", None): None,
}


def make(path, source, *, mapping=MAPPING, **config) -> Silo:
    (path / "silo.yaml").write_text(
        yaml.safe_dump({"name": "north", "data": {"rows": source}, **config})
    )
    (path / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    (path / "visits.yaml").write_text(CONTRACT)
    return Silo.open(path)


def found(silo: Silo, **settings):
    contract = clinic.contract(CONTRACT)
    report = silo.rows.check(contract, **{k: v for k, v in settings.items() if k == "purpose"})
    explained = silo.rows.explain(contract, report, **settings)
    return {(each.finding.rule, each.finding.column): each for each in explained}


def csv(path):
    rows().to_csv(path / "rows.csv", index=False)
    return {"type": "csv", "path": "rows.csv"}


def parquet(path):
    rows().to_parquet(path / "rows.parquet")
    return {"type": "parquet", "path": "rows.parquet"}


def sqlite(path):
    with sqlite3.connect(path / "rows.db") as connection:
        rows().to_sql("visits", connection, index=False)
    connection.close()
    return {"type": "sqlite", "path": "rows.db", "table": "visits"}


@pytest.mark.parametrize("kind", [csv, parquet, sqlite])
def test_the_rows_that_break_each_rule_are_named(tmp_path, kind):
    explained = found(make(tmp_path, kind(tmp_path)))
    assert set(explained) == set(BROKEN)
    for rule, numbers in BROKEN.items():
        each = explained[rule]
        assert each.rows == (None if numbers is None else len(numbers)), rule
        assert [place.row for place in each.places] == (numbers or []), rule
        assert each.advice
        assert each.expected
    assert explained["range", "height"].local == ("groesse",)
    assert [each.value for each in explained["range", "height"].places] == ["9.9", "0.1"]
    crossed = [each.value for each in explained["cross_column", "waist+height"].places]
    assert crossed == ["300.0, 1.7", "300.0, 1.7", "300.0, 1.7", "300.0, 0.1"]


def test_rows_of_several_files_are_counted_in_each(tmp_path):
    frame = rows()
    frame[:20].to_csv(tmp_path / "visits-1.csv", index=False)
    frame[20:].to_csv(tmp_path / "visits-2.csv", index=False)
    silo = make(tmp_path, {"type": "csv", "path": "visits-*.csv"})
    places = found(silo)["unique", "pid"].places
    assert [(each.file, each.row) for each in places] == [
        *(("visits-1.csv", row) for row in (1, 2, 3)),
        *(("visits-2.csv", row) for row in (8, 9, 10)),
    ]


def test_rows_are_named_by_a_key_where_one_is_asked_for(tmp_path):
    silo = make(tmp_path, csv(tmp_path))
    places = found(silo, key="pid")["range", "height"].places
    assert [each.key for each in places] == ["p1", "p2"]
    assert [each.to_json() for each in places] == [{"key": "p1"}, {"key": "p2"}]


def test_at_most_twenty_rows_are_named_and_all_are_counted(tmp_path):
    frame = pd.concat([rows()] * 3000, ignore_index=True)
    frame.to_parquet(tmp_path / "rows.parquet")
    silo = make(tmp_path, {"type": "parquet", "path": "rows.parquet"})
    explained = found(silo)
    each = explained["range", "height"]
    assert each.rows == 2 * 3000
    expected = np.flatnonzero(frame["groesse"] != 1.7)[:20] + 1
    assert [place.row for place in each.places] == expected.tolist()
    assert explained["unique", "pid"].rows == len(frame)


def test_a_wrong_unit_is_what_to_look_for_where_most_rows_fail(tmp_path):
    silo = make(tmp_path, csv(tmp_path), mapping={
        "contract": "visits@1", "columns": {"height": {"from": "groesse"}},
    })  # fmt: skip
    explained = found(silo)
    assert "set columns.height.unit" in explained["range", "height"].advice
    assert "set columns.height.unit" in explained["typical", "height"].advice
    assert explained["typical", "height"].rows is None


def test_rows_without_consent_are_counted_but_not_explained(tmp_path):
    source = csv(tmp_path)
    pd.DataFrame({"pid": ["p1"], "what": ["study"]}).to_csv(tmp_path / "ok.csv", index=False)
    spec = {"source": {"type": "csv", "path": "ok.csv"}, "subject": "pid", "purpose": "what"}
    silo = make(tmp_path, source, consent={"rows": spec})
    explained = found(silo, purpose="study")
    assert [each.row for each in explained["unique", "pid"].places] == [2, 29]
    assert [each.row for each in explained["range", "height"].places] == [29]


def test_values_are_shown_only_where_asked_for(tmp_path, monkeypatch):
    make(tmp_path, csv(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*arguments, code=1):
        result = CliRunner().invoke(app, ["check", "visits@1", *arguments])
        assert result.exit_code == code, result.output
        return result.stdout

    plain = run()
    assert "planted" not in plain
    assert "broken by 10 rows: number 3, 6, 9," in plain
    assert "row 3: planted" in run("--values")
    told = run("--json")
    assert "planted" not in told
    said = {(e["rule"], e["column"]): e for e in json.loads(told)["explanations"]}
    assert said["allowed", "ward"]["places"][0] == {"row": 3}
    assert json.loads(told)["verdict"] == "failed"
    run("--json", "--values", code=2)


def test_a_table_that_keeps_the_contract_needs_no_explanation(tmp_path):
    clinic.frame(40).to_csv(tmp_path / "rows.csv", index=False)
    silo = make(tmp_path, {"type": "csv", "path": "rows.csv"}, mapping={"contract": "clinic@1"})
    contract: Contract = clinic.contract()
    assert silo.rows.explain(contract, silo.rows.check(contract)) == []
