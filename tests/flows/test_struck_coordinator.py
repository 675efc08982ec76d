"""A coordinator's process that is struck at any system call loses nothing, and is done anew.

The process is a real one; strace kills it at its n-th call, or tells it that the disk is full or
broken there. What it does: a run, whose silos go on living; ``silos admit`` and ``suspend``, ``job
give-up``, ``backup`` and ``restore``.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import struck_coordinator
from struck_coordinator import DEEDS

CALLS = ("fsync", "rename", "write", "pwrite64")

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(3600),
]


@pytest.mark.parametrize(
    ("deed", "call", "first", "stride"),
    [
        ("admit", "fsync", 2, 6),
        *(
            pytest.param(deed, call, 1, 1, marks=pytest.mark.slow)
            for deed in DEEDS
            for call in CALLS
        ),
    ],
)
def test_struck_at_any_call_it_is_as_before_or_whole_and_done_anew(
    tmp_path, deed, call, first, stride
):
    here = Path(struck_coordinator.__file__).parent
    done = subprocess.run(
        [
            *(sys.executable, struck_coordinator.__file__, tmp_path),
            *(deed, call, str(first), str(stride)),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    whole, *strikes = [json.loads(line) for line in done.stdout.splitlines()]
    for each in strikes:
        assert each["again"], (each, done.stderr[-3000:])
        assert each["after"] == whole, each
        if each["went_well"]:  # it had said so
            assert each["there"] == whole, each
    kills = [each for each in strikes if each["how"] == "signal=KILL"]
    assert [each["killed"] for each in kills] == [True] * (len(kills) - 1) + [False]
