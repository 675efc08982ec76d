"""A lease is one process's at a time; one that hangs is ended before another has it."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from consilo.machine.leases import BEAT_S, holder, hung, is_held, leased
from consilo.machine.locks import Held

HOLDS = """
import sys, time
from pathlib import Path
from consilo.machine.leases import leased
with leased(Path(sys.argv[1]), run="study"):
    print("held", flush=True)
    time.sleep(120)
"""


@contextmanager
def holding_it(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def test_one_process_holds_it_and_says_what_for(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with leased(path, run="study"):
        assert is_held(path)
        assert holder(path).pid == os.getpid()
        assert holder(path).about == {"run": "study"}
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(Held, match=f"process {os.getpid()}"), leased(path):
            pass
    assert not is_held(path)


def test_a_holder_that_stirs_keeps_it_and_a_dead_one_does_not(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with holding_it(path) as process:
        with pytest.raises(Held, match=f"process {process.pid}"), leased(path):
            pass
        assert process.poll() is None
        process.kill()
        process.wait(10)
        assert not is_held(path)
        with leased(path, run="x"):
            assert holder(path).pid == os.getpid()


def test_a_stopped_holder_is_ended_once_its_lease_is_over_and_not_before(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with holding_it(path) as process:
        process.send_signal(signal.SIGSTOP)
        began = holder(path).beat
        with leased(path, lease_s=BEAT_S + 1):
            assert time.monotonic() - began >= BEAT_S + 1
            assert process.wait(10) == -signal.SIGKILL
            assert holder(path).pid == os.getpid()


def test_one_that_stirs_at_the_second_look_is_left_alone(tmp_path: Path) -> None:
    """A machine that was stopped altogether wakes: its processes have not stirred for long."""
    path = tmp_path / "owner.json"
    with holding_it(path) as process:
        process.send_signal(signal.SIGSTOP)
        time.sleep(BEAT_S + 1.5)
        assert holder(path).still_s >= BEAT_S + 1
        threading.Timer(0.2, process.send_signal, [signal.SIGCONT]).start()
        assert hung(path, lease_s=BEAT_S + 1) is None
        assert process.poll() is None


def test_nobody_else_is_killed_who_got_the_number_of_a_holder(tmp_path: Path) -> None:
    """A process's number is given again; another machine has the same numbers."""
    path = tmp_path / "owner.json"
    with holding_it(path) as process:
        told = holder(path)
    assert not told.is_here
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        for other in ({"pid": bystander.pid}, {"pid": bystander.pid, "boot": "elsewhere"}):
            told.__class__(**{**told.__dict__, **other}).kill()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait(10)
    assert process.returncode == -signal.SIGKILL


def test_who_let_go_of_it_is_not_ended_for_what_another_holds(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with leased(path, run="study"):
        pass
    assert holder(path).about == {"run": "study"}
    assert not holder(path).is_here


def test_who_only_looks_at_it_keeps_nobody_from_taking_it(tmp_path: Path) -> None:
    path = tmp_path / "owner.json"
    with holding_it(path) as process:
        process.kill()
        process.wait(10)
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # as `is_held` does, for a moment
        timer = threading.Timer(0.2, fcntl.flock, (file, fcntl.LOCK_UN))
        timer.start()
        with leased(path):
            assert holder(path).pid == os.getpid()
        timer.join()
