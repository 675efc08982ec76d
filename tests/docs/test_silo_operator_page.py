"""``docs/silo-operator.md`` typed in as it stands: a hospital joins, as an ordinary user."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import isolated
import psutil
import pytest
import yaml

from consilo.config import parse
from consilo.machine.environment import child_environment
from consilo.machine.processes import Supervisor
from silos.silo_config import SiloConfig

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "silo-operator.md").read_text()
DATA = Path(os.environ.get("CONSILO_DATA", ROOT.parent / "shared" / "data")) / "heart_disease"
NOBODY = 65534
BLOCKS = re.findall(r'```sh title="([^"]+)"\n(.*?)```', PAGE, re.DOTALL)


@dataclass
class Person:
    """Somebody at a terminal: their directory, and how their commands are started."""

    place: Path
    prefix: tuple[str, ...]
    environment: Mapping[str, str]
    said: str = field(default="")

    def types(self, command: str) -> str:
        found = subprocess.run(
            [*self.prefix, "/bin/bash", "-euc", command],
            cwd=self.place,
            env=dict(self.environment),
            capture_output=True,
            text=True,
            timeout=240,
            stdin=subprocess.DEVNULL,
        )
        self.said = found.stdout + found.stderr
        assert found.returncode == 0, f"{command}\n{self.said}"
        return found.stdout


def interpreter(folder: Path) -> str:
    """An interpreter that an ordinary user can start, and that finds our packages."""
    if os.geteuid() != 0:
        return sys.executable
    for base in (sys.executable, "/usr/bin/python3.11", "/usr/local/bin/python3.11"):
        python = isolated.interpreter(folder, base=base)
        probe = [*ordinary(), "/bin/sh", "-c", f"'{python}' -I -c 'import torch, consilo'"]
        if subprocess.run(probe, capture_output=True).returncode == 0:
            return python
    pytest.skip("this is root, and no Python 3.11 here can be started by another user")


def ordinary() -> tuple[str, ...]:
    if os.geteuid() != 0:
        return ()
    if shutil.which("setpriv") is None:
        pytest.skip("this is root, and there is no setpriv to become an ordinary user with")
    return ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs")


@pytest.fixture
def home() -> Iterator[Path]:
    # pytest's own folders are closed to other users.
    place = Path(tempfile.mkdtemp(prefix="consilo-page-"))
    place.chmod(0o755)
    yield place
    shutil.rmtree(place)


def wait_for(text: str, log: Path, within_s: float = 120) -> None:
    deadline = time.monotonic() + within_s
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.federation
def test_a_hospital_joins_as_the_page_says(home: Path) -> None:
    if not (DATA / "processed.va.data").exists():
        pytest.skip("the UCI heart disease files are not here; set CONSILO_DATA to their folder")
    python = interpreter(home / "python")
    (home / "bin").mkdir()
    shim = home / "bin" / "consilo"
    shim.write_text(
        f"#!/bin/sh\nexec '{python}' -c 'from consilo.cli import main; main()' \"$@\"\n"
    )
    shim.chmod(0o755)
    path = os.pathsep.join([str(home / "bin"), "/usr/bin", "/bin"])
    theirs = {**child_environment(), "PATH": path, "HOME": str(home / "user")}
    (home / "user").mkdir()
    operator = Person(home, (), child_environment())
    silo = Person(home / "user", ordinary(), theirs)
    if os.geteuid() == 0:
        os.chown(home / "user", NOBODY, NOBODY)
    typed = [(title.split(": ")[0], title, text.strip()) for title, text in BLOCKS]
    assert len(typed) == 13
    with Supervisor() as supervisor:
        for who, title, text in typed:
            person = operator if who == "coordinator" else silo
            if "until Ctrl-C" in title:
                log = home / f"{who}.log"
                supervisor.start(
                    who,
                    [*person.prefix, "/bin/bash", "-euc", f"cd '{person.place}'; exec {text}"],
                    log=log,
                    env=dict(person.environment),
                )
                if who == "coordinator":
                    wait_for("SuperLink on", log)
                continue
            command = text
            if "DIGITS" in text:
                key = re.search(r"SHA-256 ([0-9a-f]{64})", silo.said)
                assert key is not None, silo.said
                command = text.replace("DIGITS", key[1][:16])
            if title.endswith(": list"):
                wait_for("is online", home / "silo.log")
            person.types(command)
            if title == "silo: a directory":
                silo.place = home / "user" / "va"
                hand_over(DATA / "processed.va.data", silo.place)
            elif title == "coordinator: invite":
                hand_over(home / "va.invitation.json", silo.place)
        assert re.search(r"va\s.*admitted", operator.said), operator.said
        # What the node is, and what it left behind.
        (service,) = (each for each in supervisor.services if each.name == "silo")
        below = psutil.Process(service.process.pid).children(recursive=True)
        node = [each for each in below if "silos.node" in each.cmdline() and each.name() != "bash"]
        warm = [each for each in below if "silos.node.warm" in " ".join(each.cmdline())]
        assert node
        assert warm
        for each in (*node, *warm):
            assert set(each.uids()) == {os.geteuid() or NOBODY}
        owners = {each.stat().st_uid for each in silo.place.rglob("*")}
        assert owners == {os.geteuid() or NOBODY}
        for name in ("silo.key", "signing.key", "state.db", "policy.yaml", "silo.yaml"):
            assert stat.S_IMODE((silo.place / name).stat().st_mode) == 0o600, name
        node[-1].send_signal(signal.SIGTERM)
        node[-1].wait(30)


def hand_over(file: Path, place: Path) -> None:
    shutil.copyfile(file, place / file.name)
    if os.geteuid() == 0:
        os.chown(place / file.name, NOBODY, NOBODY)


def test_the_consents_of_the_page_are_valid() -> None:
    (text,) = re.findall(r'```yaml title="silo.yaml with consents"\n(.*?)```', PAGE, re.DOTALL)
    config = parse(SiloConfig, yaml.safe_load(text), where="the page")
    assert config.consent["patients"].columns == (
        "pid", "purpose", "signed", "valid_until", "withdrawn",
    )  # fmt: skip
