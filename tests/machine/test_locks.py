import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import Timeout

from consilo.machine.locks import Held, file_lock, holding, lock_open

HOLD = """
import sys
from pathlib import Path
from consilo.machine.locks import Held, file_lock, holding, lock_open

path = Path(sys.argv[1])
file = path.open("r+b")
held = lock_open(file) if sys.argv[2] == "file" else file_lock(path).acquire()
print("held", flush=True)
sys.stdin.read()
"""


def holder(path: Path, kind: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HOLD, str(path), kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_a_lock_file_is_its_owners_alone_and_stays(tmp_path):
    before = os.umask(0)
    try:
        with file_lock(tmp_path / "lock"):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["path", "file"])
def test_a_lock_keeps_other_processes_out_until_its_holder_is_killed(tmp_path, kind):
    path = tmp_path / "lock"
    path.write_bytes(b"content")
    with holder(path, kind) as process:
        with pytest.raises(Timeout):
            file_lock(path, timeout_s=0).acquire()
        process.kill()
    with file_lock(path):
        assert path.read_bytes() == b"content"


def test_an_open_file_is_locked_until_it_is_closed(tmp_path):
    path = tmp_path / "log"
    with path.open("wb") as file:
        lock_open(file)
        with pytest.raises(Timeout):
            file_lock(path, timeout_s=0).acquire()
    with path.open("rb") as file:
        lock_open(file)


HOLDS = """
import sys
from pathlib import Path
from consilo.machine.locks import holding

with holding(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_who_holds_a_file_is_told_until_it_dies(tmp_path):
    place = tmp_path / "up.lock"
    command = [sys.executable, "-c", HOLDS, str(place)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == b"held\n"
    for _ in range(2):  # asking takes nothing away
        with pytest.raises(Held) as caught, holding(place):
            pass
        assert caught.value.pid == process.pid
        assert caught.value.since.startswith("20")
    process.kill()
    process.wait(10)
    assert str(process.pid) in place.read_text()  # stale words; nobody holds it
    with holding(place), pytest.raises(Held) as caught, holding(place):
        pass
    assert caught.value.pid == os.getpid()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    process.stdin.close()
    process.stdout.close()


def test_a_lock_file_that_says_nothing_is_held_all_the_same(tmp_path):
    place = tmp_path / "up.lock"
    with holding(place):
        place.write_text("{")
        with pytest.raises(Held, match="unknown"), holding(place):
            pass
