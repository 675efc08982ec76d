"""A coordinator and its silos whose machine loses power at any moment lose nothing they said.

The file systems are real ones, in a file that is mounted; the power is cut by their own call.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import power_cuts
import pytest

pytestmark = pytest.mark.timeout(7200)


def _mounts(tmp_path) -> bool:
    """Return whether an image can be mounted here, which wants root and a loop device."""
    if os.geteuid() != 0:
        return False
    image, place = tmp_path / "tried", tmp_path / "try"
    image.write_bytes(b"")
    os.truncate(image, 16 << 20)
    place.mkdir()
    for command in (["mkfs.ext4", "-q", "-F", image], ["mount", "-o", "loop", image, place]):
        if subprocess.run(command, check=False, capture_output=True).returncode:
            return False
    return subprocess.run(["umount", place], check=True).returncode == 0


@pytest.mark.parametrize(
    ("system", "cuts"),
    [
        ("ext4", 1),
        pytest.param("ext4", 250, marks=pytest.mark.slow),
        pytest.param("xfs", 250, marks=pytest.mark.slow),
    ],
)
def test_a_power_cut_loses_nothing_that_was_acknowledged(tmp_path, system, cuts):
    if not all(map(shutil.which, (f"mkfs.{system}", "unshare"))) or not _mounts(tmp_path):
        pytest.skip(f"no image of {system} can be made and mounted here")
    here = Path(power_cuts.__file__).parent
    # Mounts of its own: a process elsewhere that begins with a copy of this machine's mounts would
    # hold the image, and what is mounted again were the file system that was stopped.
    done = subprocess.run(
        [
            *("unshare", "--mount"),
            *(sys.executable, power_cuts.__file__, tmp_path, system, str(cuts), "7"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(here), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    twin, *struck = [json.loads(line) for line in done.stdout.splitlines()]
    assert twin["ended"]["status"] == "complete"
    assert len(struck) == cuts
    for each in struck:
        _check(each, twin)


def _check(each, twin):
    told = {tuple(said[:2]): said for said in each["told"] if len(said) == 4}
    for silo, step, _, head in told.values():
        # The answer had been given: its line, and what it cost, are there.
        assert head in each["there"]["heads"][silo], each
        kinds = [kind for step_id, kind in each["there"]["entries"][silo] if step_id == step]
        costs = step in {step_id for step_id, _ in each["after"]["entries"][silo]}
        assert kinds == (["reserved", "settled"] if costs else []), each
    for said in each["again"]:
        if tuple(said[:2]) in told:  # asked again: the same bytes
            assert said == told[tuple(said[:2])], each
    rounds = [int(said[1]) for said in each["told"] if said[0] == "round"]
    assert each["there"]["rounds"] >= max(rounds, default=0), each
    if ["closed"] in each["told"]:
        assert each["there"]["ended"] is not None, each
    assert each["after"]["ended"] == twin["ended"], each
    for silo, entries in each["after"]["entries"].items():
        kinds = [kind for _, kind in entries]
        assert kinds == [kind for _, kind in twin["entries"][silo]], each
