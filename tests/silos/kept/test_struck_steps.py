"""A silo that is struck at a system call of a private step answers it later, as if never struck.

The process is a real one; strace kills it at its n-th call, or tells it that the disk is full or
broken there.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import struck_steps

CALLS = {"fsync": 20, "rename": 1, "unlink": 5, "write": 5, "pwrite64": 40}
"""System call → how many of them a step makes at least."""

EVERY = {"fsync": 1, "rename": 1, "unlink": 1, "write": 1, "pwrite64": 3}
"""Each of them, but for the writes of SQLite's pages, of which there are 250."""

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(1800),
]


@pytest.mark.parametrize(
    ("call", "stride"),
    [
        ("fsync", 12),
        *(pytest.param(call, stride, marks=pytest.mark.slow) for call, stride in EVERY.items()),
    ],
)
def test_struck_at_any_call_a_step_is_paid_once_and_answered_with_the_same_bytes(
    tmp_path, call, stride
):
    here = Path(struck_steps.__file__).parent
    environment = {**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, struck_steps.__file__, str(tmp_path), call, str(stride)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1700,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, *strikes = [json.loads(line) for line in done.stdout.splitlines()]
    status, _, _, body = whole["again"][0]
    assert status == "ok", whole
    for each in strikes:
        first, second = each["again"]
        assert first == second, each
        assert (first[0], first[3]) == ("ok", body), each
        assert each["entries"] == ["reserved", "settled"], each
        if each["first"] and each["first"][0][0] == "ok":  # it had left; the same bytes again
            assert each["first"][0] == first, each
    kills = [each for each in strikes if each["how"] == "signal=KILL"]
    assert [each["killed"] for each in kills] == [True] * (len(kills) - 1) + [False]
    assert len(kills) * stride > CALLS[call]
    assert {each["how"] for each in strikes} == {"signal=KILL", "error=ENOSPC", "error=EIO"}
