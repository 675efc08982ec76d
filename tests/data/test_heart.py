"""The four hospitals of the UCI heart disease data, by the files that the docs show; real rows."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from agreed import agree

from consilo.contracts.contract import SHIPPED, Contract
from silos import simulate
from silos.simulation.in_memory import write_made_up_root

ROOT = SHIPPED.parent
DATA = Path(os.environ.get("CONSILO_DATA", ROOT.parent / "shared" / "data")) / "heart_disease"
HOSPITALS = ("cleveland", "hungarian", "switzerland", "va")

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(
        not (DATA / "processed.va.data").exists(),
        reason="the UCI heart disease files are not here; set CONSILO_DATA to their folder",
    ),
]


def test_the_documented_files_train_a_model_over_the_four_raw_files(tmp_path: Path) -> None:
    fence = re.compile(r'```yaml title="([^"]+)"\n(.*?)```', re.DOTALL)
    files = dict(fence.findall((ROOT / "docs" / "contracts.md").read_text()))
    for name in HOSPITALS:
        place = tmp_path / name
        place.mkdir()
        for file, text in files.items():
            (place / file).write_text(text.replace("switzerland", name))
        shutil.copy(DATA / f"processed.{name}.data", place)
        agree(place, Contract.load("heart@1"))
        write_made_up_root(place, name)  # the same rows are held out whenever the test runs
    job = SHIPPED / "jobs" / "heart.yaml"
    result = simulate(job, {name: tmp_path / name for name in HOSPITALS})
    assert result.status == "complete", result.reason
    rows = {name: outcome.num_examples for name, outcome in result.silos.items()}
    assert rows == {"cleveland": 229, "hungarian": 221, "switzerland": 91, "va": 140}
    # Published work on these rows reaches an AUC of .8 to .9; a coin, or the majority, .5.
    assert result.metrics["roc_auc"] > 0.8
    assert result.metrics["accuracy"] > 0.72
