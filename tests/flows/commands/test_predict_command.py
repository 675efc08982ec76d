"""``consilo job run --local --out`` and ``consilo predict``: from silos' folders to predictions."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import clinic
import numpy as np
import pandas as pd
import pytest
import yaml
from agreed import agree

from consilo.errors import ConfigInvalid
from flows.commands.predict import predict
from silos.gate.policy import TEMPLATE

pytestmark = pytest.mark.flow


def consilo(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("consilo")), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict, str]:
    study = tmp_path_factory.mktemp("study")
    (study / "clinic.yaml").write_text(clinic.CONTRACT)
    (study / "job.yaml").write_text(yaml.safe_dump({**clinic.JOB, "protocol": {"rounds": 2}}))
    for number, name in enumerate(("north", "south")):
        place = study / "silos" / name
        place.mkdir(parents=True)
        clinic.frame(60, number).to_csv(place / "rows.csv", index=False)
        config = {"name": name, "data": {"rows": {"type": "csv", "path": "rows.csv"}}}
        (place / "silo.yaml").write_text(yaml.safe_dump(config))
        (place / "policy.yaml").write_text(TEMPLATE)
        agree(place, clinic.contract())
    done = consilo(
        *("job", "run", study / "job.yaml", "--silos", study / "silos", "--local"),
        *("--json", "--out", study / "out"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return study, json.loads(done.stdout), done.stderr


def test_a_local_run_tells_its_progress_and_keeps_what_it_made(ran):
    study, summary, told = ran
    assert "north: keeps clinic@1" in told
    assert "round 2 of 2" in told
    assert summary["model"] == {"path": str(study / "out" / "model")}
    assert Path(summary["record"]).is_file()
    assert set(summary["kept"]) == {
        "summary",
        "model",
        "history",
        "silos",
        "participation",
        "record",
    }
    assert "no baselines" in summary["notes"][-1]


def test_a_place_that_is_taken_is_told_before_anything_is_trained(ran):
    study, *_ = ran
    command = ("job", "run", study / "job.yaml", "--silos", study / "silos", "--local", "--out")
    for taken, said in ((study / "out", "not empty"), (study / "job.yaml", "it is a file")):
        done = consilo(*command, taken)
        assert done.returncode != 0
        assert said in done.stderr
        assert "keeps clinic@1" not in done.stderr  # nobody was asked


def test_what_is_not_kept_is_said(ran):
    study, *_ = ran
    done = consilo(
        "job", "run", study / "job.yaml", "--silos", study / "silos", "--local", "--json"
    )
    summary = json.loads(done.stdout)
    assert summary["record"] is None
    assert summary["model"] is None
    assert "a model, which is not kept; --out DIR keeps it" in summary["notes"][-1]
    assert "a record, which went with a temporary directory" in summary["notes"][-1]


def test_a_file_is_answered_row_by_row(ran):
    study, *_ = ran
    rows = clinic.frame(9, 5)
    rows.to_csv(study / "new.csv", index=False)
    out = study / "predictions.csv"
    done = consilo("predict", study / "out", "--data", study / "new.csv", "--out", out)
    assert done.returncode == 0, done.stderr
    found = pd.read_csv(out)
    assert list(found.columns) == ["row", "probability"]
    assert found["probability"].between(0, 1).all()
    assert len(found) == 9
    done = consilo("predict", study / "out", "--data", study / "new.csv", "--json")
    told = json.loads(done.stdout)
    assert told["rows"] == 9
    np.testing.assert_allclose(
        [each["probability"] for each in told["predictions"]], found["probability"], rtol=1e-6
    )


def test_rows_outside_of_the_contract_are_refused_or_flagged(ran):
    study, *_ = ran
    rows = clinic.frame(60, 5).drop(columns="ill").astype(object)
    rows.loc[3, "ward"] = "z"
    rows.loc[5, "age"] = "480"
    rows.loc[7:47, "age"] = "old"  # more than a mapping shows the rows of
    rows.to_csv(study / "dirty.csv", index=False)
    done = consilo("predict", study / "out" / "model", "--data", study / "dirty.csv")
    assert done.returncode == 1
    assert "43 of 60 rows are outside of the contract clinic@1" in done.stderr
    assert "ward: is not one of a, b, c (1 of 60 rows)" in done.stderr
    assert "age: is above 120 (1 of 60 rows)" in done.stderr
    assert "age: cannot be read (41 of 60 rows)" in done.stderr
    assert done.stdout == ""
    out = study / "flagged.parquet"
    done = consilo(
        *("predict", study / "out" / "model", "--data", study / "dirty.csv"),
        *("--out", out, "--invalid", "flag"),
    )
    assert done.returncode == 0, done.stderr
    found = pd.read_parquet(out)
    flagged = found["invalid"] != ""
    assert list(found["row"][flagged]) == [3, 5, *range(7, 48)]
    assert found["probability"].isna().equals(flagged)


def test_a_mapping_reads_a_file_as_a_silo_would(ran):
    study, *_ = ran
    rows = clinic.frame(9, 5)
    rows.to_csv(study / "plain.csv", index=False)
    foreign = pd.DataFrame(
        {
            "alter": rows["age"].map(lambda v: "" if pd.isna(v) else f"{v:.3f}".replace(".", ",")),
            "raucher": rows["smoker"].map({True: "ja", False: "nein"}),
            "ward": rows["ward"].map({"a": "1", "b": "2", "c": "3"}),
        }
    )
    foreign.to_csv(study / "foreign.csv", index=False)
    mapping = {
        "contract": "clinic@1",
        "columns": {
            "age": {"from": "alter", "decimal": ","},
            "smoker": {"from": "raucher", "recode": {"ja": True, "nein": False}},
            "ward": {"recode": {"1": "a", "2": "b", "3": "c"}},
        },
    }
    (study / "mapping.yaml").write_text(yaml.safe_dump(mapping))
    told = []
    for more in (["plain.csv"], ["foreign.csv", "--mapping", study / "mapping.yaml"]):
        done = consilo("predict", study / "out", "--json", "--data", study / more[0], *more[1:])
        assert done.returncode == 0, done.stderr
        told.append([each["probability"] for each in json.loads(done.stdout)["predictions"]])
    np.testing.assert_allclose(told[0], told[1], rtol=1e-4)
    spreadsheet = study / "spreadsheet.csv"
    foreign.to_csv(spreadsheet, index=False, sep=";", encoding="utf-16")
    done = consilo(
        *("predict", study / "out", "--json", "--data", spreadsheet),
        *("--mapping", study / "mapping.yaml"),
    )
    assert done.returncode == 0, done.stderr
    again = [each["probability"] for each in json.loads(done.stdout)["predictions"]]
    assert again == told[1]
    done = consilo("predict", study / "out", "--data", study / "foreign.csv")
    assert done.returncode == 1
    assert "has no 'age'" in done.stderr
    assert "--mapping FILE" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere", "--data", "x.csv"], "no model here"),
        (["models:/clinic@candidate", "--data", "x.csv"], "say with --dir whose registry"),
        (["nowhere", "--data", "x.csv", "--invalid", "drop"], "expected refuse or flag"),
        (["nowhere", "--data", "x.csv", "--out", "x.txt"], "ends in .csv or .parquet"),
    ],
)
def test_wrong_usage_is_said_plainly(words, said):
    done = consilo("predict", *words)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


DAMAGES = [
    ("contract.json", None, "contract.json is missing"),
    ("contract.json", b"{", "a file is cut or changed"),
    ("scoring.json", b"{", "a file is cut or changed"),
    ("model.pt2", b"{", "a file is cut or changed"),
    ("model.pt2", None, "a file is cut or changed"),
]


@pytest.mark.parametrize(("name", "content", "said"), DAMAGES)
def test_a_model_that_is_damaged_is_said_to_be(ran, tmp_path, name, content, said):
    """Fault: tracebacks of json, zipfile and torch."""
    study, *_ = ran
    folder = tmp_path / "model"
    shutil.copytree(study / "out" / "model", folder)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    rows = study / "silos" / "north" / "rows.csv"
    with pytest.raises(ConfigInvalid, match=f"the model is damaged: {said}.*write it again"):
        predict(str(folder), rows)
