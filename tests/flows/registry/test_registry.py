"""The registered model: what it answers, in whose process, and of what it is made."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from consilo.contracts.contract import Contract
from consilo.errors import ConfigInvalid
from consilo.horizontal.features import Encoding, Scale
from consilo.horizontal.learning import learner_of
from consilo.jobs.job import Job
from consilo.machine.environment import child_environment
from consilo.models.folder import EXPORTED, SOURCE, Scored, example_frame, write_model
from consilo.models.scoring import Model
from flows.registry import registry
from flows.registry.model_lookup import fetched
from flows.registry.tracking import Tracker

pytestmark = pytest.mark.flow

CONTRACT = {
    "name": "flowers",
    "version": 1,
    "columns": {
        "length": {"type": "float", "range": {"min": 0, "max": 10}, "nullable_share": 0.5},
        "petals": {"type": "integer", "range": {"min": 0, "max": 9}, "nullable_share": 0.5},
        "wild": {"type": "boolean"},
        "colour": {"type": "category", "allowed": ["red", "blue"], "nullable_share": 0.2},
        "kind": {"type": "category", "allowed": ["a", "b", "c"], "role": "target"},
    },
}
AWKWARD = '''
import torch

class Awkward(torch.nn.Module):
    """Its forward depends on values, which torch.export refuses."""

    def __init__(self, num_inputs, num_outputs, width=3):
        super().__init__()
        self.first = torch.nn.Linear(num_inputs, width)
        self.second = torch.nn.Linear(width, num_outputs)

    def forward(self, features):
        hidden = self.first(features)
        if hidden.sum() > 0:
            hidden = hidden * 2
        return self.second(hidden)
'''


def flowers(num_rows: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(3)
    length = rng.normal(4, 1, num_rows)
    length[::7] = np.nan
    petals = pd.array(rng.integers(3, 8, num_rows), dtype="Int64")
    petals[5] = pd.NA
    colours = pd.Series(rng.choice(["red", "blue"], num_rows)).where(np.arange(num_rows) % 9 > 0)
    return pd.DataFrame(
        {
            "length": length,
            "petals": petals,
            "wild": pd.array(rng.integers(0, 2, num_rows).astype(bool), dtype="boolean"),
            "colour": pd.Categorical(colours, categories=["red", "blue"]),
        },
        index=np.arange(100, 100 + num_rows),
    )


def make(
    task: str = "multiclass",
    *,
    model: str = "consilo.learners.tabular:MLP",
    search_path: tuple[Path, ...] = (),
    missing: str = "indicator",
    scale: bool = True,
    **changes,
) -> Scored:
    described = {**CONTRACT, "columns": dict(CONTRACT["columns"])}
    if task == "binary":
        kind = {"type": "category", "allowed": ["a", "b"], "role": "target"}
        described["columns"]["kind"] = kind
    if task in ("regression", "custom"):
        described["columns"]["kind"] = {"type": "float", "role": "target"}
    contract = Contract.parse(described, where="test")
    job = Job.from_json(
        {
            "name": f"flowers-{task}",
            "contract": contract.ref,
            "task": task,
            "model": {"name": model},
            "features": {"missing": missing},
            "seed": 5,
            **changes,
        }
    )
    encoding = Encoding.plan(contract, job)
    learner = learner_of(job, encoding, search_path)
    used = Scale(np.array([4.0, 5.0, 0.5]), np.array([1.0, 2.0, 0.5])) if scale else None
    return Scored(job, contract, encoding, used, learner)


def predictions(scored: Scored, folder: Path, frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    return write_model(scored, folder), Model(folder).predict(frame)


def expected(scored: Scored, frame: pd.DataFrame) -> np.ndarray:
    inputs = scored.encoding.features(frame, scored.scale)
    answers = scored.learner.predict(inputs)
    return answers.reshape(len(frame), -1)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("missing", ["mean", "indicator"])
def test_the_scoring_file_encodes_and_answers_as_the_learner(task, missing, tmp_path):
    scored, frame = make(task, missing=missing), flowers()
    kind, found = predictions(scored, tmp_path, frame)
    assert kind == EXPORTED
    np.testing.assert_allclose(found.to_numpy(), expected(scored, frame), rtol=1e-5, atol=1e-6)
    assert list(found.index) == list(frame.index)


def test_a_binary_model_with_two_logits_answers_one_probability(tmp_path):
    scored, frame = make("binary", outputs=2), flowers()
    _, found = predictions(scored, tmp_path, frame)
    assert list(found.columns) == ["probability"]
    np.testing.assert_allclose(found.to_numpy(), expected(scored, frame), rtol=1e-5, atol=1e-6)


def test_each_class_has_its_column_and_rows_add_up_to_one(tmp_path):
    _, found = predictions(make(), tmp_path, flowers())
    assert list(found.columns) == ["a", "b", "c"]
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-5)


def test_a_row_that_training_would_leave_out_gets_no_answer(tmp_path):
    frame = flowers()
    _, found = predictions(make(missing="drop"), tmp_path, frame)
    gaps = frame.isna().any(axis=1)
    assert found[gaps].isna().all(axis=None)
    assert found[~gaps].notna().all(axis=None)


def test_a_model_of_locally_standardised_columns_standardises_the_frame(tmp_path):
    scored, frame = make(scale=False), flowers()
    _, found = predictions(scored, tmp_path, frame)
    raw = scored.encoding.raw_numeric(frame)
    own = Scale.of_moments(np.nanmean(raw, axis=0), np.nanvar(raw, axis=0, ddof=1))
    wanted = scored.learner.predict(scored.encoding.features(frame, own))
    np.testing.assert_allclose(found.to_numpy(), wanted, rtol=1e-5, atol=1e-6)


def test_a_model_that_cannot_be_exported_travels_as_its_source(tmp_path):
    (tmp_path / "awkward.py").write_text(AWKWARD)
    scored = make("binary", model="awkward:Awkward", search_path=(tmp_path,))
    folder = tmp_path / "model"
    folder.mkdir()
    kind, found = predictions(scored, folder, flowers())
    assert kind == SOURCE
    assert (folder / "source" / "awkward.py").exists()
    assert (folder / "weights.safetensors").exists()
    assert not (folder / "model.pt2").exists()
    np.testing.assert_allclose(found.to_numpy(), expected(scored, flowers()), rtol=1e-5, atol=1e-6)


def test_nothing_in_an_exported_model_is_pickled(tmp_path):
    write_model(make(), tmp_path)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        for entry in archive.namelist():
            content = archive.read(entry)
            assert not content.startswith((b"\x80", b"PK")), f"{entry} is a pickle or a zip of one"


def test_the_example_is_made_of_the_contract_alone():
    scored = make()
    example = example_frame(scored.contract, scored.encoding)
    assert example.to_dict("records") == [
        {"length": 5.0, "petals": 4, "wild": False, "colour": "red"}
    ]


LOAD = """
import json, sys
import pandas as pd
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
frame = pd.read_parquet(sys.argv[3])
model = mlflow.pyfunc.load_model(sys.argv[2])
answers = model.predict(frame)
assert list(frame.columns) == model.metadata.signature.inputs.input_names()
whole = frame.assign(length=frame["length"].round())
as_integers = whole.assign(length=whole["length"].astype("Int64"))
assert model.predict(as_integers).equals(model.predict(whole)), "an integer is a number"
plain = frame.dropna().assign(length=4)
assert plain["length"].dtype == "int64"
model.predict(plain)
wrong = frame.assign(colour="pink")
try:
    model.predict(wrong)
except ValueError as error:
    assert "colour: is not one of red, blue" in str(error)
else:
    raise AssertionError("an unknown category was answered")
flagged = model.predict(wrong, params={"invalid": "flag"})
assert (flagged["invalid"] == "colour: is not one of red, blue").all()
assert "consilo" not in sys.modules, "the model needs Consilo"
print(json.dumps(answers.to_dict("list")))
"""


@pytest.mark.parametrize("source", [False, True])
def test_a_fresh_process_loads_the_alias_and_answers_the_same(source, services, tmp_path):
    (tmp_path / "awkward.py").write_text(AWKWARD)
    (tmp_path / "elsewhere").mkdir()
    own = {"model": "awkward:Awkward", "search_path": (tmp_path,)} if source else {}
    scored, frame = make("binary", **own), flowers()
    tracker = Tracker.open(services.tracking_uri, experiment="registry", name="test", tags={})
    client = MlflowClient(services.tracking_uri)
    made = registry.register(
        client, tracker.run_id, scored, metrics={"roc_auc": 0.5}, status="complete"
    )
    registry.label(client, made, {"told": "yes"})
    frame.to_parquet(tmp_path / "frame.parquet")
    (tmp_path / "load.py").write_text(LOAD)
    # The user's module is not there, and nothing may be unpickled.
    (tmp_path / "awkward.py").unlink()
    environment = child_environment(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false")
    done = subprocess.run(
        [
            sys.executable,
            str(tmp_path / "load.py"),
            services.tracking_uri,
            made.uri,
            str(tmp_path / "frame.parquet"),
        ],
        env=environment,
        cwd=tmp_path / "elsewhere",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = pd.DataFrame(json.loads(done.stdout))
    np.testing.assert_allclose(
        found["probability"], expected(scored, frame)[:, 0], rtol=1e-5, atol=1e-6
    )
    # Nor does the command look in a registry of this process's own.
    folder = fetched(made.uri, services.tracking_uri)
    assert (folder / "scoring.py").exists()
    with pytest.raises(ConfigInvalid, match="has no such model"):
        fetched("models:/nobody@candidate", services.tracking_uri)
    with pytest.raises(ConfigInvalid, match="has no such model"):
        fetched("models:/nobody", services.tracking_uri)
