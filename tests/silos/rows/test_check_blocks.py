"""A table that does not fit gets the report that it would get if it did."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from test_check import CLINIC, NOW, clinic, good

from consilo.contracts.contract import Contract
from silos.rows.arrow import to_arrow
from silos.rows.check import check
from silos.rows.check_blocks import check_blocks
from silos.rows.mapping import UNREADABLE, Mapping

CONTRACT = Contract.parse(
    json.loads(
        json.dumps(
            {
                **CLINIC,
                "columns": {
                    **CLINIC["columns"],
                    "beds": {
                        "type": "integer",
                        "range": {"min": 0.5, "max": 4.5},
                        "typical": {"min": 2, "max": 2.5},
                        "nullable_share": 0.3,
                    },
                },
                "rules": {
                    **CLINIC["rules"],
                    "unique": [["patient_id"], ["patient_id", "visited"], ["waist"], ["height"]],
                    "cross_column": [
                        {"left": "waist", "op": "<", "right": "height"},
                        {"left": "waist", "op": "<=", "right": "height", "severity": "warning"},
                        {"left": "height", "op": "==", "right": "waist", "severity": "warning"},
                        {"left": "waist", "op": ">=", "right": 10},
                        {"left": "waist", "op": "==", "right": 70, "severity": "warning"},
                    ],
                },
            }
        )
    ),
    where="clinic",
)
CELLS = {
    "patient_id": ["p1", "p2", "p3", "p4", "p5", "p6", None],
    "visited": ["2026-04-20", "2026-04-30", "2026-06-01", "1999-01-01", "x", None],
    "height": [100.0, 150.0, 200.0, 210.0, 300.0, 70.0, -0.0, 0.0, "tall", None],
    "waist": [70.0, 80.0, 9.0, 10.0, 150.0, None],
    "beds": [0, 1, 2, 3, 4, 5, 1.5, None],
    "ward": ["a", "b", "c", None],
    "smokes": [True, False, "?", None],
    "ill": [0, 1, 2, None],
}
ROW = st.fixed_dictionaries({name: st.sampled_from(cells) for name, cells in CELLS.items()})
GOOD = good().to_dict("records")


def canonical(rows, contract=CONTRACT, drop=()):
    raw = pd.DataFrame(rows, columns=list(CELLS), dtype=object).drop(columns=list(drop))
    return Mapping(contract=contract.ref).apply(raw, contract)


def in_blocks(frame, contract, folder, block_rows):
    return check_blocks(
        to_arrow(frame),
        contract,
        frame.attrs.get(UNREADABLE, {}),
        folder,
        now=NOW,
        block_rows=block_rows,
    )


@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(ROW, max_size=12),
    st.sampled_from([(), ("waist",), ("ill", "visited")]),
    st.sampled_from([1, 3, 100]),
)
@example([], (), 1)
@example(GOOD, (), 2)
@example(GOOD * 3, ("ward",), 5)
def test_any_split_gives_the_report_of_the_whole(tmp_path, rows, drop, block_rows):
    frame = canonical(rows, drop=drop)
    report, told = in_blocks(frame, CONTRACT, tmp_path, block_rows)
    assert report == check(frame, CONTRACT, now=NOW)
    assert [each.verdict for each in told] == [each.verdict for each in report.findings]
    assert list(tmp_path.iterdir()) == []


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, 7.25]), min_size=1, max_size=30),
    st.sampled_from([-1.0, 0.0, 0.25, 0.75, 1.0, 1.5, 8.0]),
    st.sampled_from([0.0, 0.3, 1.0, 6.0]),
    st.integers(1, 7),
)
def test_a_median_is_judged_without_being_computed(tmp_path, values, low, width, block_rows):
    from silos.rows.check_blocks import _Median

    tally = _Median("x", low, low + width)
    for start in range(0, len(values), block_rows):
        tally.add(pd.DataFrame({"x": values[start : start + block_rows]}))
    assert tally.holds() == (low <= np.median(values) <= low + width)


@pytest.mark.parametrize("block_rows", [4, 1000])
def test_the_exact_numbers_and_ways_are_told_to_the_people_in_the_silo(tmp_path, block_rows):
    rows = [{**row, "patient_id": f"p{at // 2}", "beds": 3} for at, row in enumerate(GOOD)]
    rows[0]["height"] = "tall"
    report, told = in_blocks(canonical(rows, clinic()), clinic(), tmp_path, block_rows)
    found = {(each.rule, each.columns): each for each in told}
    assert found["unique", ("patient_id",)].failed == 6
    assert "DuckDB" in found["unique", ("patient_id",)].how
    assert found["type", ("height",)].failed == 1
    assert found["nulls", ("height",)].how.startswith("counted over blocks")
    assert found["typical", ("height",)].how.startswith("values below and above the bounds")
    assert ("unique", "patient_id") in {(each.rule, each.column) for each in report.failures}
