"""Five real tumour studies against the GDC standard: the columns that mean the same are found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from consilo.contracts.contract import SHIPPED

ROOT = SHIPPED.parent
DATA = Path(os.environ.get("CONSILO_DATA", ROOT.parent / "shared" / "data"))

pytestmark = [
    pytest.mark.flow,
    pytest.mark.skipif(
        not (DATA / "gdc" / "gdc_target.csv.gz").exists(),
        reason="the GDC studies are not here; set CONSILO_DATA to the folder that has gdc/",
    ),
]


def test_true_columns_are_found_by_names_codes_and_kinds() -> None:
    program = ROOT / "benchmarks" / "feature_match.py"
    done = subprocess.run(
        [sys.executable, str(program), "--data", str(DATA), "--quick", "--json"],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)["figures"]
    assert figures["spelling_top1"] < 0.40
    assert figures["top1"] >= 0.60
    assert figures["recall_at_10"] >= 0.85
    assert figures["held_out_top1"] >= 0.60, "weights found on four studies, tried on the fifth"
    assert figures["held_out_recall_at_10"] >= 0.85
