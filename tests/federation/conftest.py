"""Real processes: the demo as a person starts it, watched from outside."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from isolated import interpreter

AUDIT = Path(__file__).parent / "audit"
CONSILO = Path(sys.executable).parent / "consilo"


@dataclass
class Watched:
    """A command line that a test started, with a mark that all its processes inherit."""

    process: subprocess.Popen[str]
    mark: str
    audit_log: Path

    def living(self) -> list[str]:
        """Return the command lines of living processes that carry the mark."""
        return living(self.mark)


def living(mark: str) -> list[str]:
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"CONSILO_TEST_MARK={mark}".encode() in (place / "environ").read_bytes():
                state = (place / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z":
                    found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode())
    return found


def start(arguments: list[str], folder: Path, **extra: str) -> Watched:
    mark, log = uuid.uuid4().hex, folder / "audit.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(AUDIT),
        "CONSILO_AUDIT_LOG": str(log),
        "CONSILO_TEST_MARK": mark,
        **extra,
    }
    process = subprocess.Popen(
        [_watched_python(folder), str(CONSILO), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
        start_new_session=True,
    )
    return Watched(process, mark, log)


def _watched_python(folder: Path) -> str:
    """Return an interpreter that loads the audit also where it starts isolated."""
    return interpreter(folder / "python", AUDIT)


def run(arguments: list[str], folder: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    watched = start(arguments, folder, **extra)
    try:
        out, err = watched.process.communicate(timeout=280)
    finally:
        end(watched)
    return subprocess.CompletedProcess(arguments, watched.process.returncode, out, err)


def end(watched: Watched) -> None:
    """Stop what a test has left, by its process group."""
    if watched.process.poll() is None:
        os.killpg(watched.process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            watched.process.wait(20)


def wait_for(condition: Any, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


@dataclass
class KeptDemo:
    """A demo that has run and keeps its services up."""

    summary: Mapping[str, Any]
    home: Path
    watched: Watched
    messages: Path


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KeptDemo]:
    """``consilo demo --keep --json`` in a fresh directory, once for all tests of this tier."""
    with kept_demo(tmp_path_factory.mktemp("demo"), "--rounds", "4") as kept:
        yield kept


@contextlib.contextmanager
def kept_demo(folder: Path, *options: str) -> Iterator[KeptDemo]:
    """Run ``consilo demo --keep --json`` with options; its services stay up within the block."""
    home, out, err = folder / "work", folder / "out.json", folder / "err.txt"
    mark, log = uuid.uuid4().hex, folder / "audit.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(AUDIT),
        "CONSILO_AUDIT_LOG": str(log),
        "CONSILO_TEST_MARK": mark,
    }
    with out.open("w") as stdout, err.open("w") as stderr:
        process = subprocess.Popen(
            [
                _watched_python(folder),
                str(CONSILO),
                "demo",
                "--keep",
                "--json",
                "--dir",
                str(home),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            env=environment,
            cwd=folder,
            start_new_session=True,
        )
    watched = Watched(process, mark, log)
    try:
        done = wait_for(lambda: out.read_text().endswith("}\n") or process.poll() is not None, 280)
        assert done, f"the demo did not finish:\n{err.read_text()[-3000:]}"
        assert process.poll() is None, f"the demo ended:\n{err.read_text()[-3000:]}"
        yield KeptDemo(json.loads(out.read_text()), home, watched, err)
        assert process.poll() is None, f"ended by itself with {process.returncode}"
    finally:
        end(watched)


def values_of(table: pd.DataFrame) -> tuple[set[bytes], set[bytes]]:
    """Return the measurements of a table, as text and in binary, that nothing else looks like."""
    told: set[bytes] = set()
    binary: set[bytes] = set()
    for value in table.select_dtypes("float64").to_numpy().ravel().tolist():
        digits = repr(value).replace(".", "").strip("0")
        # So many digits are more than a figure elsewhere would share by chance.
        if len(digits) >= 5:
            told.add(repr(value).encode())
        if len(digits) >= 4:
            binary.add(struct.pack("<d", value))
    return told, binary


def require_held_by_silos_only(home: Path, told: set[bytes], binary: set[bytes]) -> None:
    """Fail where a file below ``home``, outside of the silos, holds one of the values."""
    looked = 0
    for place in home.rglob("*"):
        if not place.is_file() or (home / "silos") in place.parents:
            continue
        content = place.read_bytes()
        looked += 1
        found = told & set(re.findall(rb"[A-Za-z0-9.]+", content))
        aligned = {content[at : at + 8] for at in range(0, len(content), 8)}
        assert not found, f"{place} holds {len(found)} values of rows"
        assert not binary & aligned, f"{place} holds values of rows in binary"
    assert looked > 20
