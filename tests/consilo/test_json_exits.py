"""With ``--json`` a command prints one document on every exit, and says the true cause."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

COMMAND = (sys.executable, "-c", "from consilo.cli import main; main()")


def typed(words: str, **settings):
    return subprocess.run(
        [*COMMAND, *words.split()], capture_output=True, text=True, timeout=120, **settings
    )


def document(done) -> dict:
    lines = done.stdout.splitlines()
    assert len(lines) == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return json.loads(lines[0])


FAILS = (
    "job validate nowhere.yaml",
    "job run nowhere.yaml --dir coordinator",
    "job plan nowhere.yaml --dir coordinator",
    "job extend nobody --rounds 3 --dir coordinator",
    "job run nowhere.yaml --silos silos",
    "run show nowhere",
    "run verify nowhere",
    "match run nowhere.yaml --dir coordinator",
    "silos list --dir nowhere",
    "silo check clinic@1 --dir nowhere",
    "silo preflight --dir nowhere",
    "predict --model nowhere",
)


@pytest.mark.parametrize("words", FAILS)
def test_a_command_that_fails_prints_why(words, tmp_path):
    done = typed(f"{words} --json", cwd=tmp_path)
    told = document(done)
    assert done.returncode in (1, 2)
    if "status" in told:
        assert told["status"] in ("failed", "refused")
        assert told["reason"]
    else:  # its own document of a check that failed
        assert told


@pytest.mark.parametrize("words", ["job run", "job validate", "run verify", "job extend RUN"])
def test_wrong_usage_prints_what_is_wrong(words, tmp_path):
    done = typed(f"{words} --json", cwd=tmp_path)
    told = document(done)
    assert (done.returncode, told["status"], told["error"]) == (2, "refused", "Usage")
    assert "Missing" in told["reason"]


def test_without_the_flag_nothing_is_on_standard_output(tmp_path):
    done = typed("job validate nowhere.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: job nowhere.yaml")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_prints_that(tmp_path, number, code):
    (tmp_path / "job.yaml").write_text("name: a\n")
    os.mkfifo(tmp_path / "contract.yaml")
    waits = [*COMMAND, "job", "validate", "contract.yaml", "--json"]  # a pipe nobody writes to
    process = subprocess.Popen(waits, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    end, writer = time.monotonic() + 60, None
    while writer is None:  # it can be opened once the command has begun to read
        assert time.monotonic() < end
        time.sleep(0.05)
        with contextlib.suppress(OSError):
            writer = os.open(tmp_path / "contract.yaml", os.O_WRONLY | os.O_NONBLOCK)
    process.send_signal(number)
    out, _ = process.communicate(timeout=30)
    os.close(writer)
    assert process.returncode == code
    assert json.loads(out)["status"] == "cancelled"
