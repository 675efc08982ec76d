"""A silo killed in the middle of a private step answers it later, as if nothing had been."""

import json
import os
import subprocess
import sys
from pathlib import Path

import killed_steps
import pytest


@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_statement_a_step_is_paid_once_and_answered_with_the_same_bytes(
    tmp_path, stride
):
    here = Path(killed_steps.__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, killed_steps.__file__, str(tmp_path), str(stride)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, *kills = [json.loads(line) for line in done.stdout.splitlines()]
    assert whole["replies"][0][0] == "ok", whole
    assert whole["entries"] == ["reserved", "settled"]
    for each in kills:
        assert each["replies"] == [whole["replies"][0]] * 2, each
        assert each["entries"] == ["reserved", "settled"], each
    assert [each["killed"] for each in kills] == [True] * (len(kills) - 1) + [False]
    met = {tuple(each["before"]) for each in kills}
    assert met == {(), ("reserved",), ("reserved", "settled")}
    assert len(kills) * stride > 40
