"""The wall under the unit's ``SystemCallFilter=``, laid upon processes by libseccomp.

What is let through is worked out from the unit that ships and from the groups of the systemd that
is here; no systemd starts anything.
"""

from __future__ import annotations

import ctypes.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import unit_filter

from consilo.machine.environment import child_environment

ROOT = Path(__file__).parents[2]
UNIT = (ROOT / "infra" / "systemd" / "consilo-silo@.service").read_text()
WALL = ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp")
OF_THE_NODE = (
    *("prctl", "prlimit64", "clone", "wait4", "kill", "pidfd_open", "pidfd_send_signal"),
    *("socketpair", "sendmsg", "recvmsg", "memfd_create", "fcntl", "close_range", "dup2"),
    *("fsync", "fdatasync", "flock", "execve", "setsid", "mmap", "mprotect", "sched_setaffinity"),
)
pytestmark = pytest.mark.skipif(
    not shutil.which("systemd-analyze") or not ctypes.util.find_library("seccomp"),
    reason="no systemd-analyze with libseccomp here",
)
STEP = ROOT / "tests" / "support" / "walled_step.py"


def test_the_unit_lets_through_what_node_and_wall_call() -> None:
    allowed = unit_filter.let_through(UNIT)
    assert {*WALL, *OF_THE_NODE} <= allowed
    assert not allowed & {"ptrace", "bpf", "mount", "init_module", "kexec_load", "reboot"}


def step(folder: Path, allowed: set[str]) -> list[str]:
    """What a silo says of the wall, and of a training step whose model is a bundle's."""
    found = subprocess.run(
        [sys.executable, str(STEP), str(folder), *sorted(allowed)],
        env=child_environment(PYTHONPATH=str(ROOT)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


def test_a_workers_step_runs_locked_in_under_the_units_filter(tmp_path: Path) -> None:
    assert step(tmp_path, unit_filter.let_through(UNIT)) == ["wall stands", "step ok"]


@pytest.mark.parametrize("without", ["landlock_restrict_self", "seccomp"])
def test_a_filter_without_one_of_the_walls_calls_lets_no_code_run(
    without: str, tmp_path: Path
) -> None:
    """What the test above is worth: the filter is laid on, and the wall says what is missing."""
    wall, answer = step(tmp_path, unit_filter.let_through(UNIT) - {without})
    assert without.partition("_")[0] in wall.lower()
    assert "Operation not permitted" in wall
    assert answer.startswith("step fault")
    assert "locked in" in answer
