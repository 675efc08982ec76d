import json
from datetime import date

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from consilo.contracts.contract import Contract
from consilo.contracts.report import CheckReport, Counts, Finding, coarse, verdict_of
from consilo.errors import ContractInvalid

SMALL = """
name: clinic
version: 2
columns:
  patient_id: {type: string, role: id}
  visited: {type: date, role: time, range: {min: 2001-01-31}}
  height: {type: float, unit: cm, range: {min: 20, max: 250, severity: warning}}
  waist: {type: float, unit: cm}
  ward: {type: category, allowed: [a, b]}
  note: {type: string, role: ignore}
  ill: {type: boolean, role: target}
rules:
  unique: [[patient_id], {columns: [ward, visited], severity: warning}]
  min_rows: 3
  class_balance: 0.1
  freshness: {column: visited, max_age_days: 30}
  cross_column:
    - {left: waist, op: "<", right: height}
    - {left: waist, op: ">=", right: 10}
"""


def small() -> dict:
    return yaml.safe_load(SMALL)


def faults(value) -> str:
    with pytest.raises(ContractInvalid) as caught:
        Contract.parse(value, where="clinic.yaml")
    return str(caught.value)


def changed(path: str, value) -> dict:
    whole = inner = small()
    *parts, last = path.split(".")
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return whole


@pytest.mark.parametrize(
    ("ref", "features", "targets", "ids"),
    [("heart@1", 13, ("disease",), ()), ("breast_cancer@1", 30, ("malignant",), ("patient_id",))],
)
def test_the_shipped_contracts_load_by_name(ref, features, targets, ids):
    contract = Contract.load(ref)
    assert contract.ref == ref
    assert len(contract.features) == features
    assert contract.targets == targets
    assert tuple(c.name for c in contract.table if c.role == "id") == ids
    assert contract.description
    assert all(column.description for column in contract.table)


def test_a_contract_reads_as_it_is_written():
    contract = Contract.parse(small(), where="x")
    assert contract.features == ("height", "waist", "ward")
    assert [each.name for each in contract.table][-1] == "ill"
    assert "note" not in [each.name for each in contract.table]
    assert contract.columns["visited"].range.min == date(2001, 1, 31)
    assert contract.rules.unique[0].columns == ("patient_id",)
    assert contract.rules.unique[1].severity == "warning"
    assert contract.rules.min_rows.count == 3
    assert contract.depends_on_today
    assert not Contract.load("heart@1").depends_on_today


def test_a_contract_travels_as_json_and_keeps_its_order_and_digest():
    contract = Contract.parse(small(), where="x")
    again = Contract.from_json(json.dumps(json.loads(contract.to_json()), sort_keys=True))
    assert again == contract
    assert list(again.columns) == list(contract.columns)
    assert again.digest == contract.digest


def test_the_digest_follows_every_change_and_the_order_of_columns():
    value = small()
    digest = Contract.parse(value, where="x").digest
    value["columns"] = dict(reversed(value["columns"].items()))
    assert Contract.parse(value, where="x").digest != digest
    assert Contract.parse(changed("rules.min_rows", 4), where="x").digest != digest


def test_all_faults_are_told_at_once_with_the_nearest_key():
    value = small()
    value["versoin"] = 3
    value["columns"]["height"] = {"type": "flaot", "rnage": {"min": 1}}
    value["columns"]["waist"]["range"] = {"min": 5, "max": 1}
    value["rules"]["unique"] = [["patient_ix"]]
    said = faults(value)
    for part in ("'version'", "found 'flaot'", "'range'", "is larger than", "'patient_id'"):
        assert part in said
    assert "5 faults" in said


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("columns.ward.allowed", ["a", "a"], "twice"),
        ("columns.ward.allowed", [], "empty"),
        ("columns.ward.allowed", [1.5], "not of type category"),
        ("columns.ward.unit", "mm", "unit makes no sense"),
        ("columns.ward.range", {"min": 1}, "range makes no sense"),
        ("columns.height.range", {}, "min, max or both"),
        ("columns.height.range", {"min": date(2020, 1, 1)}, "must be numbers"),
        ("columns.visited.range", {"min": 3}, "must be dates"),
        ("columns.height.nullable_share", 1.5, "at most 1"),
        ("columns.height.range", {"min": float("nan")}, "finite"),
        ("columns.height.future", True, "type date"),
        ("columns.height.role", "time", "type date"),
        ("rules.freshness.column", "height", "not of type date"),
        ("rules.freshness.column", "visted", "did you mean 'visited'"),
        ("rules.cross_column", [{"left": "ward", "op": "<", "right": 1}], "numbers and dates"),
        ("rules.cross_column", [{"left": "visited", "op": "<", "right": 1}], "date column"),
        ("rules.cross_column", [{"left": "hight", "op": "<", "right": 1}], "did you mean 'height'"),
        ("rules.cross_column", [{"left": "height", "op": "!", "right": 1}], "op"),
        ("rules.unique", [["note"]], "role ignore"),
        ("columns.waist.unit", "m", "different units"),
        ("columns.ill.role", "feature", "no column has role target"),
        ("columns.ill.type", "float", "must list its classes"),
        ("columns.Ill", {"type": "float"}, "a lower-case letter"),
        ("columns", {}, "1 or more entries"),
        ("columns", None, "a mapping of keys"),
        ("version", 0, "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused(path, value, said):
    assert said in faults(changed(path, value))


def test_versions_live_side_by_side_and_the_nearest_directory_wins(tmp_path):
    (tmp_path / "contracts").mkdir()
    for file, version in (("clinic.yaml", 2), ("clinic@3.yaml", 3)):
        value = {**small(), "version": version}
        (tmp_path / "contracts" / file).write_text(yaml.safe_dump(value, sort_keys=False))
    assert Contract.load("clinic@2", [tmp_path]).version == 2
    assert Contract.load("clinic@3", [tmp_path]).version == 3
    assert Contract.load(tmp_path / "contracts" / "clinic.yaml").version == 2
    with pytest.raises(ContractInvalid, match="holds clinic@2, not clinic@4"):
        Contract.load("clinic@4", [tmp_path])


@pytest.mark.parametrize(
    ("ref", "said"),
    [("hart@1", "did you mean 'heart'"), ("heart", "name@version"), ("no/such.yaml", "not exist")],
)
def test_a_contract_that_is_not_there_is_told_clearly(ref, said):
    with pytest.raises(ContractInvalid, match=said):
        Contract.load(ref)


def test_only_contracts_are_called_known_ones(tmp_path):
    (tmp_path / "silo.yaml").write_text("name: north\ndata: {}\n")
    (tmp_path / "broken.yaml").write_text("a: [")
    (tmp_path / "mine.yaml").write_text(
        "name: mine\nversion: 1\ncolumns: {a: {type: float, role: target}}\n"
    )
    with pytest.raises(ContractInvalid) as told:
        Contract.load("xyzzy@1", search=[tmp_path])
    known = str(told.value).partition("known: ")[2]
    assert "mine" in known
    assert "silo" not in known
    assert "broken" not in known
    assert "the file's path" in known


def test_a_key_written_twice_is_a_fault(tmp_path):
    path = tmp_path / "clinic.yaml"
    path.write_text(SMALL.replace("  waist:", "  height: {type: float}\n  waist:"))
    with pytest.raises(ContractInvalid, match="key 'height' is written twice"):
        Contract.load(path)


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"columns": [1]}', '{"columns": [{}, {}]}'])
def test_a_message_that_is_no_contract_is_refused(text):
    with pytest.raises(ContractInvalid):
        Contract.from_json(text)


def test_the_json_schema_is_made_from_the_model():
    schema = Contract.model_json_schema()
    assert schema["additionalProperties"] is False
    assert {"name", "version", "columns"} <= set(schema["required"])


def finding(rule, column, verdict, severity="error"):
    counts = Counts(rows=5, failed=5, nulls=0)
    return Finding(rule=rule, column=column, verdict=verdict, severity=severity, counts=counts)


def test_a_report_says_why_in_one_sentence_and_travels():
    findings = (
        finding("range", "height", "fail"),
        finding("range", "waist", "fail"),
        finding("min_rows", None, "fail"),
        finding("nulls", "ward", "fail", "warning"),
        finding("allowed", "ward", "not_checked"),
    )
    report = CheckReport(
        contract="clinic@2", contract_digest="0", verdict=verdict_of(findings), findings=findings
    )
    assert not report.passed
    assert report.reason() == "breaks clinic@2: range (height, waist), min_rows"
    assert CheckReport.from_json(report.to_json()) == report
    only_warned = report.model_copy(update={"findings": findings[3:], "verdict": "passed"})
    assert only_warned.reason() == "keeps clinic@2; warnings: nulls (ward)"


def test_a_report_with_anything_more_in_it_is_refused():
    report = CheckReport(contract="a@1", contract_digest="0", verdict="passed", findings=())
    with pytest.raises(ValueError, match="extra"):
        CheckReport.from_json(json.dumps({**json.loads(report.to_json()), "rows": [1]}))


@given(st.integers(0, 10**9))
def test_a_coarse_count_hides_less_than_five_and_never_says_less(count):
    assert count <= coarse(count) < count + 5
    assert coarse(count) % 5 == 0
