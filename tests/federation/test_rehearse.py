"""``consilo job rehearse``: the command of docs/operations.md, and what it says."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import psutil
import pytest

from tests.federation.conftest import run

pytestmark = [pytest.mark.federation, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[2]
KEYS = {"fault", "kind", "status", "seconds", "equal", "orphans"}


def command() -> list[str]:
    """Return what docs/operations.md tells people to type."""
    page = (ROOT / "docs" / "operations.md").read_text()
    line = re.search(r"^consilo (job rehearse .*)$", page, re.MULTILINE)
    assert line is not None
    _, _, job, *options = shlex.split(line[1])
    return ["job", "rehearse", str(ROOT / job), *options]


@pytest.mark.slow
def test_a_dead_silo_and_a_killed_flow_are_survived_and_told(tmp_path: Path) -> None:
    before = {each.pid for each in psutil.process_iter()}
    done = run([*command(), "--json", "--report", "page.html"], tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    silo, flow = json.loads(done.stdout)
    assert set(silo) >= KEYS
    assert {each["kind"] for each in (silo, flow)} == {"horizontal"}
    assert (silo["fault"], silo["status"], silo["promise"]) == (
        "silo-dead-during",
        "degraded",
        "survives",
    )
    assert silo["rounds_lost"] == 2
    assert (flow["fault"], flow["status"], flow["rounds_lost"]) == ("flow-killed", "complete", 0)
    for each in (silo, flow):
        assert each["equal"] is True
        assert each["kept"] is True
        assert each["orphans"] == 0
        assert each["seconds"] > 0
    page = (tmp_path / "page.html").read_text()
    assert "2 of 2 faults ended as the job promises" in page
    place = re.search(r"silos in (\S+),", done.stderr)
    assert place is not None
    assert not Path(place[1]).exists()
    left = [each for each in psutil.process_iter(["cmdline"]) if each.pid not in before]
    assert not [each for each in left if place[1] in " ".join(each.info["cmdline"] or ())]
