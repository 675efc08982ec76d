"""What is counted for Great Expectations is what it would count itself: verdicts, rows, pages."""

import json
import subprocess
import sys
import textwrap
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_check import NOW, clinic
from test_check_blocks import CELLS, CONTRACT, GOOD, ROW, canonical

from consilo.contracts.contract import Contract
from silos.rows import check as checking
from silos.rows.check import check, compile_rules, write_docs
from silos.rows.checks.judge import Judge
from silos.rows.checks.library import quiet_gx
from silos.rows.mapping import UNREADABLE

ONE_CLASS = clinic(class_balance=None)
"""Asks for all classes where `CONTRACT` asks for their shares."""


def by_great_expectations(frame, expectations):
    """Return (holds, failed rows) of each expectation, all of it Great Expectations' own work."""
    with quiet_gx() as gx:
        from great_expectations.execution_engine import PandasExecutionEngine
        from great_expectations.validator.validator import Validator

        types = gx.data_context.types.base
        config = types.DataContextConfig(
            store_backend_defaults=types.InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            progress_bars=types.ProgressBarsConfig(globally=False),
        )
        validator = Validator(
            execution_engine=PandasExecutionEngine(batch_data_dict={"rows": frame}),
            data_context=gx.get_context(mode="ephemeral", project_config=config),
        )
        found = validator.graph_validate(
            configurations=[
                each.copy(update={"meta": {"at": at}}).configuration
                for at, each in enumerate(expectations)
            ],
            runtime_configuration={
                "result_format": {"result_format": "BASIC", "partial_unexpected_count": 0}
            },
        )
    found.sort(key=lambda each: each.expectation_config.meta["at"])
    return [(each.success is True, int(each.result.get("unexpected_count") or 0)) for each in found]


def judged(frame, expectations):
    with quiet_gx():
        judge = Judge({name: frame[name] for name in frame.columns}, len(frame))
        found = [judge.judge(each) for each in expectations]
    return [(each.holds, each.failed) for each in found]


def shown(frame):
    return pd.DataFrame(checking._with_marks(frame), index=frame.index)


def expectations_of(frame, contract):
    rules = compile_rules(contract, frame.attrs.get(UNREADABLE, {}), now=NOW)
    there = set(frame.columns)
    return [
        each
        for rule in rules
        if rule.name == "present" or set(rule.columns) <= there
        for each in rule.expectations
    ]


@settings(max_examples=25, deadline=None)
@given(
    st.lists(ROW, max_size=14),
    st.sampled_from([(), ("waist",), ("ill", "visited")]),
    st.sampled_from([CONTRACT, ONE_CLASS]),
)
@example([], (), CONTRACT)
@example(GOOD, (), CONTRACT)
@example(GOOD, (), ONE_CLASS)
@example([dict.fromkeys(CELLS)] * 3, (), CONTRACT)
def test_every_rule_is_judged_as_great_expectations_judges_it_alone(rows, drop, contract):
    frame = canonical(rows, contract, drop)
    expectations = expectations_of(frame, contract)
    assert judged(shown(frame), expectations) == by_great_expectations(shown(frame), expectations)


def test_the_contracts_of_these_tests_have_every_kind_of_rule():
    from typing import get_args

    from consilo.contracts.report import RuleName

    rules = {
        rule.name
        for contract in (CONTRACT, ONE_CLASS, clinic(min_rows={"count": 4, "severity": "warning"}))
        for rule in compile_rules(contract, {}, now=NOW)
    }
    assert rules == set(get_args(RuleName))


NUMBERS = [-1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 2.5, 7.25, 1e300, float("inf"), float("-inf"), None]
WHOLE = [-3, -1, 0, 1, 2, 3, 2**53, 2**53 + 1, 2**62, None]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(NUMBERS), st.sampled_from(WHOLE)), max_size=12),
    st.sampled_from([None, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 2.5, float(2**53)]),
    st.sampled_from([0.0, 0.4, 1.0, 3.0, 1e300]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1.0, 0.5, 2 / 3]),
)
def test_bounds_of_any_kind_are_judged_alike(rows, low, width, strict_low, strict_high, mostly):
    frame = pd.DataFrame(
        {
            "x": pd.Series([x for x, _ in rows], dtype="float64"),
            "n": pd.Series([n for _, n in rows], dtype="Int64"),
        }
    )
    high = width if low is None else low + width
    with quiet_gx() as gx:
        expect = gx.expectations
        asked = [
            expect.ExpectColumnValuesToBeBetween(
                column=name,
                min_value=low,
                max_value=high,
                strict_min=strict_low,
                strict_max=strict_high,
                mostly=mostly,
            )
            for name in ("x", "n")
        ]
        asked += [
            expect.ExpectColumnMedianToBeBetween(column=name, min_value=low, max_value=high)
            for name in ("x", "n")
        ]
        asked += [
            expect.ExpectColumnPairValuesAToBeGreaterThanB(
                column_A="x", column_B="n", or_equal=strict, ignore_row_if="either_value_is_missing"
            )
            for strict in (False, True)
        ]
    assert judged(frame, asked) == by_great_expectations(frame, asked)


@pytest.mark.parametrize("column", list(CELLS))
@pytest.mark.parametrize("dtype", ["str", "float64", "boolean", "datetime64[ns]"])
def test_a_column_of_another_type_is_judged_alike(column, dtype):
    frame = canonical(GOOD)
    values = {"str": "a", "float64": 1.5, "boolean": True, "datetime64[ns]": "2026-04-01"}
    frame[column] = pd.Series([values[dtype]] * len(frame), dtype=dtype)
    expectations = expectations_of(frame, CONTRACT)
    assert judged(frame, expectations) == by_great_expectations(frame, expectations)


def test_a_column_without_a_type_keeps_no_rule_about_its_type():
    frame = canonical(GOOD)
    frame["ward"] = frame["ward"].astype(object)
    report = check(frame, CONTRACT, now=NOW)
    assert ("type", "ward") in {(each.rule, each.column) for each in report.failures}


def checkpoint_results(frame, contract, folder):
    """Return the results that Great Expectations' own checkpoint keeps of the same suite."""
    rules = compile_rules(contract, frame.attrs.get(UNREADABLE, {}), now=NOW)
    facts = checking._facts(frame, rules)
    rules = [
        rule for rule in rules if rule.name == "present" or checking.can_be_checked(rule, facts)
    ]
    with quiet_gx() as gx:
        context = gx.get_context(mode="file", project_root_dir=folder)
        source = context.data_sources.add_or_update_pandas("canonical")
        name = f"{contract.name}_{contract.version}"
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe("whole")
        suite = context.suites.add(
            gx.ExpectationSuite(name=name, expectations=checking._marked(enumerate(rules)))
        )
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        found = definition.run(
            batch_parameters={"dataframe": shown(frame)}, result_format="SUMMARY"
        )
    return found.to_json_dict()


def kept_results(folder):
    (kept,) = (folder / "gx" / "uncommitted" / "validations").rglob("*.json")
    return json.loads(kept.read_text())


def comparable(results):
    """Return results in the contract's order, without the names that are made anew each time."""
    found = sorted(results["results"], key=lambda e: e["expectation_config"]["meta"]["position"])
    for each in found:
        each["expectation_config"].pop("id")
        each["exception_info"].pop("exception_traceback", None)
    return found


@pytest.mark.parametrize("dirty", [False, True])
def test_the_kept_results_are_those_of_great_expectations_own_checkpoint(tmp_path, dirty):
    rows = [dict(row) for row in GOOD]
    if dirty:
        rows[0] |= {"height": "tall", "waist": 150.0, "ward": "c", "beds": 5}
        rows[1] |= {"height": None, "ill": None, "visited": "2026-06-01", "patient_id": "p1"}
        rows[2] |= {"patient_id": "p1", "visited": "2026-06-01", "smokes": "?"}
    frame = canonical(rows)
    write_docs(frame, CONTRACT, tmp_path / "ours", now=NOW)
    ours = kept_results(tmp_path / "ours")
    theirs = checkpoint_results(frame, CONTRACT, tmp_path / "theirs")
    assert (ours["success"], ours["statistics"]) == (theirs["success"], theirs["statistics"])
    assert ours["meta"].keys() == theirs["meta"].keys()
    assert comparable(ours) == comparable(theirs)


def wide(num_columns):
    column = {"type": "float", "range": {"min": 0, "max": 1}, "nullable_share": 0.5}
    columns = {f"c{at:04d}": column for at in range(num_columns)}
    contract = Contract.model_validate({"name": "wide", "version": 1, "columns": columns})
    values = np.random.default_rng(0).random((50, num_columns))
    values[::7] = np.nan
    return pd.DataFrame(values, columns=list(columns)), contract


def test_pages_of_many_rules_have_those_that_do_not_hold_first(tmp_path):
    frame, contract = wide(200)
    frame["c0199"] += 1
    page = write_docs(frame, contract, tmp_path, now=NOW)
    results = comparable(kept_results(tmp_path))
    assert len(results) == checking.MOST_SHOWN
    assert [e["expectation_config"]["kwargs"]["column"] for e in results if not e["success"]] == [
        "c0199"
    ]
    pages = "".join(each.read_text() for each in page.parent.rglob("*.html"))
    assert "301 more rules are not shown" in pages


def calls_of(work):
    """Return how many calls a piece of work makes: time that no other process disturbs."""
    calls = 0

    def count(_frame, event, _argument):
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls


def test_the_time_of_a_check_grows_with_the_columns_and_a_rule_costs_little():
    """Each rule took 3 ms before a row was seen, and pages compared every rule with each other."""
    calls = {}
    for num_columns in (40, 160):
        frame, contract = wide(num_columns)
        calls[num_columns] = calls_of(lambda f=frame, c=contract: check(f, c, now=NOW))
    assert calls[160] < 4.4 * calls[40]
    assert calls[160] < 160 * 3000


def test_a_check_copies_no_table_for_a_column_with_gaps():
    frame, contract = wide(300)
    check(frame, contract, now=NOW)
    with_gaps = pd.DataFrame({name: frame[name].repeat(200) for name in frame.columns})
    tracemalloc.start()
    assert check(with_gaps, contract, now=NOW).passed
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < with_gaps.memory_usage().sum() / 2


def test_what_no_rule_uses_is_imported_by_who_uses_it():
    program = """
        import gc, sys
        from datetime import UTC, datetime
        import pandas as pd
        from consilo.contracts.contract import Contract
        from silos.rows.check import check
        columns = {"height": {"type": "float"}}
        contract = Contract.parse({"name": "a", "version": 1, "columns": columns}, where="x")
        finders = list(sys.meta_path)
        assert check(pd.DataFrame({"height": [1.0]}), contract, now=datetime.now(UTC)).passed
        assert sys.meta_path == finders and gc.isenabled()
        assert not {"altair", "scipy.stats"} & set(sys.modules)
        import great_expectations.expectations.core as core
        drawn = core.expect_column_kl_divergence_to_be_less_than
        assert drawn.stats.entropy([1.0]) == 0  # and is there for whoever uses it
        import altair, scipy, scipy.stats
        from scipy import stats
        assert drawn.alt.Chart is altair.Chart
        assert stats is scipy.stats is sys.modules["scipy.stats"]
        assert drawn.stats.norm is stats.norm
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=60)
