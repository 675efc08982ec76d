"""Equal rows across the held-out split, and rows without a label, are told to the silo's people."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from silos.rows.likeness import likeness


def contract(**more: dict) -> Contract:
    columns = {
        "x": {"type": "float"},
        "y": {"type": "integer", "role": "target", "allowed": [0, 1], "nullable_share": 0.5},
    }
    return Contract.parse({"name": "t", "version": 1, "columns": {**columns, **more}}, where="t")


def table(copies: int, **more) -> pd.DataFrame:
    frame = pd.DataFrame({"x": np.arange(6.0), "y": pd.array([0, 1] * 3, dtype="Int64")})
    return pd.concat([frame] * copies, ignore_index=True).assign(**more)


def test_six_rows_each_fifty_times_are_said():
    told = likeness([table(50)], contract())
    assert (told.rows, told.equal, told.apart) == (300, 294, 0)
    assert told.lines() == [
        "294 of 300 rows (98.0%) equal an earlier row in every feature and target"
    ]


@pytest.mark.parametrize(
    ("column", "values", "apart"),
    [
        ({"type": "integer", "role": "id"}, np.arange(300), 300),
        ({"type": "string", "role": "subject"}, [f"p{n // 6}" for n in range(300)], 300),
        ({"type": "string", "role": "subject"}, [f"p{n % 6}" for n in range(300)], 0),
    ],
)
def test_equal_rows_that_the_split_may_part_are_counted(column, values, apart):
    told = likeness([table(50, who=values)], contract(who=column))
    assert (told.equal, told.apart) == (294, apart)
    assert ("too good" in " ".join(told.lines())) == (apart > 0)


def test_blocks_are_one_table_and_distinct_rows_are_nothing_to_say():
    frame = table(2)
    whole = likeness([frame], contract())
    assert likeness([frame[:5], frame[5:]], contract()) == whole
    assert whole.equal == 6
    assert likeness([table(1)], contract()).lines() == []


def test_rows_without_a_label_are_counted():
    frame = table(1)
    frame.loc[[0, 3], "y"] = None
    told = likeness([frame], contract())
    assert told.unlabelled == 2
    assert "2 of 6 rows have no target" in told.lines()[0]
