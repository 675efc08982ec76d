"""A saved model: what it answers, which rows it refuses or flags, and that it needs nothing of us.

A registered model once answered an unknown category with an all-zero one-hot, and 1.0 for an age of
a million.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from consilo.contracts.contract import Contract
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.learning import learner_of
from consilo.jobs.job import Job
from consilo.machine.environment import child_environment
from consilo.models.folder import SOURCE, Scored, write_model
from consilo.models.scoring import INVALID, Model, OutsideContract

CONTRACT = {
    "name": "people",
    "version": 1,
    "columns": {
        "sex": {"type": "category", "allowed": ["Female", "Male"]},
        "age": {"type": "float", "range": {"min": 0, "max": 120}},
        "visits": {"type": "integer", "range": {"min": 0}, "nullable_share": 0.3},
        "code": {"type": "category", "allowed": ["007", "7"], "nullable_share": 0.3},
        "smoker": {"type": "boolean"},
        "ill": {"type": "boolean", "role": "target"},
    },
}
NET = """
import torch

class Sliced(torch.nn.Module):
    '''Looks at one input, which it finds by its name.'''

    def __init__(self, num_inputs, num_outputs, input_names, wanted="age"):
        super().__init__()
        self.place = input_names.index(wanted)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, rows):
        return self.weight * rows[:, self.place : self.place + 1]


class Awkward(Sliced):
    '''Its forward depends on values, which torch.export refuses.'''

    def forward(self, rows):
        out = super().forward(rows)
        return out * 2 if rows.sum() > 1e9 else out
"""


def scored(folder: Path, model: str = "net:Sliced", **args: object) -> Scored:
    (folder / "net.py").write_text(NET)
    contract = Contract.parse(CONTRACT, where="test")
    job = Job.from_json(
        {
            "name": "people",
            "contract": contract.ref,
            "task": "binary",
            "model": {"name": model, "args": args},
            "features": {"missing": "indicator"},
        }
    )
    encoding = Encoding.plan(contract, job)
    scale = Scale(np.array([50.0, 3.0, 0.5]), np.array([20.0, 2.0, 0.5]))
    return Scored(job, contract, encoding, scale, learner_of(job, encoding, (folder,)))


@pytest.fixture
def model(tmp_path: Path) -> Model:
    (tmp_path / "saved").mkdir()
    write_model(scored(tmp_path), tmp_path / "saved")
    return Model(tmp_path / "saved")


def good(rows: int = 4) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "sex": ["Male", "Female"] * (rows // 2),
            "age": np.linspace(20, 80, rows),
            "visits": np.arange(rows),
            "code": ["007", "7"] * (rows // 2),
            "smoker": [True, False] * (rows // 2),
        }
    )


def put(column: str, value: object, frame: pd.DataFrame | None = None) -> pd.DataFrame:
    frame = good() if frame is None else frame
    values = frame[column].astype(object)
    values[2] = value
    return frame.assign(**{column: values})


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("sex", "male", "sex: is not one of Female, Male"),
        ("sex", "unknown", "sex: is not one of Female, Male"),
        ("sex", None, "sex: is missing"),
        ("sex", "Male ", "sex: is not one of Female, Male"),
        ("code", 7, "code: is a number, and the contract's codes are text"),
        ("code", "07", "code: is not one of 007, 7"),
        ("age", "?", "age: is not a number"),
        ("age", "1,5", "age: is not a number"),
        ("age", "1_000", "age: is not a number"),
        ("age", "inf", "age: is not a number"),
        ("age", "\u0664\u0662", "age: is not a number"),  # 42, in other digits than a silo reads
        ("age", 42 + 0j, "age: is not a number"),
        ("age", 2**53 + 1, "age: is not a number"),  # a float would change it, without a word
        ("age", str(2**53 + 1), "age: is not a number"),
        ("age", 10**400, "age: is not a number"),
        ("age", 2**53, "age: is above 120"),
        ("age", 1e6, "age: is above 120"),
        ("age", -1, "age: is below 0"),
        ("age", np.inf, "age: is not finite"),
        ("age", -np.inf, "age: is not finite"),
        ("age", np.nan, "age: is missing"),
        ("age", "", "age: is missing"),
        ("age", pd.Timestamp("2020-01-01"), "age: is not a number"),
        ("visits", 1.5, "visits: is not a whole number"),
        ("visits", -3, "visits: is below 0"),
        ("smoker", 2, "smoker: is neither true nor false"),
        ("smoker", "perhaps", "smoker: is not a number"),
    ],
)
def test_a_row_outside_of_the_contract_is_refused_or_flagged(model, column, value, said):
    frame = put(column, value)
    with pytest.raises(OutsideContract, match="1 of 4 rows are outside of the contract") as error:
        model.predict(frame)
    assert said in str(error.value)
    answers = model.predict(frame, invalid="flag")
    assert answers.loc[2, INVALID].startswith(said)
    assert np.isnan(answers.loc[2, "probability"])
    others = [0, 1, 3]
    assert (answers.loc[others, INVALID] == "").all()
    pd.testing.assert_series_equal(
        answers.loc[others, "probability"], model.predict(good()).loc[others, "probability"]
    )


@pytest.mark.parametrize("kind", ["int64", "int32", "Int64", "float32", "Float64", "str", "object"])
def test_a_number_may_come_as_any_type_that_holds_it(model, kind):
    whole = good().assign(age=[20, 40, 60, 80])
    asked = whole.assign(age=whole["age"].astype(kind))
    pd.testing.assert_frame_equal(model.predict(asked), model.predict(whole))


@pytest.mark.parametrize("kind", ["int64", "Int64", "uint64"])
def test_a_whole_number_that_a_float_would_change_is_not_read(model, kind):
    asked = good().assign(age=pd.array([20, 2**53 + 1, 2**53, 80], dtype=kind))
    answers = model.predict(asked, invalid="flag")
    said = ["", "age: is not a number", "age: is above 120", ""]
    assert answers[INVALID].tolist() == said


@pytest.mark.parametrize("kind", ["category", "string", "object"])
def test_a_code_may_come_as_any_type_of_text(model, kind):
    asked = good().assign(sex=good()["sex"].astype(kind))
    pd.testing.assert_frame_equal(model.predict(asked), model.predict(good()))


def test_what_the_contract_lets_be_empty_is_answered(model):
    frame = put("visits", None, put("code", None))
    assert model.predict(frame).notna().all(axis=None)


def test_columns_may_come_in_any_order_with_others_and_an_index_of_their_own(model):
    frame = good()[["smoker", "code", "visits", "age", "sex"]].assign(more=1)
    frame.index = [3, 1, 4, 1]
    answers = model.predict(frame)
    assert list(answers.index) == [3, 1, 4, 1]
    np.testing.assert_array_equal(answers.to_numpy(), model.predict(good()).to_numpy())


def test_a_column_that_is_not_there_is_named(model):
    with pytest.raises(ValueError, match="has no column age, which the model reads"):
        model.predict(good().drop(columns="age"))
    with pytest.raises(ValueError, match="expected 'refuse' or 'flag'"):
        model.predict(good(), invalid="ignore")


def test_no_row_is_no_answer(model):
    assert model.predict(good().iloc[:0]).shape == (0, 1)


@pytest.mark.parametrize(("wanted", "place"), [("age", 0), ("smoker", 2), ("sex=Male", 4)])
@pytest.mark.parametrize("kind", ["net:Sliced", "net:Awkward"])
def test_a_model_that_slices_by_name_sees_the_same_input_wherever_it_is_built(
    tmp_path, wanted, place, kind
):
    # By the order of the contract's columns it once learnt from another one: sex stands first.
    made = scored(tmp_path, kind, wanted=wanted)
    assert made.encoding.inputs[place] == wanted
    folder = tmp_path / "saved"
    folder.mkdir()
    written = write_model(made, folder)
    assert (written == SOURCE) == (kind == "net:Awkward")
    frame = good()
    inputs = made.encoding.features(frame, made.scale)
    np.testing.assert_allclose(
        Model(folder).predict(frame)["probability"],
        1 / (1 + np.exp(-inputs[:, place])),
        rtol=1e-5,
    )
    assert json.loads((folder / "scoring.json").read_text())["inputs"] == list(made.encoding.inputs)


ALONE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import pandas as pd
from scoring import Model
answers = Model(sys.argv[1]).predict(pd.read_parquet(sys.argv[2]))
assert not {"consilo", "mlflow"} & set(sys.modules), "a saved model stands alone"
print(json.dumps(answers.to_dict("list")))
"""


def test_a_saved_model_needs_nothing_of_consilo(model, tmp_path):
    good().to_parquet(tmp_path / "rows.parquet")
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(tmp_path / "saved"), str(tmp_path / "rows.parquet")],
        env=child_environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == model.predict(good()).to_dict("list")


def test_a_category_whose_codes_are_numbers_in_the_contract_is_text_in_the_table():
    # Its one-hot was once all zero in every row: the table holds "1", the contract said 1.
    columns = {
        "stage": {"type": "category", "allowed": [1, 2]},
        "kind": {"type": "category", "allowed": [0, 1], "role": "target"},
    }
    contract = Contract.parse({"name": "a", "version": 1, "columns": columns}, where="test")
    job = Job.from_json(
        {
            "name": "a",
            "contract": "a@1",
            "task": "binary",
            "model": {"name": "consilo.learners.tabular:MLP"},
        }
    )
    encoding = Encoding.plan(contract, job)
    frame = pd.DataFrame({"stage": ["2", "1"], "kind": ["1", "0"]})
    assert encoding.features(frame, Scale.unit(0)).tolist() == [[0, 1], [1, 0]]
    assert encoding.target(frame).tolist() == [1, 0]
