import json
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer

from consilo.contracts.contract import Contract
from silos.rows.check import check, compile_rules, write_docs
from silos.rows.mapping import Mapping

NOW = datetime(2026, 5, 1, tzinfo=UTC)
CLINIC = {
    "name": "clinic",
    "version": 1,
    "columns": {
        "patient_id": {"type": "string", "role": "id"},
        "visited": {"type": "date", "role": "time", "range": {"min": "2001-01-01"}},
        "height": {
            "type": "float",
            "unit": "cm",
            "range": {"min": 20, "max": 250},
            "typical": {"min": 100, "max": 200, "severity": "warning"},
            "nullable_share": 0.5,
        },
        "waist": {"type": "float", "unit": "cm"},
        "beds": {"type": "integer", "range": {"min": 0}},
        "ward": {"type": "category", "allowed": ["a", "b"]},
        "smokes": {"type": "boolean"},
        "ill": {"type": "integer", "role": "target", "allowed": [0, 1]},
    },
    "rules": {
        "unique": [["patient_id"], ["patient_id", "visited"]],
        "min_rows": 4,
        "class_balance": 0.2,
        "freshness": {"column": "visited", "max_age_days": 30},
        "cross_column": [
            {"left": "waist", "op": "<", "right": "height"},
            {"left": "waist", "op": ">=", "right": 10},
        ],
    },
}


def clinic(**rules) -> Contract:
    return Contract.parse({**CLINIC, "rules": {**CLINIC["rules"], **rules}}, where="clinic")


def good() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "patient_id": [f"p{number}" for number in range(6)],
            "visited": ["2026-04-20"] * 6,
            "height": [150.0, 160, 170, 180, 190, None],
            "waist": [70.0, 80, 90, 80, 70, 60],
            "beds": [0, 1, 2, 3, 4, 5],
            "ward": ["a", "b"] * 3,
            "smokes": [True, False] * 3,
            "ill": [0, 1] * 3,
        }
    )


def reported(frame: pd.DataFrame, contract: Contract | None = None):
    contract = contract or clinic()
    canonical = Mapping(contract=contract.ref).apply(frame, contract)
    return check(canonical, contract, now=NOW)


def broken(column: str, values) -> set:
    """Return the rules that fail once the column holds these values."""
    report = reported(good().assign(**{column: values}))
    return {(each.rule, each.column) for each in (*report.failures, *report.warnings)}


def test_a_table_that_keeps_its_contract_passes_every_rule():
    report = reported(good())
    assert report.passed
    assert {each.verdict for each in report.findings} == {"pass"}
    assert report.contract == "clinic@1"
    assert report.contract_digest == clinic().digest
    assert len(report.findings) == len(set((e.rule, e.column) for e in report.findings))


@pytest.mark.parametrize(
    ("column", "values", "rules"),
    [
        ("height", [150, 160, 170, 180, 190, 999], {("range", "height")}),
        ("height", [150, 160, 170, 180, 190, "tall"], {("type", "height")}),
        ("height", [150] + [None] * 5, {("nulls", "height")}),
        ("height", [210.0] * 6, {("typical", "height")}),
        ("waist", [70, 80, 90, 80, 70, None], {("nulls", "waist")}),
        ("waist", [150, 80, 90, 80, 70, 60], {("cross_column", "waist+height")}),
        ("waist", [70, 80, 90, 80, 70, 9], {("cross_column", "waist")}),
        ("beds", [0, 1, 2, 3, 4, -1], {("range", "beds")}),
        ("beds", [0, 1, 2, 3, 4, 1.5], {("type", "beds"), ("nulls", "beds")}),
        ("ward", list("ababac"), {("allowed", "ward")}),
        ("smokes", [True, False, 1, 0, "no", "?"], {("type", "smokes"), ("nulls", "smokes")}),
        ("ill", [1] * 6, {("class_balance", "ill")}),
        ("ill", [0, 1, 0, 1, 0, 2], {("allowed", "ill")}),
        ("patient_id", list("abcdee"),
         {("unique", "patient_id"), ("unique", "patient_id+visited")}),
        ("visited", ["2026-04-20"] * 5 + ["2026-05-02"], {("not_future", "visited")}),
        ("visited", ["2026-04-20"] * 5 + ["1999-01-01"], {("range", "visited")}),
        ("visited", ["2026-03-01"] * 6, {("freshness", "visited")}),
    ],
)  # fmt: skip
def test_each_fault_fails_its_own_rule_and_no_other(column, values, rules):
    assert broken(column, values) == rules


def test_a_missing_column_fails_present_and_leaves_its_other_rules_unchecked():
    report = reported(good().drop(columns=["ill", "visited"]))
    assert {(each.rule, each.column) for each in report.failures} == {
        ("present", "ill"),
        ("present", "visited"),
    }
    unchecked = {each.rule for each in report.findings if each.verdict == "not_checked"}
    assert {"class_balance", "freshness", "unique"} <= unchecked
    assert report.reason() == "breaks clinic@1: present (visited, ill)"


@pytest.mark.parametrize("severity", ["error", "warning"])
def test_an_empty_table_always_fails(severity):
    contract = clinic(min_rows={"count": 4, "severity": severity})
    report = reported(good().iloc[:0], contract)
    assert not report.passed
    assert not reported(good().iloc[:0].astype(object), contract).passed


def test_a_warning_is_told_and_does_not_block():
    report = reported(good().assign(height=210.0))
    assert report.passed
    assert report.reason() == "keeps clinic@1; warnings: typical (height)"


def test_one_class_is_a_warning_where_the_contract_asks_for_no_balance():
    contract = clinic(class_balance=None)
    report = reported(good().assign(ill=1), contract)
    assert report.passed
    assert [(each.rule, each.column) for each in report.warnings] == [("classes", "ill")]


def test_a_column_of_nulls_that_may_be_null_is_not_checked_further():
    value = json.loads(json.dumps(CLINIC))
    value["columns"]["height"]["nullable_share"] = 1.0
    report = reported(good().assign(height=None), Contract.parse(value, where="x"))
    assert report.passed
    verdicts = {e.rule: e.verdict for e in report.findings if e.column == "height"}
    assert verdicts["typical"] == "not_checked"


def test_the_wrong_dtype_fails_even_where_no_mapping_counted_it():
    frame = Mapping(contract="clinic@1").apply(good(), clinic())
    frame["beds"] = frame["beds"].astype("str")
    report = check(frame, clinic(), now=NOW)
    assert ("type", "beds") in {(each.rule, each.column) for each in report.failures}


def test_counts_are_coarse_and_count_the_rows_that_break_the_rule():
    report = reported(good().assign(beds=[-1, -2, 0, 0, 0, 0]))
    (finding,) = report.failures
    assert finding.counts.model_dump() == {"rows": 10, "failed": 5, "nulls": 0}


SECRET = "SECRET-4711"
NUMBER = 74317431.25


def leaky() -> pd.DataFrame:
    """A table that breaks every rule with values that are known again."""
    return pd.DataFrame(
        {
            "patient_id": [SECRET, SECRET, None],
            "visited": ["2143-04-17", "1843-04-17", SECRET],
            "height": [NUMBER, NUMBER, SECRET],
            "waist": [NUMBER, -NUMBER, None],
            "beds": [-74317431, 1, SECRET],
            "ward": [SECRET, "a", None],
            "smokes": [SECRET, True, None],
            "ill": [74317431, 74317431, None],
        }
    )


def test_no_value_of_any_row_is_in_the_report():
    report = reported(leaky())
    assert {each.rule for each in report.failures} >= {
        "type", "nulls", "range", "allowed", "not_future", "min_rows", "unique",
        "class_balance", "cross_column",
    }  # fmt: skip
    said = report.to_json() + report.reason()
    for trace in (SECRET, "74317431", "2143", "1843"):
        assert trace not in said


def test_the_table_is_left_as_it_is():
    canonical = Mapping(contract="clinic@1").apply(leaky(), clinic())
    before, attrs = canonical.copy(), dict(canonical.attrs)
    check(canonical, clinic(), now=NOW)
    pd.testing.assert_frame_equal(canonical, before)
    assert canonical.attrs == attrs


def test_the_silo_itself_can_read_the_whole_report(tmp_path):
    canonical = Mapping(contract="clinic@1").apply(leaky(), clinic())
    for _ in range(2):
        index = write_docs(canonical, clinic(), tmp_path / "silo", now=NOW)
    assert index.is_file()
    assert tmp_path in index.parents
    pages = "".join(page.read_text() for page in index.parent.rglob("*.html"))
    assert "74317431" in pages
    assert "first in rows 3" in pages
    assert (tmp_path / "silo" / "gx").stat().st_mode & 0o777 == 0o700


def test_rules_are_compiled_in_the_contracts_order():
    rules = compile_rules(clinic(), {}, now=NOW)
    columns = [rule.columns[0] for rule in rules if rule.name == "present"]
    assert columns == [column.name for column in clinic().table]


@pytest.fixture(scope="module")
def cancer() -> pd.DataFrame:
    table = load_breast_cancer(as_frame=True).frame
    table = table.rename(columns=lambda name: name.replace(" ", "_"))
    table["malignant"] = 1 - table.pop("target")
    return table.assign(patient_id=[f"p{number}" for number in range(len(table))])


def _radius_in_cm(table):
    names = [name for name in table.columns if "radius" in name]
    return table.assign(**{name: table[name] / 10 for name in names})


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        (lambda table: table, set()),
        (lambda table: table.sample(60, random_state=1), set()),
        (_radius_in_cm, {"range", "typical"}),
        (lambda table: table.assign(radius_error=table["radius_error"] / 10), {"typical"}),
        (lambda table: table.assign(mean_area=-table["mean_area"]), {"range", "typical"}),
        (lambda table: pd.concat([table, table.iloc[:1]]), {"unique"}),
        (lambda table: table[table["malignant"] == 1], {"class_balance"}),
        (lambda table: table.iloc[:5], {"min_rows", "class_balance"}),
    ],
)
def test_the_breast_cancer_contract_knows_a_good_hospital_from_a_bad_one(cancer, change, rules):
    report = reported(change(cancer), Contract.load("breast_cancer@1"))
    assert {each.rule for each in report.failures} == rules


@pytest.mark.parametrize(
    ("target", "values"),
    [
        ({"type": "boolean", "role": "target"}, [True, False]),
        ({"type": "category", "role": "target", "allowed": ["no", "some", "much"]},
         ["no", "some", "much"]),
    ],
)  # fmt: skip
def test_classes_of_every_type_are_balanced_or_not(target, values):
    value = json.loads(json.dumps(CLINIC))
    value["columns"]["ill"] = target
    contract = Contract.parse(value, where="x")
    assert reported(good().assign(ill=(values * 6)[:6]), contract).passed
    report = reported(good().assign(ill=values[0]), contract)
    assert [(each.rule, each.column) for each in report.failures] == [("class_balance", "ill")]


def test_threads_can_check_at_the_same_time():
    tables = [good(), good().assign(ill=1), good().assign(beds=-1), good()]
    with ThreadPoolExecutor(4) as pool:
        reports = list(pool.map(reported, tables))
    assert [report.passed for report in reports] == [True, False, False, True]


def test_great_expectations_leaves_the_logging_of_the_process_alone():
    program = """
        import logging, warnings
        from datetime import UTC, datetime
        lines = []
        class Kept(logging.Handler):
            def emit(self, record):
                lines.append(record.getMessage())
        logging.basicConfig(level=logging.INFO, handlers=[Kept()])
        handlers, shown = list(logging.root.handlers), warnings.showwarning
        import pandas as pd
        from consilo.contracts.contract import Contract
        from silos.rows.check import check
        columns = {"height": {"type": "float"}}
        contract = Contract.parse({"name": "a", "version": 1, "columns": columns}, where="x")
        report = check(pd.DataFrame({"height": [1.0]}), contract, now=datetime.now(UTC))
        assert report.passed
        assert not lines, lines
        assert logging.root.handlers == handlers and logging.root.level == logging.INFO
        assert warnings.showwarning is shown
        logging.captureWarnings(True)
        assert warnings.showwarning is not shown
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
