"""People's questions over a federation of real processes equal those over the union of rows."""

from __future__ import annotations

import json
import subprocess
import sys

import asked_rows as rows
import pandas as pd
import pytest
import yaml

from silos.gate.policy import TEMPLATE
from silos.proposals import onboard

pytestmark = pytest.mark.slow


def test_a_federation_answers(tmp_path):
    tables = {"north": rows.frame(500, 1), "south": rows.frame(700, 2)}
    for name, table in tables.items():
        place = tmp_path / "silos" / name
        place.mkdir(parents=True)
        table.to_csv(place / "rows.csv", index=False)
        source = {"type": "csv", "path": "rows.csv"}
        (place / "silo.yaml").write_text(yaml.safe_dump({"name": name, "data": {"rows": source}}))
        (place / "policy.yaml").write_text(TEMPLATE)
        onboard.confirm(place, rows.contract(), rows.contract().digest)
    (tmp_path / "remission.yaml").write_text(rows.CONTRACT)
    argv = [sys.executable, "-c", "from consilo.cli import main; main()"]
    argv += ["analytics", "remission.yaml", "--silos", "silos", "--dir", "coordinator", "--json"]
    argv += ["--out", "report"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads(done.stdout)
    assert summary["status"] == "complete"
    assert summary["mlflow"]
    union = pd.concat(tables.values())
    answers = {(e["ask"], e["column"], e["by"]): e for e in summary["answers"]["answers"]}
    (mean,) = answers["means", "bmi", ""]["rows"]
    assert mean["mean"] == pytest.approx(union["bmi"].mean(), rel=1e-12)
    counts = {e["arm"]: e["count"] for e in answers["counts", "arm", ""]["rows"]}
    assert {key: counts[key] for key in ("drug", "placebo")} == dict(union["arm"].value_counts())
    assert (tmp_path / "report" / "analytics.html").is_file()
    kept = [each.name for each in (tmp_path / "coordinator").rglob("analytics.html")]
    assert kept == ["analytics.html"]  # an artifact of the MLflow run
