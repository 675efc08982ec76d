"""Every test that the threat model names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "threat-model.md").read_text()


def test_every_attack_has_a_test_that_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", PAGE)
    assert len(named) > 20
    for file, name in named:
        text = (ROOT / file).read_text()
        assert not name or f"def {name}(" in text, f"{file} has no test {name}"


def test_every_row_of_an_attack_names_one() -> None:
    attacks = PAGE[PAGE.index("## Attacks") : PAGE.index("## What leaves a silo")]
    rows = [line for line in attacks.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [line for line in rows if not line.startswith("| attack ")]
    assert len(rows) > 20
    assert all("`tests/" in line for line in rows)
