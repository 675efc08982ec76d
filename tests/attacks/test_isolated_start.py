"""Nothing but what is installed puts code into a silo's node: no directory, variable or home."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import warm_silo

from consilo.machine.environment import child_environment
from consilo.machine.processes import Supervisor
from consilo.membership import keys
from flows.services.federation import start_node

CONSILO = Path(sys.executable).parent / "consilo"


def hostile(folder: Path, mark: Path, *names: str) -> Path:
    """Make a folder of modules that leave a mark where they are imported; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    said = f"import sys; open({str(mark)!r}, 'a').write(__file__ + ' in ' + ' '.join(sys.argv))"
    for name in names:
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{said}\nraise SystemExit(7)\n")
    return folder


@pytest.fixture
def silo(tmp_path: Path) -> Path:
    folder = warm_silo.make(tmp_path / "north")
    keys.load_or_create_authority(folder)  # of a coordinator that nobody has started
    return folder


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """Every way that an environment has of putting code into an interpreter."""
    mark = tmp_path / "mark"
    brought = hostile(
        tmp_path / "brought", mark, "torch.py", "numpy/__init__.py", "sitecustomize.py", "start.py"
    )
    base = tmp_path / "base"
    packages = hostile(
        base / "lib" / "python3.11" / "site-packages", mark, "usercustomize.py", "torch.py"
    )
    (packages / "more.pth").write_text("import usercustomize\n")
    return {
        "PYTHONPATH": str(brought),
        "PYTHONSTARTUP": str(brought / "start.py"),
        "PYTHONUSERBASE": str(base),
        "PYTHONWARNINGS": "error::torch.Hostile",
        "PYTHONINSPECT": "1",
    }


def processes(root: int) -> list[psutil.Process]:
    """Return the node and its warm process, once the latter has imported all."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(psutil.NoSuchProcess):  # of one that has ended, a zombie too
            below = (psutil.Process(root), *psutil.Process(root).children(recursive=True))
            found = [each for each in below if each.cmdline()[3:5] == ["-m", "silos.node"]]
            warm = [each for each in below if "silos.node.warm" in each.cmdline()]
            if warm and any("torch" in each.path for each in warm[0].memory_maps()):
                return [*found, *warm]
        time.sleep(0.1)
    raise AssertionError("the node did not come up")


def require_isolated(found: list[psutil.Process], mark: Path) -> None:
    assert len(found) >= 2
    for each in found:
        assert each.cmdline()[1] == "-I", each.cmdline()
    assert not mark.exists(), mark.read_text()


def test_a_node_takes_no_code_from_its_directory_or_environment(
    silo: Path, variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    here = ("torch.py", "consilo/__init__.py", "silos/__init__.py", "json.py")
    hostile(silo, mark, *here)
    hostile(tmp_path / "brought", mark, *here)  # a whole consilo by PYTHONPATH too
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with Supervisor() as supervisor:
        service = start_node(supervisor, "north", silo)
        require_isolated(processes(service.pid), mark)
    assert not mark.exists(), mark.read_text()


@pytest.mark.parametrize("start", ["command", "module"])
def test_a_node_that_is_started_by_hand_starts_itself_again_isolated(
    silo: Path, variables: dict[str, str], tmp_path: Path, start: str
) -> None:
    mark = tmp_path / "mark"
    folder = hostile(tmp_path / "here", mark, "torch.py", "flwr.py")
    commands = {
        "command": [str(CONSILO), "silo", "join", "--dir", str(silo)],
        "module": [sys.executable, "-m", "silos.node", "--dir", str(silo)],
    }
    # What a person's own interpreter runs before any of ours cannot be undone by ours.
    for each in ("sitecustomize.py", "numpy/__init__.py"):
        (tmp_path / "brought" / each).unlink()
    del variables["PYTHONWARNINGS"]
    process = subprocess.Popen(
        commands[start],
        cwd=folder,
        env=child_environment(**variables),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        require_isolated(processes(process.pid), mark)
        assert psutil.Process(process.pid).cmdline()[1] == "-I"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
