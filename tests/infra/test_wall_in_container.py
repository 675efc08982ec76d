"""The wall under what `infra/` ships for a silo: its restrictions, made by hand with namespaces.

What the Containerfile's own command and the unit ask for is made of the kernel's parts: a read-only
root with a fresh scratch, an ordinary user, no capability, no new privileges. Where Podman is
installed, it does so itself, with the options of that command and its own seccomp profile, over
this machine's programs in place of an image.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import isolated
import pytest

ROOT = Path(__file__).parents[2]
USER = 10001
CONTAINER = (ROOT / "infra" / "container" / "Containerfile").read_text()


SUPPORT = Path("/consilo/tests/support")
STEP = SUPPORT / "walled_step.py"
PROFILE = Path("/usr/share/containers/seccomp.json")
needs_podman = pytest.mark.skipif(
    os.geteuid() != 0
    or not shutil.which("podman")
    or not PROFILE.exists()
    or not Path("/usr/bin/python3.11").exists(),
    reason="no Podman with its profile here that root can start, or no /usr/bin/python3.11 for it",
)


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


def shipped_options() -> list[str]:
    """Return the options of the Containerfile's own ``podman run``, up to what is the user's."""
    shown = CONTAINER.replace("\\\n#", " ")
    found = re.search(r"^# +podman run (.+?) --userns ", shown, re.MULTILINE)
    assert found is not None
    return found.group(1).split()


def slim_root(place: Path) -> Path:
    """Return the root of a container that has this machine's programs, and nothing else of it."""
    root = place / "root"
    for name in ("usr", "etc", "tmp", "run", "proc", "sys", "dev", "silo", "consilo", "packages"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
    shutil.copy("/etc/ld.so.cache", root / "etc")
    return root


@pytest.fixture
def engine(place: Path) -> Iterator[list[str]]:
    """Podman with all that it keeps below `place`, run as its own command says, without a network.

    It raises limits of resources otherwise, which not every machine allows.
    """
    kept = ["podman", "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs"]
    kept += ["--root", f"{place}/store", "--runroot", f"{place}/state"]
    run = ["run", *shipped_options(), "--user", f"{USER}:{USER}", "--network", "none"]
    run += ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    yield [*kept, *run]
    subprocess.run([*kept, "rm", "--all", "--force"], capture_output=True, timeout=60)


def container(place: Path, engine: list[str], *, profile: Path | None = None) -> list[str]:
    """Return how a Python that has Consilo and its packages is started in a container."""
    folder = place / "python"
    packages = ("/packages", "/consilo")
    isolated.interpreter(folder, SUPPORT, base="/usr/bin/python3.11", packages=packages)
    volumes = {
        "/usr": "/usr:ro",
        sysconfig.get_path("purelib"): "/packages:ro",
        str(ROOT): "/consilo:ro",
        str(folder): "/python:ro",
        str(place / "silo"): "/silo",
    }
    given = [each for here, there in volumes.items() for each in ("-v", f"{here}:{there}")]
    if profile is not None:
        given += ["--security-opt", f"seccomp={profile}"]
    root = slim_root(place)
    return [*engine, *given, "--env", "HOME=/silo", "--rootfs", str(root), "/python/bin/python"]


def said(command: list[str]) -> list[str]:
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    return found.stdout.splitlines()


@needs_podman
def test_the_wall_stands_and_a_worker_answers_in_a_container_of_podman(
    place: Path, engine: list[str]
) -> None:
    python = container(place, engine)
    lines = said([*python, "-I", "-c", "print(open('/proc/self/status').read())"])
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Seccomp"] == "2"  # the engine's own profile is on
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapBnd"], 16) == 0
    assert said([*python, "-I", str(STEP), "/silo"]) == ["wall stands", "step ok"]


@needs_podman
@pytest.mark.parametrize("without", ["landlock_restrict_self", "seccomp"])
def test_under_an_engines_profile_that_forbids_the_wall_no_code_of_a_bundle_runs(
    without: str, place: Path, engine: list[str]
) -> None:
    profile = json.loads(PROFILE.read_text())
    for each in profile["syscalls"]:
        each["names"] = [name for name in each["names"] if name != without]
    (place / "profile.json").write_text(json.dumps(profile))
    python = container(place, engine, profile=place / "profile.json")
    wall, step = said([*python, "-I", str(STEP), "/silo"])
    assert wall.lower().startswith(f"wall {without.partition('_')[0]}: ")
    assert step.startswith("step fault")
    assert "locked in" in step
