"""A log that a process writes to stays within its bound, whoever opened it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from consilo.machine.logs import turn_over, turn_over_own
from consilo.machine.processes import Supervisor


def test_a_log_that_is_written_to_stays_within_its_bound(tmp_path: Path) -> None:
    writes = "import time\nfor n in range(10**9): print(n, 'x' * 90, flush=True); time.sleep(1e-4)"
    log = tmp_path / "log"
    most = 64 << 10
    with Supervisor() as supervisor:
        supervisor.start("writer", [sys.executable, "-c", writes], log=log)
        turned, largest, deadline = 0, 0, time.monotonic() + 30
        while turned < 3 and time.monotonic() < deadline:
            largest = max(largest, log.stat().st_size)
            turned += len(turn_over([log, tmp_path / "none"], most_bytes=most))
            time.sleep(0.02)
        time.sleep(0.2)
        assert log.stat().st_size > 0
    assert turned == 3
    assert not log.read_bytes().startswith(b"\0")  # it goes on at the beginning
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log", "log.1"]
    assert log.with_name("log.1").stat().st_mode & 0o777 == 0o600
    assert os.path.getsize(tmp_path / "log.1") >= most


def test_a_process_turns_over_the_file_that_its_output_is_appended_to(tmp_path: Path) -> None:
    log, other = tmp_path / "node.log", tmp_path / "other.log"
    with log.open("ab") as appended, other.open("wb") as written:
        for file in (appended, written):
            file.write(b"x" * 100)
            file.flush()
        reader, writer = os.pipe()
        assert not turn_over_own(appended.fileno(), most_bytes=100)
        assert turn_over_own(appended.fileno(), most_bytes=99)
        assert not turn_over_own(written.fileno(), most_bytes=1)  # it would go on where it was
        assert not turn_over_own(writer, most_bytes=1)
        appended.write(b"y")
    os.close(reader)
    os.close(writer)
    assert log.read_bytes() == b"y"
    assert log.with_name("node.log.1").read_bytes() == b"x" * 100
    assert other.read_bytes() == b"x" * 100
