"""``docs/notebook.py`` runs cell by cell as it stands, and says what its words say."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "notebook.py"


def cells() -> list[str]:
    return [
        each.partition("\n")[2]
        for each in re.split(r"^# %%", PAGE.read_text(), flags=re.MULTILINE)[1:]
        if not each.startswith(" [markdown]")
    ]


@pytest.mark.flow
def test_the_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    known: dict[str, Any] = {"__name__": "__main__"}
    assert len(cells()) == 6
    for number, cell in enumerate(cells()):
        exec(compile(cell, f"cell {number}", "exec"), known)
    result = known["result"]
    assert result.status in ("complete", "degraded"), result.reason
    assert result.metrics["roc_auc"] > 0.85
    assert len(result.history) == 9
    said = capsys.readouterr().out
    assert "round 8 of 8" in said
    assert "mean_radius: is above 50" in said
    assert {"model", "record", "history"} <= set(known["written"])
    shutil.rmtree(known["study"])
