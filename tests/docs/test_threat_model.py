"""Every test that the threat model names is there."""

from __future__ import annotations

import re
from pathlib import Path

from consilo.protocols.names import NAMES, find_protocol

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


def test_every_verb_of_every_protocol_is_in_the_table_of_what_leaves() -> None:
    table = PAGE[PAGE.index("## What leaves a silo") : PAGE.index("Besides, every reply says")]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named = {name for line in rows for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    verbs = {verb for name in NAMES for verb in find_protocol(name).verbs()}
    assert named == verbs
