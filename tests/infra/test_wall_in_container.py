"""The wall under what `infra/` ships for a silo: its restrictions, made by hand with namespaces.

No container engine and no systemd run the tests. What the Containerfile's own command and the unit
ask for is made of the kernel's parts: a read-only root with a fresh scratch, an ordinary user, no
capability, no new privileges. The engine's default seccomp profile is not part of it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import isolated
import pytest

ROOT = Path(__file__).parents[2]
USER = 10001
CONTAINER = (ROOT / "infra" / "container" / "Containerfile").read_text()


def may_unshare() -> bool:
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"):
        return False
    tried = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "/bin/true"]
    return subprocess.run(tried, capture_output=True).returncode == 0


INSIDE = """
import os
from pathlib import Path
from consilo.machine import sandbox

status = dict(
    line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line
)
print("user", os.geteuid())
print("new privileges", status["NoNewPrivs"].strip())
print("capabilities", int(status["CapEff"], 16) | int(status["CapBnd"], 16))
try:
    Path("/var/tmp/written").write_text("x")  # where anybody else may
    print("root written")
except OSError as cause:
    print("root", type(cause).__name__, cause.errno)
(Path(os.environ["TMPDIR"]) / "scratch").write_text("x")
(Path(os.environ["SILO_DIR"]) / "state").write_text("x")
print("wall", sandbox.fault(hidden=Path(os.environ["SILO_DIR"])) or "stands")
"""


@pytest.fixture
def place() -> Iterator[Path]:
    found = Path(tempfile.mkdtemp(prefix="consilo-wall-", dir="/var/tmp"))
    found.chmod(0o755)
    (found / "silo").mkdir(mode=0o700)
    (found / "tmp").mkdir()
    os.chown(found / "silo", USER, USER)
    yield found
    shutil.rmtree(found)


def ordinary() -> list[str]:
    return [
        *("setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups", "--no-new-privs"),
        *("--bounding-set=-all", "--inh-caps=-all"),
    ]


def interpreter(place: Path) -> str:
    for base in (sys.executable, "/usr/bin/python3.11", "/usr/local/bin/python3.11"):
        python = isolated.interpreter(place / "python", base=base, packages=(str(ROOT),))
        probe = [*ordinary(), python, "-I", "-c", "import consilo"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return python
    pytest.skip("no Python 3.11 here can be started by another user")


def test_what_is_tried_here_is_what_the_container_is_started_with() -> None:
    for asked in ("--read-only", "--tmpfs /tmp", "--cap-drop all", "no-new-privileges"):
        assert asked in CONTAINER
    assert re.search(rf"^USER {USER}$", CONTAINER, re.MULTILINE)
    unit = (ROOT / "infra" / "systemd" / "consilo-silo@.service").read_text()
    for asked in ("NoNewPrivileges=yes", "CapabilityBoundingSet=\n", "ProtectSystem=strict"):
        assert asked in unit


@pytest.mark.skipif(not may_unshare(), reason="only root makes a read-only root for another user")
def test_the_wall_stands_under_the_containers_restrictions(place: Path) -> None:
    python = interpreter(place)
    mounts = " && ".join(
        [
            "mount --make-rprivate /",
            f"mount --bind {place}/silo {place}/silo",
            f"mount -t tmpfs tmpfs {place}/tmp -o mode=1777",
            "mount -o remount,bind,ro /",
        ]
    )
    command = f'{mounts} && cd {place}/silo && exec {" ".join(ordinary())} {python} -I -c "$CODE"'
    found = subprocess.run(
        ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "/bin/sh", "-euc", command],
        env={
            "PATH": os.environ["PATH"],
            "CODE": INSIDE,
            "SILO_DIR": str(place / "silo"),
            "TMPDIR": str(place / "tmp"),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout.splitlines() == [
        f"user {USER}",
        "new privileges 1",
        "capabilities 0",
        "root OSError 30",  # a file system that is read only
        "wall stands",
    ]
