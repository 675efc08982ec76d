"""Where nothing matches, each side is shown what its own keys look like, and no key."""

from __future__ import annotations

import pandas as pd
import pytest

from consilo.jobs.recipe import Recipe
from consilo.matching.entities import people
from consilo.matching.key_shapes import key_shapes, lost_parts


def recipe(*steps: str) -> Recipe:
    parts = [{"column": "patient", "steps": list(steps)}]
    return Recipe.model_validate({"keys": [{"parts": parts}]})


def frame(values: list) -> pd.DataFrame:
    return pd.DataFrame({"patient": pd.Series(values, dtype="str")})


def test_a_column_of_floats_has_the_keys_of_one_of_texts():
    made = [
        people(frame(each), recipe("trim", "number"), shard_key=b"k").keys[0]
        for each in (["1000", "1001"], ["1000.0", "1001.0"], ["01000", " 1001 "])
    ]
    digests = [each.digests.tobytes() for each in made]
    assert digests[0] == digests[1] == digests[2]


def test_the_shape_tells_length_and_signs():
    (line,) = key_shapes(frame(["1000.0", "1001.0", None, "1003.0"] * 10), recipe("trim"))
    assert line.startswith("key 1, column patient after [trim]: 75% of the rows have one, 6 signs")
    assert "all of them ending in .0" in line
    assert "85% digits" in line
    assert "15% points" in line


@pytest.mark.parametrize("values", [["1000"], ["Ann-Marie Smith"] * 3, ["a", "bb", "ccc"] * 9])
def test_no_value_is_told_and_no_length_of_one_person(values):
    values = [*values, "x" * 77]
    told = " ".join(key_shapes(frame(values * 1), recipe("trim")))
    assert not any(len(each) > 3 and each in told for each in values)
    if len(values) > 10:
        assert "77" not in told


def test_a_column_without_keys_is_said():
    (line,) = key_shapes(frame([None, " "]), recipe("trim"))
    assert line.endswith("none of 2 rows has one")


def test_what_the_steps_leave_nothing_of_is_told_without_a_value():
    values = ["1990-05-01", "01.05.1990", None, "19900501.0"] * 10
    (line,) = lost_parts(frame(values), recipe("trim", "date"))
    assert line.startswith("key 1, column patient: the steps [trim, date] leave nothing of 35% of")
    assert "01.05" not in line
    assert lost_parts(frame(values), recipe("trim")) == []
