"""The systemd unit and the container of a silo's node: parsed, judged, run where they can be."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from consilo.machine.environment import child_environment
from silos.kept.sketches import STATE

INFRA = Path(__file__).parents[2] / "infra"
UNIT = INFRA / "systemd" / "consilo-silo@.service"
ENTRYPOINT = INFRA / "container" / "entrypoint.sh"
NOBODY = 65534


class Twice(dict):
    """Keeps every value of a key that a unit writes several times."""

    def __setitem__(self, key, value):
        if key in self and isinstance(value, list):
            self[key].extend(value)
        else:
            super().__setitem__(key, value)


def test_the_unit_gives_the_node_no_more_than_it_needs():
    parser = configparser.RawConfigParser(strict=False, dict_type=Twice, delimiters=("=",))
    parser.optionxform = str
    parser.read_string(UNIT.read_text())
    service = parser["Service"]
    assert service["User"] not in ("root", "0")
    assert service["StateDirectoryMode"] == "0700"
    name, folder = service["Environment"].split("=")
    assert name == STATE
    assert folder.removeprefix("/var/lib/") in service["StateDirectory"].split()
    assert service["UMask"] == "0077"
    assert service["LimitCORE"] == "0"
    assert service["CapabilityBoundingSet"] == ""
    assert service["ProtectSystem"] == "strict"
    assert service["ExecStart"].endswith("/python -I -u -m silos.node --dir /var/lib/consilo/%i")
    from silos.node.node import STRUCK_OFF_EXIT

    assert service["RestartPreventExitStatus"] == str(STRUCK_OFF_EXIT)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze here")
def test_systemd_understands_the_unit_and_calls_it_safe(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/consilo/bin/python", "/bin/true"))
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / "consilo-silo@va.service")],
        capture_output=True,
        text=True,
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    assert judged.returncode == 0, judged.stdout[-300:]  # 2.0 of 10 at most


def test_the_container_runs_as_an_ordinary_user_and_copies_what_is_there():
    text = (INFRA / "container" / "Containerfile").read_text()
    joined = text.replace("\\\n", " ")
    steps = [line.split(None, 1) for line in joined.splitlines() if re.match(r"[A-Z]+ ", line)]
    users = [value for name, value in steps if name == "USER"]
    assert users == ["10001"]
    assert [name for name, _ in steps][-2:] == ["ENTRYPOINT", "CMD"]
    for name, value in steps:
        if name == "COPY":
            for source in [each for each in value.split() if not each.startswith("--")][:-1]:
                assert (INFRA.parent / source).exists(), source


def entrypoint(*arguments: str, home: Path, ordinary: bool = True, **extra: str):
    become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    prefix = become if ordinary and os.geteuid() == 0 else []
    return subprocess.run(
        [*prefix, "/bin/sh", str(ENTRYPOINT), *arguments],
        env=child_environment(SILO_DIR=str(home), **extra),
        capture_output=True,
        text=True,
        cwd="/",
    )


@pytest.fixture
def home():
    """A silo's directory that an ordinary user owns and reaches, and a stand-in for consilo."""
    place = Path(tempfile.mkdtemp(prefix="consilo-entrypoint-"))
    place.chmod(0o755)
    (place / "bin").mkdir()
    # It says how it was called: what is tested here is the script, not the command line.
    stand_in = place / "bin" / "consilo"
    stand_in.write_text('#!/bin/sh\necho "$PWD: consilo $* (umask $(umask), core $(ulimit -c))"\n')
    stand_in.chmod(0o755)
    (place / "silo").mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(place / "silo", NOBODY, NOBODY)
    yield place
    shutil.rmtree(place)


@pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root without setpriv"
)
def test_the_entry_point_starts_the_node_in_its_directory(home):
    silo, path = home / "silo", f"{home / 'bin'}:/usr/bin:/bin"
    alone = entrypoint(home=silo, PATH=path)
    assert alone.returncode == 2
    assert "set SILO_INVITATION" in alone.stderr
    invited = entrypoint(home=silo, PATH=path, SILO_INVITATION="/in/va.json")
    assert invited.stdout.splitlines() == [
        f"{silo}: consilo silo {command} (umask 0077, core 0)"
        for command in ("init /in/va.json", "join")
    ]
    (silo / "coordinator.yaml").write_text("")
    again = entrypoint("join", home=silo, PATH=path, SILO_INVITATION="/in/va.json")
    assert again.stdout.splitlines() == [f"{silo}: consilo silo join (umask 0077, core 0)"]
    other = entrypoint("check", "heart@1", "--json", home=silo, PATH=path)
    assert "consilo silo check heart@1 --json" in other.stdout
    assert entrypoint(home=home / "gone", PATH=path).returncode == 2
    closed = entrypoint(home=Path("/proc"), PATH=path)
    assert "cannot be written to" in closed.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can try to be root")
def test_the_entry_point_refuses_root(home):
    found = entrypoint(home=home / "silo", ordinary=False)
    assert found.returncode == 2
    assert "this is root" in found.stderr
